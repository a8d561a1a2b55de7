// Element-wise kernels by packs of 16 bytes: what every memory-bound op on a GPU needs.
#pragma once
#include "engine/device/cuda/intrinsics.cuh"
#include "engine/device/cuda/launch.cuh"

namespace glia::cuda {

template <class T> inline constexpr int kPackWidth = 16 / sizeof(T);

template <class T> using Wide = Pack<T, kPackWidth<T>>;

// W values of T at p converted to the accumulation type, and back.
template <int W, class T> __device__ __forceinline__ void load(const T* p, Accumulator<T> (&v)[W]) {
  const Pack<T, W> pack = *reinterpret_cast<const Pack<T, W>*>(p);
#pragma unroll
  for (int k = 0; k < W; ++k) v[k] = static_cast<Accumulator<T>>(pack.v[k]);
}
// Through a vector type: nvcc 13.0 cuts the store of a Pack of bfloat16 into 2-byte ones in some kernels.
template <int W, class T, class A> __device__ __forceinline__ void store(T* p, const A (&v)[W]) {
  if constexpr (std::is_same_v<T, bfloat16> && W % 2 == 0) {
    uint32_t words[W / 2];
#pragma unroll
    for (int k = 0; k < W / 2; ++k)
      words[k] = pack_bf16(static_cast<float>(v[2 * k]), static_cast<float>(v[2 * k + 1]));
    if constexpr (W == 8) *reinterpret_cast<uint4*>(p) = make_uint4(words[0], words[1], words[2], words[3]);
    else if constexpr (W == 4) *reinterpret_cast<uint2*>(p) = make_uint2(words[0], words[1]);
    else if constexpr (W == 2) *reinterpret_cast<uint32_t*>(p) = words[0];
    else static_assert(W <= 8, "16 bytes at most");
  } else {
    Pack<T, W> pack;
#pragma unroll
    for (int k = 0; k < W; ++k) pack.v[k] = static_cast<T>(v[k]);
    *reinterpret_cast<Pack<T, W>*>(p) = pack;
  }
}

// The end of a block of kColumns packs by kLanes rows that summed W columns a thread: the lanes' sums, in their order, for
// the block's columns below n. All threads take part.       sums: shared; to [n]
template <int kColumns, int kLanes, int W, class A>
__device__ __forceinline__ void store_column_sums(A (&sums)[kLanes][kColumns * W], const A (&sum)[W], int64_t n,
                                                  A* to) {
#pragma unroll
  for (int w = 0; w < W; ++w) sums[threadIdx.y][threadIdx.x * W + w] = sum[w];
  __syncthreads();
  for (int i = threadIdx.y * kColumns + threadIdx.x; i < kColumns * W; i += kColumns * kLanes) {
    const int64_t column = static_cast<int64_t>(blockIdx.x) * kColumns * W + i;
    if (column >= n) continue;
    A total = 0;
#pragma unroll
    for (int l = 0; l < kLanes; ++l) total += sums[l][i];
    to[column] = total;
  }
}

template <int W> struct Width { static constexpr int value = W; };

// f(Width<W>{}, i) for i = 0, W, 2W, …; what is left over, one by one, as f(Width<1>{}, i).
template <int W, class F> __global__ void __launch_bounds__(kThreads) for_each_pack_kernel(int64_t n, F f) {
  const int64_t packs = n / W, first = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  for (int64_t i = first; i < packs; i += static_cast<int64_t>(gridDim.x) * blockDim.x) f(Width<W>{}, i * W);
  if (W > 1 && packs * W + first < n) f(Width<1>{}, packs * W + first);
}

template <int W, class F> void for_each_pack(const char* name, int64_t n, bool aligned, Stream stream, F f) {
  if (n == 0) return;
  if (aligned) launch(name, for_each_pack_kernel<W, F>, {grid_for((n + W - 1) / W), kThreads}, stream, n, f);
  else launch(name, for_each_pack_kernel<1, F>, {grid_for(n), kThreads}, stream, n, f);
}

}  // namespace glia::cuda
