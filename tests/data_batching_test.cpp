#include <numeric>
#include <set>

#include "data/batching.h"
#include "tests/test.h"

using namespace glia;
using glia::test::contains;
using glia::test::error_of;

namespace {

// Row r: 2 + r % 5 tokens, 100 r + position.
TokenSplit toy(int64_t rows) {
  TokenSplit split;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < 2 + r % 5; ++i) split.ids.push_back(static_cast<int32_t>(100 * r + i));
    split.offsets.push_back(static_cast<int64_t>(split.ids.size()));
    split.labels.push_back(static_cast<int32_t>(r % 3));
  }
  return split;
}

}  // namespace

TEST_CASE("data batches: every row once, contents as in the split") {
  const TokenSplit split = toy(23);
  BatchOptions options;
  options.batch_size = 4;
  options.drop_last = false;
  const BatchPlan plan(split, options);
  EXPECT(plan.batches() == 6);
  std::set<int32_t> seen;
  int64_t tokens = 0;
  for (int64_t b = 0; b < plan.batches(); ++b) {
    const PackedBatch batch = plan.make(b);
    EXPECT(batch.tokens == plan.tokens(b));
    EXPECT(batch.sequences == plan.sequences(b));
    EXPECT(batch.sequences == (b < 5 ? 4 : 3));
    EXPECT(batch.offsets.front() == 0);
    EXPECT(batch.offsets.back() == batch.tokens);
    tokens += batch.tokens;
    for (int64_t s = 0; s < batch.sequences; ++s) {
      const int32_t row = plan.rows(b)[static_cast<size_t>(s)];
      seen.insert(row);
      EXPECT(batch.labels[s] == row % 3);
      EXPECT(batch.lengths[s] == 2 + row % 5);
      EXPECT(batch.offsets[s + 1] - batch.offsets[s] == batch.lengths[s]);
      for (int32_t i = 0; i < batch.lengths[s]; ++i) {
        EXPECT(batch.ids[batch.offsets[s] + i] == 100 * row + i);
        EXPECT(batch.positions[batch.offsets[s] + i] == i);
      }
    }
  }
  EXPECT(seen.size() == 23);
  EXPECT(tokens == split.tokens());
  EXPECT(plan.total_tokens() == tokens);
}

TEST_CASE("data batches: the order depends on seed and epoch, and on nothing else") {
  const TokenSplit split = toy(50);
  BatchOptions options;
  options.batch_size = 8;
  const auto order = [&](uint64_t seed, int64_t epoch) {
    options.seed = seed, options.epoch = epoch;
    const BatchPlan plan(split, options);
    std::vector<int32_t> rows;
    for (int64_t b = 0; b < plan.batches(); ++b) rows.insert(rows.end(), plan.rows(b).begin(), plan.rows(b).end());
    return rows;
  };
  EXPECT(order(42, 0) == order(42, 0));
  EXPECT(order(42, 0) != order(42, 1));
  EXPECT(order(42, 0) != order(43, 0));
  EXPECT(order(42, 0).size() == 48);  // drop_last
  options.shuffle = false;
  std::vector<int32_t> in_order(48);
  std::iota(in_order.begin(), in_order.end(), 0);
  EXPECT(order(42, 0) == in_order);
}

TEST_CASE("data batches: padded layout") {
  const TokenSplit split = toy(6);
  BatchOptions options;
  options.batch_size = 3;
  options.layout = BatchLayout::kPadded;
  options.padded_length = 7;
  options.pad_id = 9;
  const BatchPlan plan(split, options);
  const PackedBatch batch = plan.make(1);
  EXPECT(batch.tokens == 21);
  EXPECT(plan.max_tokens() == 21);
  for (int32_t s = 0; s < 3; ++s) {
    EXPECT(batch.offsets[s] == 7 * s);
    const int32_t row = plan.rows(1)[static_cast<size_t>(s)];
    EXPECT(batch.lengths[s] == 2 + row % 5);
    for (int32_t i = 0; i < 7; ++i) {
      EXPECT(batch.ids[7 * s + i] == (i < batch.lengths[s] ? 100 * row + i : 9));
      EXPECT(batch.positions[7 * s + i] == i);
    }
  }
  options.padded_length = 5;
  EXPECT(
      contains(error_of([&] { BatchPlan(split, options); }), "row 4 has 6 tokens, more than the padded length 5"));
  options.pad_id = -1;
  EXPECT(contains(error_of([&] { BatchPlan(split, options); }), "wants a [PAD] token"));
}

TEST_CASE("data batches: fill() refuses memory that is too small") {
  const TokenSplit split = toy(6);
  BatchOptions options;
  options.batch_size = 6;
  const BatchPlan plan(split, options);
  PackedBatch memory = plan.make(0);
  BatchView view{memory.ids.data(),
                 memory.positions.data(),
                 memory.offsets.data(),
                 memory.lengths.data(),
                 memory.labels.data(),
                 plan.tokens(0) - 1,
                 6};
  EXPECT(contains(error_of([&] { plan.fill(0, view); }), "wants room for"));
  EXPECT(contains(error_of([&] { plan.make(1); }), "wants a batch below 1, got 1"));
}

TEST_CASE("data batches: the prefetcher gives what make() gives, in order, from any first batch") {
  const TokenSplit split = toy(100);
  BatchOptions options;
  options.batch_size = 7;
  options.seed = 3;
  const std::vector<BatchPlan> plans = plan_run(split, options, 3);
  const int64_t room = max_tokens(plans);
  for (const int64_t first : {0, 5}) {
    std::vector<PackedBatch> memory(2);
    std::vector<BatchView> slots;
    for (PackedBatch& m : memory) {
      m.ids.resize(static_cast<size_t>(room)), m.positions.resize(static_cast<size_t>(room));
      m.offsets.resize(8), m.lengths.resize(7), m.labels.resize(7);
      slots.push_back(
          {m.ids.data(), m.positions.data(), m.offsets.data(), m.lengths.data(), m.labels.data(), room, 7});
    }
    Prefetcher prefetcher(plans, slots, first);
    for (int64_t p = 0; p < 3; ++p)
      for (int64_t b = p == 0 ? first : 0; b < plans[static_cast<size_t>(p)].batches(); ++b) {
        const auto ready = prefetcher.next();
        REQUIRE(ready.has_value());
        REQUIRE(ready->plan == p);
        REQUIRE(ready->batch == b);
        const PackedBatch wanted = plans[static_cast<size_t>(p)].make(b);
        REQUIRE(ready->view.tokens == wanted.tokens);
        REQUIRE(std::equal(wanted.ids.begin(), wanted.ids.end(), ready->view.ids));
        REQUIRE(std::equal(wanted.offsets.begin(), wanted.offsets.end(), ready->view.offsets));
        REQUIRE(std::equal(wanted.labels.begin(), wanted.labels.end(), ready->view.labels));
        prefetcher.release(ready->slot);
      }
    EXPECT(!prefetcher.next().has_value());
  }
}

TEST_CASE("data batches: the prefetcher passes on errors, and may be dropped half way") {
  const TokenSplit split = toy(100);
  BatchOptions options;
  options.batch_size = 7;
  const std::vector<BatchPlan> plans = plan_run(split, options, 1);
  PackedBatch memory = plans[0].make(0);
  const BatchView small{memory.ids.data(),
                        memory.positions.data(),
                        memory.offsets.data(),
                        memory.lengths.data(),
                        memory.labels.data(),
                        1,
                        7};
  Prefetcher prefetcher(plans, {small});
  EXPECT(contains(error_of([&] { prefetcher.next(); }), "wants room for"));
}
