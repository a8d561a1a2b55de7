#include "experiments/analysis/layer_states.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engine/core/check.h"
#include "engine/core/parallel.h"
#include "engine/core/random/rng.h"
#include "engine/ops/moe/moe.h"
#include "experiments/analysis/analysis.h"
#include "moe/layer_walk.h"

namespace glia {
namespace {

using results::LayerCounts;
using results::Matrix;

// W [E, H] as a router draws it.
Tensor random_router(const Model& model, size_t layer, int draw) {
  const int64_t experts = model.config().moe.n_experts, hidden = model.config().bert.hidden;
  std::vector<float> w(static_cast<size_t>(experts * hidden));
  for (size_t i = 0; i < w.size(); ++i)
    w[i] = float(model.config().bert.init_std *
                 random_normal(uint64_t(draw) + 1, purpose::kInit, uint32_t(layer), uint64_t(i)));
  return from_vector(model.context(), w, {experts, hidden}, accumulation_dtype(model.config().compute));
}

// One routing of a batch, added to its counts. The tail behind the topics' rows belongs to nobody.
void add_routing(LayerCounts& counts, const Tensor& experts, const Tensor& gates,
                 const std::vector<int32_t>& topic) {
  const auto e = experts.to_vector<int32_t>();
  const auto g = gates.to_vector<float>();
  results::TokenTrace t;
  t.tokens = int64_t(topic.size()), t.layers = 1, t.slots = int(experts.size(1));
  t.n_experts = counts.n_experts, t.topics = counts.topics;
  const size_t size = topic.size() * size_t(t.slots);
  t.experts = std::span(e).first(size), t.gates = std::span(g).first(size), t.topic = topic;
  counts.add(t);
}

Matrix rows_of(const Tensor& t, int64_t rows) {
  Matrix m(int(rows), int(t.size(1)));
  const std::vector<double> values = t.to_vector<double>();
  std::copy_n(values.begin(), m.values.size(), m.values.begin());
  return m;
}

// Topics of a batch's real tokens.
std::vector<int32_t> topics_of(const Batch& batch) {
  const auto offsets = batch.sequences.offsets.to_vector<int32_t>(), labels = batch.labels.to_vector<int32_t>();
  std::vector<int32_t> topic(static_cast<size_t>(offsets.back()));
  for (size_t b = 0; b < labels.size(); ++b)
    std::fill(topic.begin() + offsets[b], topic.begin() + offsets[b + 1], labels[b]);
  return topic;
}

double specialisation_of(const LayerCounts& counts) {
  return results::specialisation(results::reading_of(counts).all).value_or(std::nan(""));
}

struct Sums {
  LayerCounts own;
  std::vector<LayerCounts> random;
  Matrix similarity = {};
  Sums(int experts, int topics) : own(0, experts, topics), random(kRandomDraws, LayerCounts(0, experts, topics)) {}
};

void add_layer(Sums& sums, const Model& model, const WalkedLayer& layer, const FeedForward::Result& r,
               const std::vector<int32_t>& topic) {
  add_routing(sums.own, r.routing.experts, r.routing.gates.value(), topic);
  for (int draw = 0; draw < kRandomDraws; ++draw) {
    const Var w = random_router(model, layer.number, draw), b = zeros(model.context(), {w.size(0)}, w.dtype());
    const Gates g = top_k_gates(router_logits(layer.h, w, b, {}, ContextMode::kNone, layer.pass.sequences),
                                model.config().moe.top_k, layer.pass.sequences);
    add_routing(sums.random[size_t(draw)], g.experts, g.gates.value(), topic);
  }
  const MoeLayer* moe = find_routed(*layer.layer.feed_forward);
  if (!moe || sums.similarity.rows > 0) return;
  std::vector<Matrix> outputs;
  const int64_t rows = std::min<int64_t>(kSimilarityRows, int64_t(topic.size()));
  for (const Tensor& output : outputs_of_all(*moe, layer.h.value().rows(0, rows)))
    outputs.push_back(rows_of(output, rows));
  sums.similarity = linear_cka(outputs);
}

}  // namespace

std::vector<LayerStates> layer_states(const Model& model, const Evaluator& evaluator, int topics) {
  const int experts = int(model.config().moe.n_experts);
  std::vector<Sums> sums(model.bert().layers.size(), Sums(experts, topics));
  evaluator.for_each_batch([&](const Batch& batch) {
    const std::vector<int32_t> topic = topics_of(batch);
    walk(model, batch, [&](const WalkedLayer& layer, const FeedForward::Result& r) {
      if (!r.routing.experts.defined())
        fail_input("layer {}: has no experts that tokens are sent to", layer.number + 1);
      add_layer(sums[layer.number], model, layer, r, topic);
    });
  });
  std::vector<LayerStates> layers;
  for (Sums& s : sums) {
    LayerStates& out = layers.emplace_back(LayerStates{specialisation_of(s.own), {}, std::move(s.similarity)});
    for (const LayerCounts& random : s.random) out.random.push_back(specialisation_of(random));
  }
  return layers;
}

Matrix linear_cka(const std::vector<Matrix>& outputs) {
  std::vector<Matrix> grams;  // [n, n]: ‖YᵀZ‖² is the sum of the products of Y Yᵀ and Z Zᵀ
  for (Matrix y : outputs) {
    CHECK(y.rows == outputs[0].rows, "CKA: {} rows beside {}", y.rows, outputs[0].rows);
    for (int i = 0; i < y.cols; ++i) {
      double mean = 0;
      for (int r = 0; r < y.rows; ++r) mean += y(r, i) / y.rows;
      for (int r = 0; r < y.rows; ++r) y(r, i) -= mean;
    }
    Matrix& gram = grams.emplace_back(y.rows, y.rows);
    parallel_for(y.rows, 8, [&](int64_t from, int64_t to) {
      for (int a = int(from); a < int(to); ++a)
        for (int b = 0; b < y.rows; ++b)
          gram(a, b) = std::inner_product(&y.values[size_t(a) * size_t(y.cols)],
                                          &y.values[size_t(a) * size_t(y.cols)] + y.cols,
                                          &y.values[size_t(b) * size_t(y.cols)], 0.0);
    });
  }
  const auto product = [](const Matrix& a, const Matrix& b) {
    return std::inner_product(a.values.begin(), a.values.end(), b.values.begin(), 0.0);
  };
  Matrix cka(int(grams.size()), int(grams.size()));
  for (int e = 0; e < cka.rows; ++e)
    for (int f = 0; f < cka.cols; ++f) {
      const double size =
          std::sqrt(product(grams[size_t(e)], grams[size_t(e)]) * product(grams[size_t(f)], grams[size_t(f)]));
      cka(e, f) = size > 0 ? product(grams[size_t(e)], grams[size_t(f)]) / size : 0;
    }
  return cka;
}

namespace {

// Mean over pairs of different experts.
double mean_similarity(const Matrix& m) {
  double sum = 0;
  for (int e = 0; e < m.rows; ++e)
    for (int f = 0; f < m.cols; ++f) sum += e == f ? 0 : m(e, f);
  return m.rows > 1 ? sum / (double(m.rows) * (m.rows - 1)) : std::nan("");
}

double mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / double(values.size());
}

}  // namespace

