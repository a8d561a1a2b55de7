// Small models and batches for the tests of nn/ and moe/.
#pragma once
#include <cmath>
#include <cstdlib>
#include <numeric>
#include <vector>

#include "moe/model.h"
#include "tests/test.h"

namespace glia::test {

// GLIA_TEST_DEVICE=cuda runs the same tests on the GPU.
inline Device test_device() {
  const char* name = std::getenv("GLIA_TEST_DEVICE");
  return name && *name ? Device::parse(name) : Device::cpu();
}

// The first router of the registry that has what a test needs: outside tests/moe/routers no test names one.
template <class Fits> std::string router_where(const Fits& fits) {
  for (const RouterRow& row : router_registry())
    if (fits(row)) return row.name;
  FAIL("no router of the registry has what this test needs");
  return "";
}
inline bool is_plain(const RouterTraits& t) {
  return t.gates_sum_to_one && t.fixed_k && t.experts_permutable && !t.untrained && !t.stateful && !t.needs_labels;
}
// K experts a token, gates that sum to 1, one linear map of the token.
inline std::string plain_router() {
  return router_where([](const RouterRow& row) { return is_plain(row.traits) && row.options.empty(); });
}
// As plain, but that it reads more of the sequence than the token: its parameters are more than one map's.
inline std::string context_router() {
  return router_where([](const RouterRow& row) {
    ParameterSet set;
    const auto router = make_router(row.name, set, "r", {8, 4, 2});
    return is_plain(row.traits) && row.options.empty() && set.all().size() > 2;
  });
}
inline std::string router_with_option(const std::string& option) {
  return router_where([&](const RouterRow& row) {
    return std::any_of(row.options.begin(), row.options.end(),
                       [&](const OptionRow& o) { return o.name == option; });
  });
}

// L = 2, H = 8, A = 2, F = 16, C = 3; weights large enough for the experts to differ. "MIXTURE:ROUTER": that router in
// that mixture.
inline ModelConfig tiny_config(const std::string& router, DType compute = DType::kFloat64) {
  ModelConfig c;
  c.bert.layers = 2, c.bert.hidden = 8, c.bert.heads = 2, c.bert.ffn = 16;
  c.bert.vocabulary = 40, c.bert.positions = 16, c.bert.classes = 3;
  c.bert.dropout = 0, c.bert.init_std = 0.4;
  c.moe.router = router, c.moe.n_experts = 4, c.moe.top_k = 2, c.moe.balance = 0.1, c.moe.energy = 0.2;
  if (const size_t colon = router.find(':'); colon != std::string::npos) {
    c.moe.router = router.substr(colon + 1);
    c.moe.options.set("mixture", router.substr(0, colon));
  }
  c.compute = compute;
  return c;
}

// Sequences of these lengths, packed; capacity > Σ lengths leaves a tail. Ids and labels depend on (seed, sequence,
// place) only.
inline Batch tiny_batch(Context& context, const std::vector<int32_t>& lengths, const BertConfig& bert,
                        uint64_t seed = 1, int64_t capacity = 0, const std::vector<int32_t>& key_lengths = {}) {
  Batch b;
  b.sequences = make_sequences(context, lengths, capacity, key_lengths);
  std::vector<int32_t> ids(static_cast<size_t>(b.sequences.tokens)), labels;
  size_t t = 0;
  for (size_t i = 0; i < lengths.size(); ++i) {
    for (int32_t p = 0; p < lengths[i]; ++p, ++t)
      ids[t] = static_cast<int32_t>(
          random_below(static_cast<uint64_t>(bert.vocabulary), seed, purpose::kTest, static_cast<uint32_t>(i), p));
    labels.push_back(
        static_cast<int32_t>(random_below(static_cast<uint64_t>(bert.classes), seed, purpose::kTest + 1, 0, i)));
  }
  const auto tokens = static_cast<int64_t>(ids.size()), count = static_cast<int64_t>(labels.size());
  b.ids = from_vector(context, ids, {tokens});
  b.labels = from_vector(context, labels, {count});
  return b;
}

inline std::vector<double> values(const Tensor& t) { return t.to_vector<double>(); }

inline double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i)
    worst = std::isnan(a[i] - b[i]) ? INFINITY : std::max(worst, std::abs(a[i] - b[i]));
  return worst;
}

inline double largest(const std::vector<double>& a) {
  double worst = 0;
  for (const double x : a) worst = std::max(worst, std::abs(x));
  return worst;
}

}  // namespace glia::test
