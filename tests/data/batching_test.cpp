#include <algorithm>
#include <array>
#include <numeric>
#include <set>

#include "data/batches/batching.h"
#include "engine/core/random/rng.h"
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

// A view of memory of the test's own.
BatchView view_of(PackedBatch& m, int64_t tokens, int64_t sequences) {
  BatchView view;
  view.ids = m.ids.data(), view.offsets = m.offsets.data(), view.lengths = m.lengths.data(),
  view.labels = m.labels.data();
  view.token_capacity = tokens, view.sequence_capacity = sequences;
  return view;
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
    }
  }
  options.padded_length = 5;
  EXPECT(
      contains(error_of([&] { BatchPlan(split, options); }), "row 4 has 6 tokens, more than the padded length 5"));
  options.pad_id = -1;
  EXPECT(contains(error_of([&] { BatchPlan(split, options); }), "wants a [PAD] token"));
}

TEST_CASE("row order: the stable order of the indices, in pieces that end at every 32nd place") {
  const int64_t n = 70;
  for (const int64_t count : {0, 1, 31, 500}) {
    INFO(count);
    std::vector<int32_t> index;
    for (int64_t m = 0; m < count; ++m)
      index.push_back(m % 3 ? 17
                            : static_cast<int32_t>(random_below(n + 2, 8, purpose::kTest, 0, m)) -
                                  1);  // −1 and n are nobody
    std::vector<int32_t> wanted;
    for (int32_t row = 0; row < n; ++row)
      for (int32_t m = 0; m < count; ++m)
        if (index[m] == row) wanted.push_back(m);
    std::vector<int32_t> entries(static_cast<size_t>(count)), touched(static_cast<size_t>(touched_words(n)), -1);
    std::vector<std::array<int32_t, 2>> pieces(static_cast<size_t>(most_pieces(count, n)));
    int32_t used = -1;
    order_rows(index.data(), count, n, {entries.data(), pieces.data()->data(), touched.data(), &used});
    entries.resize(wanted.size());
    EXPECT(entries == wanted);
    REQUIRE(used < static_cast<int32_t>(pieces.size()));
    EXPECT(pieces[used] == std::array{-1, static_cast<int32_t>(wanted.size())});
    std::vector<std::array<int32_t, 2>> expected;
    for (int32_t e = 0; e < static_cast<int32_t>(wanted.size()); ++e)
      if (e % 32 == 0 || index[wanted[e]] != index[wanted[e - 1]]) expected.push_back({index[wanted[e]], e});
    pieces.resize(static_cast<size_t>(used));
    EXPECT(pieces == expected);
    for (int32_t row = 0; row < 32 * static_cast<int32_t>(touched.size()); ++row)
      EXPECT((static_cast<uint32_t>(touched[row / 32]) >> row % 32 & 1) ==
             (std::count(index.begin(), index.end(), row) > 0 && row < n));
  }
}

TEST_CASE("data batches: fill() orders the ids where it is told how many there are") {
  const TokenSplit split = toy(12);
  BatchOptions options;
  options.batch_size = 6;
  const BatchPlan plan(split, options);
  PackedBatch memory = plan.make(1);
  const int64_t vocabulary = 2000, tokens = memory.tokens;
  std::vector<int32_t> entries(static_cast<size_t>(tokens)),
      pieces(2 * static_cast<size_t>(most_pieces(tokens, vocabulary))),
      touched(static_cast<size_t>(touched_words(vocabulary)));
  int32_t count = 0;
  BatchView view = view_of(memory, tokens, 6);
  view.order = {entries.data(), pieces.data(), touched.data(), &count}, view.vocabulary = vocabulary;
  plan.fill(1, view);
  EXPECT(count == tokens);  // toy's ids differ
  for (int64_t i = 0; i < tokens; ++i) EXPECT(pieces[2 * i] == memory.ids[entries[i]]);
  EXPECT(std::is_sorted(entries.begin(), entries.end(),
                        [&](int32_t a, int32_t b) { return memory.ids[a] < memory.ids[b]; }));
}

TEST_CASE("data batches: fill() refuses memory that is too small") {
  const TokenSplit split = toy(6);
  BatchOptions options;
  options.batch_size = 6;
  const BatchPlan plan(split, options);
  PackedBatch memory = plan.make(0);
  BatchView view = view_of(memory, plan.tokens(0) - 1, 6);
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
      m.ids.resize(static_cast<size_t>(room)), m.offsets.resize(8), m.lengths.resize(7), m.labels.resize(7);
      slots.push_back(view_of(m, room, 7));
    }
    Prefetcher prefetcher(plans, slots, first);
    int64_t count = 0;
    for (int64_t p = 0; p < 3; ++p)
      for (int64_t b = p == 0 ? first : 0; b < plans[static_cast<size_t>(p)].batches(); ++b) {
        const auto ready = prefetcher.next();
        REQUIRE(ready.has_value());
        REQUIRE(ready->batch == count++);
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
  Prefetcher prefetcher(plans, {view_of(memory, 1, 7)});
  EXPECT(contains(error_of([&] { prefetcher.next(); }), "wants room for"));
}