results::Json to_json(const std::vector<LayerStates>& layers) {
  results::Json json = results::Json::array();
  for (const LayerStates& l : layers) {
    json.push_back({{"layer", json.size() + 1},
                    {"specialisation", l.own},
                    {"specialisation_random_router", l.random},
                    {"expert_similarity", results::rows_json(l.similarity)},
                    {"expert_similarity_mean", mean_similarity(l.similarity)}});
  }
  return json;
}

results::Table states_table(const std::vector<LayerStates>& layers) {
  results::Table t;
  t.title = "Router or states";
  t.header = {"layer", "specialisation", "random router", "least", "most", "similarity of experts"};
  for (size_t l = 0; l < layers.size(); ++l) {
    const auto [least, most] = std::ranges::minmax(layers[l].random);
    const double alike = mean_similarity(layers[l].similarity);
    t.rows.push_back({std::to_string(l + 1), fmt::format("{:.4f}", layers[l].own),
                      fmt::format("{:.4f}", mean(layers[l].random)), fmt::format("{:.4f}", least),
                      fmt::format("{:.4f}", most), std::isnan(alike) ? "n/a" : fmt::format("{:.3f}", alike)});
  }
  t.note = fmt::format(
      "random router: the specialisation of softmax routers with random weights on the same hidden states ({} draws: mean, "
      "least, most); what they reach comes from the states and not from the router. Similarity: linear CKA of the experts' "
      "outputs on the same {} tokens, mean over pairs; 1: the same up to rotation and scale.",
      kRandomDraws, kSimilarityRows);
  return t;
}

}  // namespace glia
