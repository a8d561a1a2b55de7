// Kernels of load_losses.cpp on raw memory: the losses of several layers in one launch.
#pragma once
#include <cstdint>

#include "engine/core/host_device.h"
#include "engine/device/stream.h"
#include "engine/ops/moe/moe_functors.h"

namespace glia {

// What a launch takes of layers is passed to it by value: no upload.
constexpr int64_t kMostLossLayers = 32;

// The pairs of up to that many layers, and what each has added up of its gates or is told of that.
template <class A> struct LayersOfPairs {
  struct Layer {
    int64_t pairs, k;       // T · K
    const A* gates;         // [T, K]; nullptr in backward
    const int32_t* chosen;  // [T, K]
    A* importance;          // [E]; in backward its gradient, which is read
    A* dgates;              // [T, K] =, in backward
  } layer[kMostLossLayers];
  int64_t layers, experts;
};

// What L layers have added up: importance [L, E], and behind it the rows [L] that belong to a sequence.
template <class A> struct LayerSums {
  const A* sums;
  int64_t layers, experts;
  GLIA_HD const A* importance(int64_t l) const { return sums + l * experts; }
  GLIA_HD A rows(int64_t l) const { return sums[layers * experts + l]; }
};

// Layers from `first` on: the gradients of their losses.
template <class A> struct LayerGradients {
  const A* dlosses[kMostLossLayers];  // [2] each; nullptr: nobody uses them
  int64_t first, count;
};

template <class A> GLIA_HD void losses_of_layer(const LayerSums<A>& s, int64_t l, A* losses) {
  losses_of(s.importance(l), s.experts, s.rows(l), losses + 2 * l);
}
// Element i of the group's part of dimportance [L, E].
template <class A>
GLIA_HD void gradient_of_layers(const LayerSums<A>& s, const LayerGradients<A>& g, int64_t i, A* dimportance) {
  const int64_t at = i / s.experts, e = i % s.experts, l = g.first + at;
  const A* none = nullptr;
  dimportance[l * s.experts + e] = load_gradient(s.importance(l), e, s.experts, s.rows(l), g.dlosses[at], none);
}

namespace cpu {
template <class A> void importance_of_layers(const LayersOfPairs<A>& l);
template <class A> void importance_gradient_of_layers(const LayersOfPairs<A>& l);
}  // namespace cpu

namespace cuda {
// partial: [layers, most_chunks, E], most_chunks the most ⌈T / kLoadChunk⌉ of a layer
template <class A>
void importance_of_layers(const LayersOfPairs<A>& l, int64_t most_chunks, A* partial, Stream stream);
template <class A> void importance_gradient_of_layers(const LayersOfPairs<A>& l, int64_t most_pairs, Stream stream);
template <class A> void losses_of_layers(const LayerSums<A>& s, A* losses, Stream stream);  // [L, 2] =
// dimportance [L, E] =, of the group's layers
template <class A>
void gradient_of_layers(const LayerSums<A>& s, const LayerGradients<A>& g, A* dimportance, Stream stream);
}  // namespace cuda

}  // namespace glia
