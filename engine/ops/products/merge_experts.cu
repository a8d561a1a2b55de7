// Each kernel is bound by one pass over the merged weights [B, N], which are many times the experts' [E, N].
#include <algorithm>

#include "engine/ops/products/merge_experts_kernels.h"
#include "engine/ops/rows/packs.cuh"

namespace glia::cuda {
namespace {

constexpr int kTogether = 16;       // sequences whose sums a thread of the forward kernel holds
constexpr int kSharedExperts = 32;  // whose shares of these lie in shared memory
constexpr int kExperts = 8;         // of a block of the gradients' kernels: more read the merged gradient again
constexpr int kTile = 128;          // sequences whose shares lie in shared memory for dw
constexpr int kSequences = kThreads / kExperts;  // whose sums over a block's columns are finished together for dp
constexpr int kWanted = 1024;                    // blocks that fill any GPU of today a few times
// With fewer columns a thread takes one: packs would leave most of the GPU idle.
constexpr int64_t kFewColumns = 1 << 15;

template <class T> bool by_packs(const MergeShape& s, const T* d, const Accumulator<T>* w) {
  return s.columns >= kFewColumns && s.columns % kPackWidth<T> == 0 && aligned16(d, w);
}
// Blocks along the columns.
int blocks_of(const MergeShape& s, int width) {
  return static_cast<int>((s.columns + kThreads * width - 1) / (kThreads * width));
}

// W values in accesses of 16 bytes: a bfloat16's pack has 32 bytes of float32 beside it.
template <int W, class A> __device__ __forceinline__ void load_parts(const A* p, A (&v)[W]) {
  constexpr int kPart = W < kPackWidth<A> ? W : kPackWidth<A>;
#pragma unroll
  for (int i = 0; i < W; i += kPart) {
    const Pack<A, kPart> part = *reinterpret_cast<const Pack<A, kPart>*>(p + i);
#pragma unroll
    for (int k = 0; k < kPart; ++k) v[i + k] = part.v[k];
  }
}
// By 16 bytes, of bfloat16 by 8: what W sums of a thread take there.
template <int W, class T, class A> __device__ __forceinline__ void store_sums(T* p, const A (&v)[W]) {
#pragma unroll
  for (int i = 0; i < W; i += W < kPackWidth<A> ? W : kPackWidth<A>) {
    if constexpr (W == 1) *p = static_cast<T>(v[0]);
    else if constexpr (sizeof(T) == 2)
      store_global(p + i, pack_bf16(v[i], v[i + 1]), pack_bf16(v[i + 2], v[i + 3]));
    else if constexpr (sizeof(T) == 4) store_global(p + i, v[i], v[i + 1], v[i + 2], v[i + 3]);
    else store_global(p + i, v[i], v[i + 1]);
  }
}
template <int W, class T> __device__ __forceinline__ Pack<T, W> pack_or_zero(const T* p, bool there) {
  Pack<T, W> x{};
  if (there) x = *reinterpret_cast<const Pack<T, W>*>(p);
  return x;
}

// Grid (blocks_of(), groups of kTogether sequences). The sums of some sequences, not the weights of some experts, are held in
// registers: any number of experts is one pass, and a block finds its experts' columns in the first cache from the second
// group on.
template <class T, int W>
__global__ void __launch_bounds__(kThreads, 2)
    merge_kernel(MergeShape s, const Accumulator<T>* p, const Accumulator<T>* w, T* merged) {
  using A = Accumulator<T>;
  constexpr int kPart = kPackWidth<A>;
  alignas(16) __shared__ A shares[kSharedExperts][kTogether];
  const int64_t column = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * W;
  const int64_t stride = static_cast<int64_t>(gridDim.y) * kTogether;
  for (int64_t first = static_cast<int64_t>(blockIdx.y) * kTogether; first < s.sequences; first += stride) {
    A sum[kTogether][W] = {};
    for (int64_t from = 0; from < s.experts; from += kSharedExperts) {
      const int count = static_cast<int>(min(static_cast<int64_t>(kSharedExperts), s.experts - from));
      __syncthreads();  // the shares before may still be read
      for (int i = threadIdx.x; i < count * kTogether; i += kThreads) {
        const int64_t b = first + i % kTogether;
        shares[i / kTogether][i % kTogether] = b < s.sequences ? p[b * s.experts + from + i / kTogether] : A{0};
      }
      __syncthreads();
      if (column >= s.columns) continue;
#pragma unroll 4
      for (int e = 0; e < count; ++e) {
        A x[W];
        load_parts(w + (from + e) * s.columns + column, x);
#pragma unroll
        for (int g = 0; g < kTogether; g += kPart) {
          A share[kPart];
          load_parts(&shares[e][g], share);
#pragma unroll
          for (int i = 0; i < kPart; ++i)
#pragma unroll
            for (int k = 0; k < W; ++k) sum[g + i][k] += share[i] * x[k];
        }
      }
    }
    if (column >= s.columns) continue;
#pragma unroll
    for (int g = 0; g < kTogether; ++g)
      if (first + g < s.sequences) store_sums(merged + (first + g) * s.columns + column, sum[g]);
  }
}

// Grid (blocks_of(), ⌈E / kExperts⌉). A thread holds the sums of W columns of kExperts experts and has kAhead sequences'
// packs under way. What is missing is 0 times 0.
template <class T, int W, int kAhead>
__global__ void __launch_bounds__(kThreads, 2)
    weight_gradient_kernel(MergeShape s, const Accumulator<T>* p, const T* d, Accumulator<T>* dw) {
  using A = Accumulator<T>;
  constexpr int kPart = kPackWidth<A>;
  static_assert(kTile % kAhead == 0 && kExperts % kPart == 0);
  alignas(16) __shared__ A shares[kTile][kExperts];
  const int64_t column = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * W;
  const int64_t expert = static_cast<int64_t>(blockIdx.y) * kExperts;
  A sum[kExperts][W] = {};
  for (int64_t first = 0; first < s.sequences; first += kTile) {
    const int count = static_cast<int>(min(static_cast<int64_t>(kTile), s.sequences - first));
    __syncthreads();  // the shares before may still be read
    for (int i = threadIdx.x; i < kTile * kExperts; i += kThreads) {
      const int64_t e = expert + i % kExperts;
      shares[i / kExperts][i % kExperts] =
          i / kExperts < count && e < s.experts ? p[(first + i / kExperts) * s.experts + e] : A{0};
    }
    __syncthreads();
    if (column >= s.columns) continue;
    for (int b = 0; b < count; b += kAhead) {
      Pack<T, W> ahead[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i)
        ahead[i] = pack_or_zero<W>(d + (first + b + i) * s.columns + column, b + i < count);
#pragma unroll
      for (int i = 0; i < kAhead; ++i)
#pragma unroll
        for (int e = 0; e < kExperts; e += kPart) {
          A share[kPart];
          load_parts(&shares[b + i][e], share);
#pragma unroll
          for (int j = 0; j < kPart; ++j)
#pragma unroll
            for (int k = 0; k < W; ++k) sum[e + j][k] += share[j] * static_cast<A>(ahead[i].v[k]);
        }
    }
  }
  if (column >= s.columns) return;
#pragma unroll
  for (int e = 0; e < kExperts; ++e)
    if (expert + e < s.experts) store_sums(dw + (expert + e) * s.columns + column, sum[e]);
}

// Grid (blocks_of(), ⌈E / kExperts⌉, tiles of kSequences). A thread holds W columns of kExperts experts. A warp's sums of four
// sequences are made by one transposed butterfly, a shuffle each: reduced one by one they would cost five, more than the
// products. In float32 on plain cores: on tensor cores w would be rounded to bfloat16, and with it what a router learns from.
template <class T, int W>
__global__ void __launch_bounds__(kThreads, 2)
    share_gradient_kernel(MergeShape s, const T* d, const Accumulator<T>* w, Accumulator<T>* partial) {
  using A = Accumulator<T>;
  constexpr int kFour = 32 / kExperts;
  static_assert(kSequences % kFour == 0);
  __shared__ A sums[kThreads / 32][kSequences * kExperts];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t column = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * W;
  const int64_t expert = static_cast<int64_t>(blockIdx.y) * kExperts;
  const bool inside = column < s.columns;
  A of[kExperts][W] = {};
#pragma unroll
  for (int e = 0; e < kExperts; ++e)
    if (inside && expert + e < s.experts) load_parts(w + (expert + e) * s.columns + column, of[e]);
  const int64_t stride = static_cast<int64_t>(gridDim.z) * kSequences;
  for (int64_t first = static_cast<int64_t>(blockIdx.z) * kSequences; first < s.sequences; first += stride) {
    const int count = static_cast<int>(min(static_cast<int64_t>(kSequences), s.sequences - first));
    for (int b = 0; b < count; b += kFour) {  // all lanes take part, also of columns that are not there
      Pack<T, W> x[kFour];
#pragma unroll
      for (int i = 0; i < kFour; ++i)
        x[i] = pack_or_zero<W>(d + (first + b + i) * s.columns + column, inside && b + i < count);
      A v[32];
#pragma unroll
      for (int i = 0; i < kFour; ++i)
#pragma unroll
        for (int e = 0; e < kExperts; ++e) {
          A dot = 0;
#pragma unroll
          for (int k = 0; k < W; ++k) dot += static_cast<A>(x[i].v[k]) * of[e][k];
          v[i * kExperts + e] = dot;
        }
      sums[warp][b * kExperts + lane] = warp_sum_transposed(v, lane);
    }
    __syncthreads();
    const int b = threadIdx.x / kExperts, e = threadIdx.x % kExperts;
    if (b < count && expert + e < s.experts) {
      A total = sums[0][threadIdx.x];
#pragma unroll
      for (int i = 1; i < kThreads / 32; ++i) total += sums[i][threadIdx.x];
      partial[(blockIdx.x * s.sequences + first + b) * s.experts + expert + e] = total;
    }
    __syncthreads();  // before the next tile's are written
  }
}

int groups_of(int64_t n, int group) { return static_cast<int>((n + group - 1) / group); }

// How many blocks share the work of `groups` beside `blocks` others.
int split(int64_t blocks, int groups) {
  return static_cast<int>(std::clamp<int64_t>(kWanted / std::max<int64_t>(blocks, 1), 1, std::max(groups, 1)));
}

}  // namespace

template <class T>
void merge_experts(const MergeShape& s, const Accumulator<T>* p, const Accumulator<T>* w, T* merged,
                   Stream stream) {
  if (s.sequences * s.columns == 0) return;
  with_pack_width<Accumulator<T>>(
      s.columns,
      [&](auto width) {
        constexpr int W = decltype(width)::value;
        const int blocks = blocks_of(s, W);
        const dim3 grid(blocks, split(blocks, groups_of(s.sequences, kTogether)));
        launch("merge_experts", merge_kernel<T, W>, {grid, kThreads}, stream, s, p, w, merged);
      },
      w, merged);
}

template <class T>
void merge_weight_gradient(const MergeShape& s, const Accumulator<T>* p, const T* d, Accumulator<T>* dw,
                           Stream stream) {
  if (s.columns == 0) return;
  constexpr int W = kPackWidth<T>;
  const int groups = groups_of(s.experts, kExperts);
  if (by_packs<T>(s, d, dw))
    launch("merge_experts/dw", weight_gradient_kernel<T, W, 4>, {dim3(blocks_of(s, W), groups), kThreads}, stream,
           s, p, d, dw);
  else
    launch("merge_experts/dw", weight_gradient_kernel<T, 1, 32>, {dim3(blocks_of(s, 1), groups), kThreads}, stream,
           s, p, d, dw);
}

template <class T> int merge_chunks(const MergeShape& s, const T* d, const Accumulator<T>* w) {
  return blocks_of(s, by_packs(s, d, w) ? kPackWidth<T> : 1);
}

template <class T>
void merge_share_gradient(const MergeShape& s, const T* d, const Accumulator<T>* w, Accumulator<T>* partial,
                          Accumulator<T>* dp, Stream stream) {
  using A = Accumulator<T>;
  const int64_t n = s.sequences * s.experts;
  if (n == 0) return;
  const int chunks = merge_chunks(s, d, w), groups = groups_of(s.experts, kExperts);
  if (chunks > 0) {
    const dim3 grid(chunks, groups, split(int64_t{chunks} * groups, groups_of(s.sequences, kSequences)));
    if (by_packs(s, d, w))
      launch("merge_experts/dp", share_gradient_kernel<T, kPackWidth<T>>, {grid, kThreads}, stream, s, d, w,
             partial);
    else launch("merge_experts/dp", share_gradient_kernel<T, 1>, {grid, kThreads}, stream, s, d, w, partial);
  }
  reduce_chunks("merge_experts/dp_reduce", partial, 1, chunks, n, stream,
                [=] __device__(int64_t i, A total) { dp[i] = total; });
}

#define INSTANTIATE(T)                                                                                      \
  template void merge_experts(const MergeShape&, const Accumulator<T>*, const Accumulator<T>*, T*, Stream); \
  template void merge_weight_gradient(const MergeShape&, const Accumulator<T>*, const T*, Accumulator<T>*,  \
                                      Stream);                                                              \
  template int merge_chunks(const MergeShape&, const T*, const Accumulator<T>*);                            \
  template void merge_share_gradient(const MergeShape&, const T*, const Accumulator<T>*, Accumulator<T>*,   \
                                     Accumulator<T>*, Stream);
GLIA_FOR_FLOATING(INSTANTIATE)
#undef INSTANTIATE

}  // namespace glia::cuda
