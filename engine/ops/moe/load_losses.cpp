#include "engine/ops/moe/load_losses.h"

#include <algorithm>

#include "engine/ops/checks.h"
#include "engine/ops/moe/load_losses_kernels.h"
#include "engine/ops/moe/moe_kernels.h"
#include "engine/ops/ranks/pack.h"
#include "engine/ops/wide_types.h"

namespace glia {
namespace {

// f(pairs of up to kMostLossLayers layers, the first one's number), group by group.     importance of each layer, dgates or empty
template <class A, class F>
void for_groups_of_layers(const std::vector<Tensor>& gates, const std::vector<Tensor>& experts,
                          const std::vector<Tensor>& importance, const std::vector<Tensor>& dgates,
                          int64_t n_experts, F f) {
  const auto n = static_cast<int64_t>(experts.size());
  for (int64_t first = 0; first < n; first += kMostLossLayers) {
    LayersOfPairs<A> l{{}, std::min(kMostLossLayers, n - first), n_experts};
    for (int64_t i = 0; i < l.layers; ++i) {
      const auto at = static_cast<size_t>(first + i);
      l.layer[i] = {
          experts[at].numel(),         experts[at].size(1),      gates.empty() ? nullptr : gates[at].data<A>(),
          experts[at].data<int32_t>(), importance[at].data<A>(), dgates.empty() ? nullptr : dgates[at].data<A>()};
    }
    f(l);
  }
}

template <class A> int64_t most_of_layers(const LayersOfPairs<A>& l, bool chunks) {
  int64_t most = 0;
  for (int64_t i = 0; i < l.layers; ++i) {
    const int64_t chunk = chunks ? cuda::kLoadChunk * std::max<int64_t>(1, l.layer[i].k) : 1;
    most = std::max(most, (l.layer[i].pairs + chunk - 1) / chunk);
  }
  return most;
}

}  // namespace

// dgates = dimportance of the pair's expert, 0 where nobody.
std::vector<Var> importance_of_layers(const std::vector<LayerPairs>& layers, int64_t n_experts) {
  if (layers.empty()) return {};
  Context& context = layers[0].gates.context();
  const DType type = layers[0].gates.dtype();
  std::vector<Var> inputs;
  std::vector<Tensor> gates, experts, importance;
  for (const LayerPairs& layer : layers) {
    CHECK(layer.gates.rank() == 2 && layer.experts.shape() == layer.gates.shape() && layer.gates.dtype() == type,
          "importance_of_layers: wants gates [T, K] and experts [T, K], {} in every layer, got {} {} and {}", type,
          layer.gates.dtype(), layer.gates.shape(), layer.experts.shape());
    inputs.push_back(layer.gates), gates.push_back(layer.gates.value()), experts.push_back(layer.experts);
    importance.push_back(empty(context, {n_experts}, type));
  }
  dispatch_wide(type, "importance_of_layers", [&](auto tag) {
    using A = typename decltype(tag)::type;
    for_groups_of_layers<A>(gates, experts, importance, {}, n_experts, [&](const LayersOfPairs<A>& l) {
      on_device(
          context, "importance_of_layers", [&] { cpu::importance_of_layers(l); },
          [&](auto& cuda) {
            const int64_t chunks = most_of_layers(l, true);
            const Tensor partial = empty(context, {l.layers, chunks, n_experts}, type);
            cuda::importance_of_layers(l, chunks, partial.data<A>(), cuda.stream);
          });
    });
  });
  return record_joint(
      "importance_of_layers", std::move(importance), std::move(inputs),
      [experts, n_experts, type](std::span<const Tensor> dy, Grads& in) {
        std::vector<Tensor> of, chosen, dgates;
        std::vector<size_t> layer;
        for (size_t l = 0; l < dy.size(); ++l) {
          if (!in.wants(l) || !dy[l].defined()) continue;
          layer.push_back(l), of.push_back(dy[l]), chosen.push_back(experts[l]);
          dgates.push_back(in.buffer(l));
        }
        dispatch_wide(type, "importance_of_layers", [&](auto tag) {
          using A = typename decltype(tag)::type;
          for_groups_of_layers<A>({}, chosen, of, dgates, n_experts, [&](const LayersOfPairs<A>& l) {
            on_device(
                dgates[0].context(), "importance_of_layers/gradient",
                [&] { cpu::importance_gradient_of_layers(l); },
                [&](auto& cuda) { cuda::importance_gradient_of_layers(l, most_of_layers(l, false), cuda.stream); });
          });
        });
        for (size_t i = 0; i < layer.size(); ++i) in.add(layer[i], dgates[i]);
      });
}

// Whoever differentiates gives each rank its share of the whole (sum_over_ranks): together they are all of it. So is what
// the importance is given, which is linear in that.
std::vector<Var> load_losses_over_ranks(const std::vector<LayerImportance>& layers) {
  CHECK(!layers.empty(), "load_losses_over_ranks: wants a layer");
  Context& context = layers[0].importance.context();
  const DType type = layers[0].importance.dtype();
  const auto n = static_cast<int64_t>(layers.size());
  const int64_t n_experts = layers[0].importance.value().numel();
  std::vector<Var> importance;
  std::vector<Tensor> parts;
  for (const LayerImportance& layer : layers) {
    CHECK(layer.importance.dtype() == type && layer.importance.shape() == Shape{n_experts},
          "load_losses_over_ranks: wants {} [{}] of every layer, got {} {}", type, n_experts,
          layer.importance.dtype(), layer.importance.shape());
    importance.push_back(layer.importance);
    parts.push_back(layer.importance.value());
  }
  for (const LayerImportance& layer : layers)
    parts.push_back(layer.sequences->offsets.rows(layer.sequences->count, layer.sequences->count + 1));
  const Tensor sums = pack(parts, type), losses = empty(context, {n, 2}, type);
  context.communicator().all_reduce(sums.raw(), sums.numel(), type, Reduction::kSum);
  dispatch_wide(type, "load_losses_over_ranks", [&](auto tag) {
    using A = typename decltype(tag)::type;
    const LayerSums<A> s{sums.data<A>(), n, n_experts};
    A* to = losses.data<A>();
    on_device(
        context, "load_losses/layers",
        [&] {
          for (int64_t l = 0; l < n; ++l) losses_of_layer(s, l, to);
        },
        [&](auto& cuda) { cuda::losses_of_layers(s, to, cuda.stream); });
  });
  std::vector<Tensor> each;
  for (int64_t l = 0; l < n; ++l) each.push_back(losses.rows(l, l + 1).reshape({2}));
  return record_joint("load_losses_over_ranks", std::move(each), std::move(importance),
                      [sums, n, n_experts, type](std::span<const Tensor> dy, Grads& in) {
                        Context& context = sums.context();
                        const Tensor dimportance = empty(context, {n, n_experts}, type);
                        dispatch_wide(type, "load_losses_over_ranks", [&](auto tag) {
                          using A = typename decltype(tag)::type;
                          const LayerSums<A> s{sums.data<A>(), n, n_experts};
                          A* to = dimportance.data<A>();
                          for (int64_t first = 0; first < n; first += kMostLossLayers) {
                            LayerGradients<A> g{{}, first, std::min(kMostLossLayers, n - first)};
                            for (int64_t i = 0; i < g.count; ++i)
                              g.dlosses[i] = data_or_null<A>(dy[static_cast<size_t>(first + i)]);
                            on_device(
                                context, "load_losses/layers_gradient",
                                [&] {
                                  for (int64_t i = 0; i < g.count * n_experts; ++i) gradient_of_layers(s, g, i, to);
                                },
                                [&](auto& cuda) { cuda::gradient_of_layers(s, g, to, cuda.stream); });
                          }
                        });
                        context.communicator().all_reduce(dimportance.raw(), dimportance.numel(), type,
                                                          Reduction::kSum);
                        for (int64_t l = 0; l < n; ++l)
                          in.add(static_cast<size_t>(l), dimportance.rows(l, l + 1).reshape({n_experts}));
                      });
}

namespace cpu {

template <class A> void importance_of_layers(const LayersOfPairs<A>& l) {
  for (int64_t i = 0; i < l.layers; ++i) {
    const auto& layer = l.layer[i];
    check_chosen("importance_of_layers", layer.chosen, layer.pairs, l.experts);
    std::fill_n(layer.importance, l.experts, A{0});
    for (int64_t p = 0; p < layer.pairs; ++p)
      if (layer.chosen[p] >= 0) layer.importance[layer.chosen[p]] += layer.gates[p];
  }
}

template <class A> void importance_gradient_of_layers(const LayersOfPairs<A>& l) {
  for (int64_t i = 0; i < l.layers; ++i) {
    const auto& layer = l.layer[i];
    for (int64_t p = 0; p < layer.pairs; ++p)
      layer.dgates[p] = layer.chosen[p] >= 0 ? layer.importance[layer.chosen[p]] : A{0};
  }
}

template void importance_of_layers(const LayersOfPairs<float>&);
template void importance_of_layers(const LayersOfPairs<double>&);
template void importance_gradient_of_layers(const LayersOfPairs<float>&);
template void importance_gradient_of_layers(const LayersOfPairs<double>&);

}  // namespace cpu

}  // namespace glia
