// A bag of n-grams against plain loops.
#include "nn/bag.h"

#include <set>

#include "engine/ops/sequences/ngrams.h"
#include "tests/nn/helpers.h"

namespace glia::test {
namespace {

std::vector<int32_t> rows(Context& context, const std::vector<int32_t>& ids, const Sequences& q, int64_t n,
                          int64_t buckets) {
  const auto size = static_cast<int64_t>(ids.size());
  return ngram_rows(from_vector(context, ids, {size}), q, n, buckets).to_vector<int32_t>();
}

TEST_CASE(
    "ngrams: equal ones share a row wherever they stand, none reaches into the sequence before, or the tail") {
  Context context(test_device());
  const Sequences q = make_sequences(context, {4, 1, 3}, 10);
  const std::vector<int32_t> ids = {7, 3, 7, 3, 5, 7, 3, 7, -1, -1};
  const std::vector<int32_t> pairs = rows(context, ids, q, 2, 1 << 20), triples = rows(context, ids, q, 3, 1 << 20);
  for (const int t : {0, 4, 5, 8, 9}) EXPECT(pairs[size_t(t)] == -1);
  for (const int t : {0, 1, 4, 5, 6, 8, 9}) EXPECT(triples[size_t(t)] == -1);
  EXPECT((pairs[1] == pairs[3] && pairs[1] == pairs[6]));  // 7 3
  EXPECT((pairs[2] == pairs[7] && pairs[2] != pairs[1]));  // 3 7: the order counts
  EXPECT((triples[2] == triples[7] && triples[3] != triples[2] && triples[2] != pairs[2]));
}

TEST_CASE("ngrams: rows lie within the buckets and are spread over them") {
  Context context(test_device());
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < 4097; ++i) ids.push_back(i * 7 % 30522);
  const Sequences q = make_sequences(context, {4097});
  const std::vector<int32_t> found = rows(context, ids, q, 2, 4096);
  std::set<int32_t> used(found.begin() + 1, found.end());
  EXPECT((*used.begin() >= 0 && *used.rbegin() < 4096));
  // 4,096 draws of 4,096 leave 1 / e of them out.
  EXPECT((used.size() > 4096 * 0.60 && used.size() < 4096 * 0.66));
  for (const int32_t row : rows(context, ids, q, 5, 1)) EXPECT((row == 0 || row == -1));
  EXPECT(contains(error_of([&] { rows(context, ids, q, 1, 8); }), "wants n >= 2"));
}

TEST_CASE("bag: the logits are those of a loop over tokens and n-grams") {
  Context context(test_device());
  ModelConfig config = tiny_config("none");
  config.bag = {3, 37};
  const Model model(context, config, 5);
  const Batch batch = tiny_batch(context, {6, 2, 1}, config.bert, 3, 12);
  const ParameterSet& set = model.parameters();
  const auto numbers = [&](const char* name) { return values(set.get(name).var.value()); };
  const std::vector<double> tables[3] = {numbers("embeddings.word.weight"), numbers("embeddings.ngram.2.weight"),
                                         numbers("embeddings.ngram.3.weight")};
  const std::vector<double> weight = numbers("classifier.weight"),
                            got = values(model.forward(batch, false).logits.value());
  const std::vector<int32_t> at[3] = {batch.ids.to_vector<int32_t>(),
                                      ngram_rows(batch.ids, batch.sequences, 2, 37).to_vector<int32_t>(),
                                      ngram_rows(batch.ids, batch.sequences, 3, 37).to_vector<int32_t>()};
  const std::vector<int32_t> offsets = batch.sequences.offsets.to_vector<int32_t>();
  const auto H = static_cast<size_t>(config.bert.hidden), C = static_cast<size_t>(config.bert.classes);
  for (size_t b = 0; b < 3; ++b) {
    std::vector<double> mean(H, 0.0);
    for (int32_t t = offsets[b]; t < offsets[b + 1]; ++t)
      for (int n = 0; n < 3; ++n)
        if (const int32_t row = at[n][size_t(t)]; row >= 0)
          for (size_t h = 0; h < H; ++h) mean[h] += tables[n][size_t(row) * H + h] / (offsets[b + 1] - offsets[b]);
    for (size_t c = 0; c < C; ++c) {
      double logit = 0;  // the bias is 0 at the start
      for (size_t h = 0; h < H; ++h) logit += weight[c * H + h] * mean[h];
      EXPECT(std::abs(got[b * C + c] - logit) < 1e-12);
    }
  }
}

TEST_CASE("bag: it has no layers to look into, and says so") {
  Context context(test_device());
  ModelConfig config = tiny_config("none");
  config.bag = {2, 16};
  const Model model(context, config, 5);
  EXPECT(contains(error_of([&] { model.bert(); }), "bag of n-grams"));
}

}  // namespace
}  // namespace glia::test
