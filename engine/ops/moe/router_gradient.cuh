// The router's backward pass on CUDA: kernels that router.cu (from the logits' gradient) and route.cu (from the
// gates', the losses' and the logits' together) share.
#pragma once
#include "engine/ops/moe/moe_functors.h"
#include "engine/ops/moe/moe_kernels.h"
#include "engine/ops/rows/packs.cuh"

namespace glia::cuda::router {

enum { kNone, kAdd, kGate };  // ContextMode
constexpr int kWarps = kThreads / 32;
constexpr int kTokensPerWarp = 4, kExpertsPerPass = 8;  // 4 × 8 sums: one a lane after the transposing reduction

inline int warp_grid(int64_t items, int per_warp = 1) {
  return static_cast<int>(std::max<int64_t>(1, (items + kWarps * per_warp - 1) / (kWarps * per_warp)));
}

// f(Width) with as many columns as 16 bytes of w, or one where the rows do not allow it.
template <class A, class F, class... P> void with_width(int64_t hidden, F&& f, const P*... pointers) {
  constexpr int kWide = 16 / sizeof(A);
  if (hidden % kWide == 0 && aligned16(pointers...)) f(Width<kWide>{});
  else f(Width<1>{});
}

// Where d(w x + b) of the logits comes from. Called by whole blocks: begin() once, before a barrier, with room for
// 8 values that fill() then gets back; fill() sets dr[i][0 … 7] for the tokens tile + i, i < n, and the experts
// from e0 on.
template <class A> struct LogitsSource {
  RouterShape s;
  const A *context, *dlogits;

  __device__ A operator()(int64_t t, int64_t e) const {
    if (t >= s.tokens || e >= s.experts) return A(0);
    const A d = dlogits[t * s.experts + e];
    const int32_t sequence = s.sequence_of[t];
    if (sequence < 0) return A(0);
    return s.mode == kGate ? d * logistic(context[sequence * s.experts + e]) : d;
  }
  __device__ void begin(A*) const {}
  __device__ void fill(const A*, int64_t tile, int n, int64_t e0, A (*dr)[kExpertsPerPass]) const {
    for (int i = threadIdx.x; i < n * kExpertsPerPass; i += kThreads)
      dr[i / kExpertsPerPass][i % kExpertsPerPass] = (*this)(tile + i / kExpertsPerPass, e0 + i % kExpertsPerPass);
  }
};

// What a block of gradient_kernel has of a token in shared memory, and of how many tokens: 48 KB at most.
constexpr int kColumnThreads = 64;
template <int W, class T> constexpr int kTokenBytes = static_cast<int>(sizeof(T)) * W* kColumnThreads;
template <int W, class T> constexpr int kTileTokens = std::min(128, 48 * 1024 / kTokenBytes<W, T>);

// One pass over x: dx[t] = Σ_e dr[t, e] w[e], and of the chunk's tokens
//     partial[chunk, e, j] = Σ_t dr[t, e] x[t, j],  partial[chunk, e, H] = Σ_t dr[t, e].
// grid (chunks, ⌈E / 8⌉, ⌈H / (64·W)⌉), block 64 × 4: a thread has W columns of every 4th token, and of w and the
// sums of 8 experts in registers; the four sums are added in order. A tile's x is on its way to shared memory while dr
// is made; a thread reads what it copied itself. dx only where E <= 8 (else nullptr); partial may be nullptr.
template <int W, class T, class A, class Source>
__global__ void __launch_bounds__(kThreads, 2)
    gradient_kernel(RouterShape s, const T* __restrict__ x, const A* __restrict__ w, Source source,
                    T* __restrict__ dx, A* __restrict__ partial) {
  constexpr int kTile = kTileTokens<W, T>, kLanes = kThreads / kColumnThreads, kColumns = kColumnThreads * W;
  extern __shared__ uint4 copied[];
  __shared__ __align__(16) A dr[kTile][kExpertsPerPass];
  __shared__ __align__(16) A lane_sums[kLanes][kExpertsPerPass][kColumns];
  __shared__ A warp_bias[kWarps][kExpertsPerPass], by_expert[kExpertsPerPass];
  const int lane = threadIdx.x / kColumnThreads, slot = threadIdx.x % kColumnThreads * W;
  const int64_t e0 = blockIdx.y * kExpertsPerPass, column = static_cast<int64_t>(blockIdx.z) * kColumns + slot;
  const int64_t per_chunk = (s.tokens + gridDim.x - 1) / gridDim.x;
  const int64_t begin = blockIdx.x * per_chunk, end = min(s.tokens, begin + per_chunk);
  const bool inside = column < s.hidden;

  source.begin(by_expert);
  A weight[kExpertsPerPass][W] = {}, sums[kExpertsPerPass][W] = {}, bias = 0;
  if (dx && inside) {
#pragma unroll
    for (int e = 0; e < kExpertsPerPass; ++e)
      if (e0 + e < s.experts) load<W>(w + (e0 + e) * s.hidden + column, weight[e]);
  }
  for (int64_t tile = begin; tile < end; tile += kTile) {
    const int n = static_cast<int>(min(static_cast<int64_t>(kTile), end - tile));
    Pack<T, W>* const own = reinterpret_cast<Pack<T, W>*>(copied) + threadIdx.x;  // the first of its pieces
    if (inside) {
      const Pack<T, W>* from = reinterpret_cast<const Pack<T, W>*>(x + (tile + lane) * s.hidden + column);
      for (int i = lane, p = 0; i < n; i += kLanes, ++p, from += kLanes * s.hidden / W)
        copy_async(own + p * kThreads, from);
    }
    commit_copies();
    __syncthreads();  // the tile before may still be read
    source.fill(by_expert, tile, n, e0, dr);
    __syncthreads();
    for (int i = threadIdx.x; i < n * kExpertsPerPass; i += kThreads)  // a thread always has the same expert
      bias += dr[i / kExpertsPerPass][i % kExpertsPerPass];
    if (!inside) continue;
    wait_for_copies<0>();
    for (int row = lane, p = 0; row < n; row += kLanes, ++p) {
      A d[kExpertsPerPass], v[W], to[W] = {};
#pragma unroll
      for (int e = 0; e < kExpertsPerPass; ++e) d[e] = dr[row][e];
      load<W>(own[p * kThreads].v, v);
#pragma unroll
      for (int e = 0; e < kExpertsPerPass; ++e)
#pragma unroll
        for (int k = 0; k < W; ++k) sums[e][k] += d[e] * v[k], to[k] += d[e] * weight[e][k];
      if (dx) store<W>(dx + (tile + row) * s.hidden + column, to);
    }
  }
  if (!partial) return;

  // Lanes of a warp with the same expert, then the warps in order.
  bias += __shfl_xor_sync(0xffffffffu, bias, 8);
  bias += __shfl_xor_sync(0xffffffffu, bias, 16);
  if (threadIdx.x % 32 < kExpertsPerPass) warp_bias[threadIdx.x / 32][threadIdx.x % 32] = bias;
#pragma unroll
  for (int e = 0; e < kExpertsPerPass; ++e) store<W>(&lane_sums[lane][e][slot], sums[e]);
  __syncthreads();
  A* const to = partial + blockIdx.x * s.experts * (s.hidden + 1);
  for (int i = threadIdx.x; i < kExpertsPerPass * kColumns; i += kThreads) {
    const int e = i / kColumns, at = i % kColumns;
    const int64_t j = static_cast<int64_t>(blockIdx.z) * kColumns + at;
    if (e0 + e >= s.experts || j >= s.hidden) continue;
    A total = lane_sums[0][e][at];
#pragma unroll
    for (int l = 1; l < kLanes; ++l) total += lane_sums[l][e][at];
    to[(e0 + e) * (s.hidden + 1) + j] = total;
  }
  if (blockIdx.z == 0 && threadIdx.x < kExpertsPerPass && e0 + threadIdx.x < s.experts) {
    A total = 0;
    for (int i = 0; i < kWarps; ++i) total += warp_bias[i][threadIdx.x];
    to[(e0 + threadIdx.x) * (s.hidden + 1) + s.hidden] = total;
  }
}

template <int W, class T, class A, class Source>
void launch_gradient(const char* name, int chunks, int passes, Stream stream, const RouterShape& s, const T* x,
                     const A* w, const Source& source, T* dx, A* partial) {
  constexpr int kBytes = kTileTokens<W, T> * kTokenBytes<W, T>;
  const auto kernel = gradient_kernel<W, T, A, Source>;
  CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
  const int across = static_cast<int>((s.hidden + kColumnThreads * W - 1) / (kColumnThreads * W));
  launch(name, kernel, {dim3(chunks, passes, across), kThreads, kBytes}, stream, s, x, w, source, dx, partial);
}

// dcontext[b, e], one warp a sequence: 4 rows of 8 experts at a time.
template <class A>
__device__ __forceinline__ void sum_context(const RouterShape& s, const A* context, const A* raw, const A* dlogits,
                                            A* dcontext, int64_t b) {
  const int lane = threadIdx.x % 32;
  if (b >= s.sequences) return;
  const int64_t end = s.offsets[b + 1];
  for (int64_t e0 = 0; e0 < s.experts; e0 += kExpertsPerPass) {
    const int64_t e = e0 + lane % kExpertsPerPass;
    A sum = 0;
    if (e < s.experts) {
#pragma unroll 8
      for (int64_t t = s.offsets[b] + lane / kExpertsPerPass; t < end; t += kTokensPerWarp) {
        const A d = dlogits[t * s.experts + e];
        sum += s.mode == kGate ? d * raw[t * s.experts + e] : d;
      }
    }
    sum += __shfl_xor_sync(0xffffffffu, sum, 8);
    sum += __shfl_xor_sync(0xffffffffu, sum, 16);
    if (lane >= kExpertsPerPass || e >= s.experts) continue;
    if (s.mode == kGate) {
      const A gate = logistic(context[b * s.experts + e]);
      sum *= gate * (A(1) - gate);
    }
    dcontext[b * s.experts + e] = sum;
  }
}

// Two small sums in one launch. The first `sums` blocks add the chunks of 32 elements of dw and db, each warp every
// 8th chunk and then the warps in order; the blocks after them make dcontext.
template <class A>
__global__ void __launch_bounds__(kThreads)
    finish_kernel(RouterShape s, const A* __restrict__ partial, int chunks, int sums, A* __restrict__ dw,
                  A* __restrict__ db, const A* __restrict__ context, const A* __restrict__ raw,
                  const A* __restrict__ dlogits, A* __restrict__ dcontext) {
  __shared__ A warp_sums[kWarps][33];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (static_cast<int>(blockIdx.x) >= sums)
    return sum_context(s, context, raw, dlogits, dcontext, static_cast<int64_t>(blockIdx.x - sums) * kWarps + warp);
  const int64_t i = static_cast<int64_t>(blockIdx.x) * 32 + lane, n = s.experts * (s.hidden + 1);
  A sum = 0;
  if (i < n) {
#pragma unroll 8
    for (int c = warp; c < chunks; c += kWarps) sum += partial[c * n + i];
  }
  warp_sums[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || i >= n) return;
  for (int k = 1; k < kWarps; ++k) sum += warp_sums[k][lane];
  const int64_t e = i / (s.hidden + 1), j = i % (s.hidden + 1);
  if (j < s.hidden && dw) dw[e * s.hidden + j] = sum;
  if (j == s.hidden && db) db[e] = sum;
}

}  // namespace glia::cuda::router
