#include "engine/device/cuda/launch.cuh"
#include "engine/ops/moe/load_losses_kernels.h"
#include "engine/ops/moe/moe_kernels.h"

namespace glia::cuda {
namespace {

constexpr int kWarps = kThreads / 32;

// to [E] = Σ of the gates that each expert got from pairs [begin, end); one warp an expert.
template <class A>
__device__ __forceinline__ void add_up_gates(const A* gates, const int32_t* chosen, int64_t begin, int64_t end,
                                             int64_t experts, A* to) {
  const int lane = threadIdx.x % 32;
  for (int64_t e = threadIdx.x / 32; e < experts; e += kWarps) {
    A sum = 0;
#pragma unroll 4
    for (int64_t i = begin + lane; i < end; i += 32) sum += chosen[i] == e ? gates[i] : A(0);
    sum = warp_sum(sum);
    if (lane == 0) to[e] = sum;
  }
}

// importance [E] = Σ of partial [chunks, E], by one block.
template <class A>
__device__ __forceinline__ void add_up_chunks(const A* partial, int64_t chunks, int64_t experts, A* importance) {
  const int lane = threadIdx.x % 32;
  for (int64_t e = threadIdx.x / 32; e < experts; e += kWarps) {
    A sum = 0;
    for (int64_t c = lane; c < chunks; c += 32) sum += partial[c * experts + e];
    sum = warp_sum(sum);
    if (lane == 0) importance[e] = sum;
  }
}

template <class A>
__global__ void __launch_bounds__(kThreads)
    importance_kernel(LoadShape s, const A* gates, const int32_t* chosen, A* partial) {
  const int64_t begin = blockIdx.x * kLoadChunk * s.k, end = min(s.tokens * s.k, begin + kLoadChunk * s.k);
  add_up_gates(gates, chosen, begin, end, s.experts, partial + blockIdx.x * s.experts);
}

template <class A>
__global__ void __launch_bounds__(kThreads)
    losses_kernel(LoadShape s, const A* partial, int64_t chunks, A* losses, A* importance) {
  add_up_chunks(partial, chunks, s.experts, importance);
  __syncthreads();
  if (threadIdx.x == 0) losses_of(importance, s.experts, static_cast<A>(*s.real_tokens), losses);
}

template <class A>
__global__ void __launch_bounds__(kThreads)
    losses_gradient_kernel(LoadShape s, const int32_t* chosen, const A* importance, const A* dlosses,
                           const A* dimportance, A* dgates) {
  extern __shared__ char memory[];
  A* gradient = reinterpret_cast<A*>(memory);
  for (int64_t e = threadIdx.x; e < s.experts; e += kThreads)
    gradient[e] = load_gradient(importance, e, s.experts, static_cast<A>(*s.real_tokens), dlosses, dimportance);
  __syncthreads();
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < s.tokens * s.k;
       i += static_cast<int64_t>(gridDim.x) * kThreads)
    dgates[i] = chosen[i] >= 0 ? gradient[chosen[i]] : A(0);
}

// grid (chunks, layers): partial [layers, chunks, E]; a layer of fewer chunks leaves the others' as they are.
template <class A>
__global__ void __launch_bounds__(kThreads)
    layers_importance_kernel(const __grid_constant__ LayersOfPairs<A> l, A* partial) {
  const auto& layer = l.layer[blockIdx.y];
  const int64_t begin = blockIdx.x * kLoadChunk * layer.k, end = min(layer.pairs, begin + kLoadChunk * layer.k);
  if (begin >= end) return;
  add_up_gates(layer.gates, layer.chosen, begin, end, l.experts,
               partial + (static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x) * l.experts);
}

// A block a layer.
template <class A>
__global__ void __launch_bounds__(kThreads)
    layers_sums_kernel(const __grid_constant__ LayersOfPairs<A> l, const A* partial, int64_t most_chunks) {
  const auto& layer = l.layer[blockIdx.x];
  const int64_t chunk = kLoadChunk * layer.k;
  add_up_chunks(partial + blockIdx.x * most_chunks * l.experts, (layer.pairs + chunk - 1) / chunk, l.experts,
                layer.importance);
}

// grid (blocks, layers)
template <class A>
__global__ void __launch_bounds__(kThreads)
    layers_importance_gradient_kernel(const __grid_constant__ LayersOfPairs<A> l) {
  const auto& layer = l.layer[blockIdx.y];
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < layer.pairs;
       i += static_cast<int64_t>(gridDim.x) * kThreads)
    layer.dgates[i] = layer.chosen[i] >= 0 ? layer.importance[layer.chosen[i]] : A(0);
}

