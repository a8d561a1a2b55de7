#include "experiments/language/generate.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engine/core/clock.h"
#include "engine/core/random/rng.h"

namespace glia {
namespace {

constexpr uint32_t kSampling = purpose::kShuffle + 3;  // a stream of its own

// How many of the ordered weights are needed to reach `share` of all.
size_t reaching(const std::vector<double>& weights, double share) {
  const double all = std::accumulate(weights.begin(), weights.end(), 0.0);
  double sum = 0;
  for (size_t i = 0; i < weights.size(); ++i)
    if ((sum += weights[i]) >= share * all) return i + 1;
  return weights.size();
}

// The last row of each layer's routing.
std::vector<Generated::Choice> last_choices(const std::vector<Routing>& layers) {
  std::vector<Generated::Choice> all;
  for (const Routing& r : layers) {
    if (r.n_experts == 0) continue;
    const int64_t last = r.experts.size(0) - 1;
    const auto experts = r.experts.rows(last, last + 1).to_vector<int32_t>();
    const auto gates = r.gates.value().rows(last, last + 1).to_vector<double>();
    Generated::Choice choice;
    for (size_t i = 0; i < experts.size(); ++i)
      if (experts[i] >= 0) choice.experts.push_back(experts[i]), choice.gates.push_back(gates[i]);
    all.push_back(std::move(choice));
  }
  return all;
}

}  // namespace

int32_t sample(std::span<const float> logits, const Sampling& s, uint64_t n) {
  CHECK(!logits.empty() && s.temperature >= 0 && s.top_p > 0 && s.top_p <= 1 && s.top_k >= 0,
        "sample: wants logits, a temperature from 0, top_p in (0, 1] and top_k from 0, got {}, {}, {}, {}",
        logits.size(), s.temperature, s.top_p, s.top_k);
  const auto before = [&](int32_t a, int32_t b) {
    const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x > y || (x == y && a < b);
  };
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  if (s.temperature == 0) return *std::min_element(order.begin(), order.end(), before);
  const size_t kept = s.top_k > 0 ? std::min(logits.size(), static_cast<size_t>(s.top_k)) : logits.size();
  std::partial_sort(order.begin(), order.begin() + static_cast<int64_t>(kept), order.end(), before);
  order.resize(kept);
  const double largest = logits[static_cast<size_t>(order[0])];
  std::vector<double> weights;
  for (const int32_t id : order)
    weights.push_back(std::exp((logits[static_cast<size_t>(id)] - largest) / s.temperature));
  weights.resize(reaching(weights, s.top_p));
  // A number of 53 bits in [0, 1), so that even rare words have their chance.
  const PhiloxBlock r = random_block(s.seed, kSampling, 0, n);
  const double u = static_cast<double>((static_cast<uint64_t>(r.word[0]) << 32 | r.word[1]) >> 11) * 0x1p-53;
  return order[reaching(weights, u) - 1];
}

Generated generate(const LanguageModel& model, const std::string& prompt, int64_t tokens, const Sampling& sampling,
                   bool cached, bool routing) {
  CHECK(tokens >= 0, "generate: wants at least 0 tokens, got {}", tokens);
  Generated g;
  g.prompt = model.ids_of(prompt);
  const auto prompted = static_cast<int64_t>(g.prompt.size());
  const int64_t room = std::min(tokens, model.max_length - prompted);
  const auto border = static_cast<int32_t>(model.reads_borders() ? prompted : 0);
  Continuation text(*model.model, std::min(model.max_length, prompted + room), border, cached);
  const auto begin = Clock::now();
  Tensor logits = text.feed(g.prompt);
  model.model->context().synchronize();
  g.prompt_seconds = seconds_since(begin);
  const auto after_prompt = Clock::now();
  const int32_t end = model.tokenizer.vocabulary().sep();
  while (static_cast<int64_t>(g.words.size()) < room) {
    const std::vector<float> next = logits.to_vector<float>();
    g.words.push_back(sample(next, sampling, g.words.size()));
    g.ended = g.words.back() == end;
    const bool last = g.ended || static_cast<int64_t>(g.words.size()) == room;
    if (last) g.seconds = seconds_since(after_prompt);
    if (last && !routing) break;  // nothing comes behind it, but it has a way through the experts too
    logits = text.feed({&g.words.back(), 1});
    if (routing) g.routing.push_back(last_choices(text.routings()));
    if (last) break;
  }
  return g;
}

}  // namespace glia
