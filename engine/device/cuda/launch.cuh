// Small helpers of every .cu file: launches, grid sizes, wide loads and stores, sums within a warp or a block.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "engine/core/bfloat16.h"
#include "engine/device/cuda/check.h"
#include "engine/device/stream.h"

namespace glia::cuda {

constexpr int kThreads = 256;

struct Grid {
  dim3 blocks, threads;  // threads of a block
  size_t shared_bytes = 0;
  unsigned cluster = 1;  // blocks that are resident together
};

// kernel<<<blocks, threads, shared_bytes, stream>>>(arguments...), and checked; `make check-layers` refuses any
// other launch. `name` is what an error says. Arguments are converted to the kernel's parameters.
template <class... P, class... A>
void launch(const char* name, void (*kernel)(P...), const Grid& grid, Stream stream, A&&... arguments) {
  cudaLaunchAttribute cluster;
  cudaLaunchConfig_t config{};
  config.gridDim = grid.blocks;
  config.blockDim = grid.threads;
  config.dynamicSmemBytes = grid.shared_bytes;
  config.stream = stream;
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {grid.cluster, 1, 1};
  config.attrs = &cluster;
  config.numAttrs = grid.cluster > 1 ? 1 : 0;
  cudaLaunchKernelEx(&config, kernel, std::forward<A>(arguments)...);
  check_launch(name, stream);
}

// Blocks for a grid-stride loop over n items; enough to fill any GPU of today, never 0.
inline int grid_for(int64_t n, int per_block = kThreads) {
  return static_cast<int>(std::clamp<int64_t>((n + per_block - 1) / per_block, 1, 132 * 16));
}

// N values of T that are loaded and stored as one access (16 bytes at most).
template <class T, int N> struct alignas(sizeof(T) * N) Pack { T v[N]; };

// f(i) for every i < n, one element a thread.
template <class F> __global__ void __launch_bounds__(kThreads) for_each_kernel(int64_t n, F f) {
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < n;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x)
    f(i);
}

template <class F> void for_each(const char* name, int64_t n, Stream stream, F f) {
  if (n == 0) return;
  launch(name, for_each_kernel<F>, {grid_for(n), kThreads}, stream, n, f);
}

// The butterfly leaves the same sum, added in the same order, in every lane.
template <class T> __device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}

// v[i] summed over the warp, for 32 values at once; lane i returns the sum of v[i]. 31 shuffles.
// A template for each step, not a loop: nvcc 13.0 leaves v in local memory where it unrolls the loop too late.
template <int kHalf = 16, class A> __device__ __forceinline__ A warp_sum_transposed(A (&v)[32], int lane) {
  const bool upper = lane & kHalf;
#pragma unroll
  for (int j = 0; j < kHalf; ++j) {
    const A mine = upper ? v[j + kHalf] : v[j], other = upper ? v[j] : v[j + kHalf];
    v[j] = mine + __shfl_xor_sync(0xffffffffu, other, kHalf);
  }
  if constexpr (kHalf > 1) return warp_sum_transposed<kHalf / 2>(v, lane);
  else return v[0];
}

template <class T> __device__ __forceinline__ T warp_max(T x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) {
    const T y = __shfl_xor_sync(0xffffffffu, x, offset);
    x = y > x ? y : x;
  }
  return x;
}

// Sum over the block (at most 32 warps), the same value in every thread. `shared` holds 32 values.
template <class T> __device__ __forceinline__ T block_sum(T x, T* shared) {
  x = warp_sum(x);
  const int warps = (blockDim.x + 31) / 32;
  __syncthreads();  // `shared` may still be read by an earlier call
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  T total = shared[0];
  for (int w = 1; w < warps; ++w) total += shared[w];
  return total;
}

template <class... P> bool aligned16(const P*... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) % 16 == 0) && ...);
}

// Calls f with the widest pack that rows of `columns` elements allow, each matrix beginning at one of `pointers`:
// an integral_constant of 16 bytes' worth, or 1.
template <class T, class F, class... P> void with_pack_width(int64_t columns, F&& f, const P*... pointers) {
  constexpr int kWide = 16 / sizeof(T);
  if (columns % kWide == 0 && aligned16(pointers...)) f(std::integral_constant<int, kWide>{});
  else f(std::integral_constant<int, 1>{});
}

// emit(g·n + j, Σ_c partial[g, c, j]), chunks added in a fixed order.     partial [groups, chunks, n]
// block (32, 8): each of the 8 rows of threads adds every 8th chunk, then their sums are added in order.
template <class A, class F>
__global__ void __launch_bounds__(kThreads) reduce_chunks_kernel(const A* partial, int chunks, int64_t n, F emit) {
  __shared__ A sums[8][33];
  const int64_t j = static_cast<int64_t>(blockIdx.x) * 32 + threadIdx.x;
  A sum = 0;
  if (j < n) {
    const A* from = partial + blockIdx.y * chunks * n + j;
#pragma unroll 8
    for (int c = threadIdx.y; c < chunks; c += 8) sum += from[c * n];
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y == 0 && j < n) {
    for (int i = 1; i < 8; ++i) sum += sums[i][threadIdx.x];
    emit(blockIdx.y * n + j, sum);
  }
}

template <class A, class F>
void reduce_chunks(const char* name, const A* partial, int64_t groups, int chunks, int64_t n, Stream stream,
                   F emit) {
  if (n == 0 || groups == 0) return;
  launch(name, reduce_chunks_kernel<A, F>, {dim3((n + 31) / 32, groups), dim3(32, 8)}, stream, partial, chunks, n,
         emit);
}

}  // namespace glia::cuda