template <class A>
__global__ void __launch_bounds__(kThreads)
    layers_gradient_kernel(LayerSums<A> s, const __grid_constant__ LayerGradients<A> g, A* dimportance) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < g.count * s.experts) glia::gradient_of_layers(s, g, i, dimportance);
}

}  // namespace

template <class A>
void load_losses(const LoadShape& s, const A* gates, const int32_t* chosen, A* partial, A* losses, A* importance,
                 Stream stream) {
  const int64_t chunks = (s.tokens + kLoadChunk - 1) / kLoadChunk;
  if (chunks > 0) {
    launch("load_losses/importance", importance_kernel<A>, {chunks, kThreads}, stream, s, gates, chosen, partial);
  }
  sum_load_losses(s, partial, chunks, losses, importance, stream);
}

template <class A>
void sum_load_losses(const LoadShape& s, const A* partial, int64_t chunks, A* losses, A* importance,
                     Stream stream) {
  launch("load_losses", losses_kernel<A>, {1, kThreads}, stream, s, partial, chunks, losses, importance);
}

template <class A>
void load_losses_gradient(const LoadShape& s, const int32_t* chosen, const A* importance, const A* dlosses,
                          const A* dimportance, A* dgates, Stream stream) {
  launch("load_losses/gradient", losses_gradient_kernel<A>,
         {grid_for(s.tokens * s.k), kThreads, s.experts * sizeof(A)}, stream, s, chosen, importance, dlosses,
         dimportance, dgates);
}

template <class A>
void importance_of_layers(const LayersOfPairs<A>& l, int64_t most_chunks, A* partial, Stream stream) {
  if (most_chunks > 0)
    launch("importance_of_layers", layers_importance_kernel<A>, {dim3(most_chunks, l.layers), kThreads}, stream, l,
           partial);
  launch("importance_of_layers/sums", layers_sums_kernel<A>, {l.layers, kThreads}, stream, l, partial, most_chunks);
}

template <class A>
void importance_gradient_of_layers(const LayersOfPairs<A>& l, int64_t most_pairs, Stream stream) {
  launch("importance_of_layers/gradient", layers_importance_gradient_kernel<A>,
         {dim3(grid_for(most_pairs), l.layers), kThreads}, stream, l);
}

template <class A> void losses_of_layers(const LayerSums<A>& s, A* losses, Stream stream) {
  for_each("load_losses/layers", s.layers, stream, [=] __device__(int64_t l) { losses_of_layer(s, l, losses); });
}

template <class A>
void gradient_of_layers(const LayerSums<A>& s, const LayerGradients<A>& g, A* dimportance, Stream stream) {
  launch("load_losses/layers_gradient", layers_gradient_kernel<A>,
         {(g.count * s.experts + kThreads - 1) / kThreads, kThreads}, stream, s, g, dimportance);
}

#define INSTANTIATE(A)                                                                                            \
  template void load_losses(const LoadShape&, const A*, const int32_t*, A*, A*, A*, Stream);                      \
  template void sum_load_losses(const LoadShape&, const A*, int64_t, A*, A*, Stream);                             \
  template void load_losses_gradient(const LoadShape&, const int32_t*, const A*, const A*, const A*, A*, Stream); \
  template void importance_of_layers(const LayersOfPairs<A>&, int64_t, A*, Stream);                               \
  template void importance_gradient_of_layers(const LayersOfPairs<A>&, int64_t, Stream);                          \
  template void losses_of_layers(const LayerSums<A>&, A*, Stream);                                                \
  template void gradient_of_layers(const LayerSums<A>&, const LayerGradients<A>&, A*, Stream);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace glia::cuda
