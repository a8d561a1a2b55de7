// The MoE path on CUDA. Nothing here waits for the host or adds with float atomics.
#include "engine/ops/cuda/packs.cuh"
#include "engine/ops/moe_functors.h"
#include "engine/ops/moe_kernels.h"

namespace glia::cuda {
namespace {

enum { kNone, kAdd, kGate };  // ContextMode
constexpr int kWarps = kThreads / 32;
constexpr int kRouterThreads = 128;  // of router_logits_kernel: its blocks divide evenly among the multiprocessors
constexpr int kTokensPerWarp = 4, kExpertsPerPass = 8;  // 4 × 8 sums: one a lane after the transposing reduction

// v[i] summed over the warp, for 32 values at once; lane i returns the sum of v[i]. 31 shuffles.
template <class A>
__device__ __forceinline__ A warp_sum_transposed(A (&v)[32], int lane) {
#pragma unroll
  for (int half = 16; half >= 1; half /= 2) {
    const bool upper = lane & half;
#pragma unroll
    for (int j = 0; j < half; ++j) {
      const A mine = upper ? v[j + half] : v[j], other = upper ? v[j] : v[j + half];
      v[j] = mine + __shfl_xor_sync(0xffffffffu, other, half);
    }
  }
  return v[0];
}

// Four tokens a warp, 8 experts at a time. W columns are 16 bytes of w: a warp's loads of w are contiguous and, after the
// first block of a multiprocessor, hits in its L1. What the epilogue needs is fetched before the sums.
template <int W, class T, class A>
__global__ void __launch_bounds__(kRouterThreads, sizeof(A) == 4 ? 5 : 2)
    router_logits_kernel(RouterShape s, const T* __restrict__ x, const A* __restrict__ w, const A* __restrict__ b,
                         const A* __restrict__ context, A* __restrict__ logits, A* __restrict__ raw) {
  const int lane = threadIdx.x % 32;
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * (kRouterThreads / 32) + threadIdx.x / 32) * kTokensPerWarp;
  if (first >= s.tokens) return;
  const T* rows[kTokensPerWarp];
#pragma unroll
  for (int i = 0; i < kTokensPerWarp; ++i) rows[i] = x + min(first + i, s.tokens - 1) * s.hidden;
  const int64_t t = first + lane / kExpertsPerPass;
  const int32_t sequence = t < s.tokens ? s.sequence_of[t] : -1;
  for (int64_t e0 = 0; e0 < s.experts; e0 += kExpertsPerPass) {
    const int64_t e = e0 + lane % kExpertsPerPass;
    const bool real = sequence >= 0 && e < s.experts;
    const A bias = real ? b[e] : A(0), c = real && s.mode != kNone ? context[sequence * s.experts + e] : A(0);
    A sums[32] = {};
#pragma unroll 2
    for (int64_t column = lane * W; column < s.hidden; column += 32 * W) {
      A xs[kTokensPerWarp][W];
#pragma unroll
      for (int i = 0; i < kTokensPerWarp; ++i) load<W>(rows[i] + column, xs[i]);
#pragma unroll
      for (int n = 0; n < kExpertsPerPass; ++n) {
        if (e0 + n >= s.experts) break;
        A v[W];
        load<W>(w + (e0 + n) * s.hidden + column, v);
#pragma unroll
        for (int k = 0; k < W; ++k)
#pragma unroll
          for (int i = 0; i < kTokensPerWarp; ++i) sums[i * kExpertsPerPass + n] += xs[i][k] * v[k];
      }
    }
    const A total = warp_sum_transposed(sums, lane);
    if (t >= s.tokens || e >= s.experts) continue;
    const A r = real ? total + bias : A(0);
    A l = r;
    if (real && s.mode == kAdd) l = r + c;
    if (real && s.mode == kGate) l = r * logistic(c);
    logits[t * s.experts + e] = l;
    if (raw) raw[t * s.experts + e] = r;
  }
}

// d(w x + b) of one logit.
template <class A>
__device__ __forceinline__ A raw_gradient(const RouterShape& s, const A* context, const A* dlogits, int64_t t, int64_t e) {
  if (t >= s.tokens || e >= s.experts) return A(0);
  const A d = dlogits[t * s.experts + e];
  const int32_t sequence = s.sequence_of[t];
  if (sequence < 0) return A(0);
  return s.mode == kGate ? d * logistic(context[sequence * s.experts + e]) : d;
}

// dx[t] = Σ_e dr[t, e] w[e], for more experts than router_gradient_kernel keeps in registers.
template <int W, class T, class A>
__global__ void __launch_bounds__(kThreads, 3) router_dx_kernel(RouterShape s, const A* __restrict__ w, const A* __restrict__ context,
                                                             const A* __restrict__ dlogits, T* __restrict__ dx) {
  const int lane = threadIdx.x % 32;
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32) * kTokensPerWarp;
  if (first >= s.tokens) return;
  for (int64_t column0 = 0; column0 < s.hidden; column0 += 32 * W) {  // all lanes stay: the shuffles need them
    const int64_t column = column0 + lane * W;
    A sums[kTokensPerWarp][W] = {};
    for (int64_t e0 = 0; e0 < s.experts; e0 += kExpertsPerPass) {
      const A d = raw_gradient(s, context, dlogits, first + lane / kExpertsPerPass, e0 + lane % kExpertsPerPass);
#pragma unroll
      for (int e = 0; e < kExpertsPerPass; ++e) {
        if (e0 + e >= s.experts) break;
        A dr[kTokensPerWarp];
#pragma unroll
        for (int i = 0; i < kTokensPerWarp; ++i) dr[i] = __shfl_sync(0xffffffffu, d, i * kExpertsPerPass + e);
        if (column >= s.hidden) continue;
        A v[W];
        load<W>(w + (e0 + e) * s.hidden + column, v);
#pragma unroll
        for (int k = 0; k < W; ++k)
#pragma unroll
          for (int i = 0; i < kTokensPerWarp; ++i) sums[i][k] += dr[i] * v[k];
      }
    }
    if (column >= s.hidden) continue;
#pragma unroll
    for (int i = 0; i < kTokensPerWarp; ++i)
      if (first + i < s.tokens) store<W>(dx + (first + i) * s.hidden + column, sums[i]);
  }
}

// One pass over x: dx[t] = Σ_e dr[t, e] w[e], and of the chunk's tokens
//     partial[chunk, e, j] = Σ_t dr[t, e] x[t, j],  partial[chunk, e, H] = Σ_t dr[t, e].
// grid (chunks, ⌈E / 8⌉, ⌈H / (64·W)⌉), block 64 × 4: a thread has W columns of every 4th token, and of w and the sums of
// 8 experts in registers; the four sums are added in order. dx only where E <= 8 (else nullptr); partial may be nullptr.
template <int W, class T, class A>
__global__ void __launch_bounds__(kThreads, 2)
    router_gradient_kernel(RouterShape s, const T* __restrict__ x, const A* __restrict__ w, const A* __restrict__ context,
                           const A* __restrict__ dlogits, T* __restrict__ dx, A* __restrict__ partial) {
  constexpr int kTile = 128, kColumnThreads = 64, kLanes = kThreads / kColumnThreads, kColumns = kColumnThreads * W;
  constexpr int kAhead = sizeof(T) == 2 ? 6 : 4;  // rows in flight
  __shared__ __align__(16) A dr[kTile][kExpertsPerPass];
  __shared__ __align__(16) A lane_sums[kLanes][kExpertsPerPass][kColumns];
  __shared__ A warp_bias[kWarps][kExpertsPerPass];
  const int lane = threadIdx.x / kColumnThreads, slot = threadIdx.x % kColumnThreads * W;
  const int64_t e0 = blockIdx.y * kExpertsPerPass, column = static_cast<int64_t>(blockIdx.z) * kColumns + slot;
  const int64_t per_chunk = (s.tokens + gridDim.x - 1) / gridDim.x;
  const int64_t begin = blockIdx.x * per_chunk, end = min(s.tokens, begin + per_chunk);
  const bool inside = column < s.hidden;

  A weight[kExpertsPerPass][W] = {}, sums[kExpertsPerPass][W] = {}, bias = 0;
  if (dx && inside) {
#pragma unroll
    for (int e = 0; e < kExpertsPerPass; ++e)
      if (e0 + e < s.experts) load<W>(w + (e0 + e) * s.hidden + column, weight[e]);
  }
  for (int64_t tile = begin; tile < end; tile += kTile) {
    const int n = static_cast<int>(min(static_cast<int64_t>(kTile), end - tile));
    Pack<T, W> rows[kAhead];
    const auto fetch = [&](int i) {
#pragma unroll
      for (int a = 0; a < kAhead; ++a)
        if (i + a * kLanes < n && inside)
          rows[a] = *reinterpret_cast<const Pack<T, W>*>(x + (tile + i + a * kLanes) * s.hidden + column);
    };
    fetch(lane);      // these fly while the tile of dr is made
    __syncthreads();  // the tile before may still be read
    for (int i = threadIdx.x; i < n * kExpertsPerPass; i += kThreads) {  // a thread always has the same expert
      const A d = raw_gradient(s, context, dlogits, tile + i / kExpertsPerPass, e0 + i % kExpertsPerPass);
      dr[i / kExpertsPerPass][i % kExpertsPerPass] = d;
      bias += d;
    }
    __syncthreads();
    if (!inside) continue;
    for (int i = lane; i < n; i += kLanes * kAhead) {
      if (i != lane) fetch(i);
#pragma unroll
      for (int a = 0; a < kAhead; ++a) {
        const int row = i + a * kLanes;
        if (row >= n) break;
        A d[kExpertsPerPass], v[W], to[W] = {};
#pragma unroll
        for (int e = 0; e < kExpertsPerPass; ++e) d[e] = dr[row][e];
#pragma unroll
        for (int k = 0; k < W; ++k) v[k] = static_cast<A>(rows[a].v[k]);
#pragma unroll
        for (int e = 0; e < kExpertsPerPass; ++e)
#pragma unroll
          for (int k = 0; k < W; ++k) sums[e][k] += d[e] * v[k], to[k] += d[e] * weight[e][k];
        if (dx) store<W>(dx + (tile + row) * s.hidden + column, to);
      }
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

// dcontext[b, e], one warp a sequence: 4 rows of 8 experts at a time.
template <class A>
__device__ __forceinline__ void sum_context(const RouterShape& s, const A* context, const A* raw, const A* dlogits, A* dcontext,
                                            int64_t b) {
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

// Two small sums in one launch. The first `sums` blocks add the chunks of 32 elements of dw and db, each warp every 8th
// chunk and then the warps in order; the blocks after them make dcontext.
template <class A>
__global__ void __launch_bounds__(kThreads)
    router_finish_kernel(RouterShape s, const A* __restrict__ partial, int chunks, int sums, A* __restrict__ dw, A* __restrict__ db,
                         const A* __restrict__ context, const A* __restrict__ raw, const A* __restrict__ dlogits,
                         A* __restrict__ dcontext) {
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

// f(Width) with as many columns as 16 bytes of w, or one where the rows do not allow it.
template <class A, class F, class... P>
void with_router_width(int64_t hidden, F&& f, const P*... pointers) {
  constexpr int kWide = 16 / sizeof(A);
  if (hidden % kWide == 0 && aligned16(pointers...)) f(Width<kWide>{});
  else f(Width<1>{});
}

int warp_grid(int64_t items, int per_warp = 1) {
  return static_cast<int>(std::max<int64_t>(1, (items + kWarps * per_warp - 1) / (kWarps * per_warp)));
}

}  // namespace

template <class T, class A>
void router_logits(const RouterShape& s, const T* x, const A* w, const A* b, const A* context, A* logits, A* raw, Stream stream) {
  if (s.tokens == 0) return;
  constexpr int64_t kPerBlock = kRouterThreads / 32 * kTokensPerWarp;
  with_router_width<A>(
      s.hidden,
      [&](auto width) {
        router_logits_kernel<decltype(width)::value>
            <<<static_cast<int>((s.tokens + kPerBlock - 1) / kPerBlock), kRouterThreads, 0, stream>>>(s, x, w, b, context, logits, raw);
      },
      x, w);
  CUDA_CHECK_LAUNCH("router_logits", stream);
}

template <class T, class A>
void router_logits_gradient(const RouterShape& s, const T* x, const A* w, const A* context, const A* raw, const A* dlogits, T* dx,
                            A* dw, A* db, A* dcontext, A* partial, Stream stream) {
  const int passes = static_cast<int>((s.experts + kExpertsPerPass - 1) / kExpertsPerPass);
  const int chunks = static_cast<int>(router_chunks(s.tokens, s.hidden));
  const bool sums = dw || db, fused = passes == 1;
  with_router_width<A>(
      s.hidden,
      [&](auto width) {
        constexpr int W = decltype(width)::value;
        if (dx && !fused && s.tokens > 0) {
          router_dx_kernel<W><<<warp_grid(s.tokens, kTokensPerWarp), kThreads, 0, stream>>>(s, w, context, dlogits, dx);
          CUDA_CHECK_LAUNCH("router_logits/dx", stream);
        }
        if (!sums && !(dx && fused)) return;
        const dim3 grid(chunks, passes, static_cast<int>((s.hidden + 64 * W - 1) / (64 * W)));
        router_gradient_kernel<W>
            <<<grid, kThreads, 0, stream>>>(s, x, w, context, dlogits, fused ? dx : nullptr, sums ? partial : nullptr);
        CUDA_CHECK_LAUNCH("router_logits/gradient", stream);
      },
      x, w, dx);
  const int sum_blocks = sums ? static_cast<int>((s.experts * (s.hidden + 1) + 31) / 32) : 0;
  const int context_blocks = dcontext && s.sequences > 0 ? warp_grid(s.sequences) : 0;
  if (sum_blocks + context_blocks == 0) return;
  router_finish_kernel<<<sum_blocks + context_blocks, kThreads, 0, stream>>>(s, partial, chunks, sum_blocks, dw, db, context, raw,
                                                                             dlogits, dcontext);
  CUDA_CHECK_LAUNCH("router_logits/finish", stream);
}

template <class A>
void top_k_gates(const A* logits, const int32_t* sequence_of, int64_t tokens, int64_t experts, int64_t k, A* gates, int32_t* chosen,
                 Stream stream) {
  for_each("top_k_gates", tokens, stream, [=] __device__(int64_t t) {
    if (sequence_of[t] >= 0) {
      choose_and_gate(logits + t * experts, experts, k, gates + t * k, chosen + t * k);
    } else {
      for (int64_t i = t * k; i < (t + 1) * k; ++i) gates[i] = 0, chosen[i] = -1;
    }
  });
}

template <class A>
void top_k_gates_gradient(const A* gates, const int32_t* chosen, const A* dgates, int64_t tokens, int64_t experts, int64_t k,
                          A* dlogits, Stream stream) {
  for_each("top_k_gates/gradient", tokens, stream, [=] __device__(int64_t t) {
    const A *g = gates + t * k, *d = dgates + t * k;
    A inner = 0;
    for (int64_t i = 0; i < k; ++i) inner += g[i] * d[i];
    for (int64_t e = 0; e < experts; ++e) dlogits[t * experts + e] = 0;
    for (int64_t i = 0; i < k; ++i)
      if (chosen[t * k + i] >= 0) dlogits[t * experts + chosen[t * k + i]] = g[i] * (d[i] - inner);
  });
}

namespace {

// partial[block, e] = Σ of the gates that expert e got from the block's tokens; one warp an expert.
template <class A>
__global__ void __launch_bounds__(kThreads) importance_kernel(LoadShape s, const A* gates, const int32_t* chosen, A* partial) {
  const int lane = threadIdx.x % 32;
  const int64_t begin = blockIdx.x * kLoadChunk * s.k, end = min(s.tokens * s.k, begin + kLoadChunk * s.k);
  for (int64_t e = threadIdx.x / 32; e < s.experts; e += kWarps) {
    A sum = 0;
#pragma unroll 4
    for (int64_t i = begin + lane; i < end; i += 32) sum += chosen[i] == e ? gates[i] : A(0);
    sum = warp_sum(sum);
    if (lane == 0) partial[blockIdx.x * s.experts + e] = sum;
  }
}

template <class A>
__global__ void __launch_bounds__(kThreads) losses_kernel(LoadShape s, const A* partial, int64_t chunks, A* losses, A* importance) {
  const int lane = threadIdx.x % 32;
  for (int64_t e = threadIdx.x / 32; e < s.experts; e += kWarps) {
    A sum = 0;
    for (int64_t c = lane; c < chunks; c += 32) sum += partial[c * s.experts + e];
    sum = warp_sum(sum);
    if (lane == 0) importance[e] = sum;
  }
  __syncthreads();
  if (threadIdx.x == 0) losses_of(importance, s.experts, static_cast<A>(*s.real_tokens), losses);
}

template <class A>
__global__ void __launch_bounds__(kThreads) losses_gradient_kernel(LoadShape s, const int32_t* chosen, const A* importance,
                                                                   const A* dlosses, A* dgates) {
  extern __shared__ char memory[];
  A* gradient = reinterpret_cast<A*>(memory);
  for (int64_t e = threadIdx.x; e < s.experts; e += kThreads)
    gradient[e] = importance_gradient(importance, e, s.experts, static_cast<A>(*s.real_tokens), dlosses[0], dlosses[1]);
  __syncthreads();
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < s.tokens * s.k; i += static_cast<int64_t>(gridDim.x) * kThreads)
    dgates[i] = chosen[i] >= 0 ? gradient[chosen[i]] : A(0);
}

}  // namespace

template <class A>
void load_losses(const LoadShape& s, const A* gates, const int32_t* chosen, A* partial, A* losses, A* importance, Stream stream) {
  const int64_t chunks = (s.tokens + kLoadChunk - 1) / kLoadChunk;
  if (chunks > 0) {
    importance_kernel<<<static_cast<int>(chunks), kThreads, 0, stream>>>(s, gates, chosen, partial);
    CUDA_CHECK_LAUNCH("load_losses/importance", stream);
  }
  losses_kernel<<<1, kThreads, 0, stream>>>(s, partial, chunks, losses, importance);
  CUDA_CHECK_LAUNCH("load_losses", stream);
}

template <class A>
void load_losses_gradient(const LoadShape& s, const int32_t* chosen, const A* importance, const A* dlosses, A* dgates, Stream stream) {
  losses_gradient_kernel<<<grid_for(s.tokens * s.k), kThreads, s.experts * sizeof(A), stream>>>(s, chosen, importance, dlosses, dgates);
  CUDA_CHECK_LAUNCH("load_losses/gradient", stream);
}

namespace {

// A stable counting sort in two kernels. First: how many pairs of each chunk go to each expert (integers: shared atomics
// give the same counts in any order).
__global__ void __launch_bounds__(kDispatchChunk) dispatch_count_kernel(const int32_t* chosen, int64_t pairs, int64_t experts,
                                                                        int32_t* counts) {
  extern __shared__ int32_t histogram[];
  for (int64_t e = threadIdx.x; e < experts; e += kDispatchChunk) histogram[e] = 0;
  __syncthreads();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kDispatchChunk + threadIdx.x;
  if (i < pairs && chosen[i] >= 0) atomicAdd(&histogram[chosen[i]], 1);
  __syncthreads();
  for (int64_t e = threadIdx.x; e < experts; e += kDispatchChunk) counts[blockIdx.x * experts + e] = histogram[e];
}

// Second: where each pair goes. shared: start[E] of this chunk in each group, then [warps][E] counts.
__global__ void __launch_bounds__(kDispatchChunk) dispatch_place_kernel(const int32_t* chosen, int64_t pairs, int64_t experts,
                                                                        int64_t alignment, const int32_t* counts, int32_t* offsets,
                                                                        int32_t* row_of, int32_t* pair_of) {
  constexpr int kChunkWarps = kDispatchChunk / 32;
  extern __shared__ int32_t shared[];
  int32_t *start = shared, *total = shared + experts, *by_warp = shared + 2 * experts;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int64_t e = warp; e < experts; e += kChunkWarps) {  // one warp an expert: counts before this chunk, and of all chunks
    int32_t before = 0, all = 0;
    for (int64_t c = lane; c < gridDim.x; c += 32) {
      const int32_t n = counts[c * experts + e];
      all += n;
      before += c < blockIdx.x ? n : 0;
    }
    before = warp_sum(before), all = warp_sum(all);
    if (lane == 0) start[e] = before, total[e] = all;
  }
  for (int64_t i = threadIdx.x; i < kChunkWarps * experts; i += kDispatchChunk) by_warp[i] = 0;
  __syncthreads();
  if (threadIdx.x == 0) {
    int64_t group = 0;
    for (int64_t e = 0; e < experts; ++e) {
      if (blockIdx.x == 0) offsets[e] = static_cast<int32_t>(group);
      start[e] += static_cast<int32_t>(group);
      group += (total[e] + alignment - 1) / alignment * alignment;
    }
    if (blockIdx.x == 0) offsets[experts] = static_cast<int32_t>(group);
  }
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kDispatchChunk + threadIdx.x;
  const int32_t e = i < pairs ? chosen[i] : -1;
  const unsigned same = __match_any_sync(0xffffffffu, e);
  const int rank = __popc(same & ((1u << lane) - 1));
  if (e >= 0 && rank == 0) by_warp[warp * experts + e] = __popc(same);
  __syncthreads();
  if (i >= pairs) return;
  if (e < 0) {
    row_of[i] = -1;
    return;
  }
  int32_t row = start[e] + rank;
  for (int w = 0; w < warp; ++w) row += by_warp[w * experts + e];
  row_of[i] = row;
  pair_of[row] = static_cast<int32_t>(i);
}

}  // namespace

void make_dispatch(const int32_t* chosen, int64_t pairs, int64_t experts, int64_t alignment, int64_t rows, int32_t* counts,
                   int32_t* offsets, int32_t* row_of, int32_t* pair_of, Stream stream) {
  CUDA_CHECK(cudaMemsetAsync(pair_of, 0xff, rows * sizeof(int32_t), stream));
  const int blocks = static_cast<int>(std::max<int64_t>(1, (pairs + kDispatchChunk - 1) / kDispatchChunk));
  dispatch_count_kernel<<<blocks, kDispatchChunk, experts * sizeof(int32_t), stream>>>(chosen, pairs, experts, counts);
  CUDA_CHECK_LAUNCH("make_dispatch/count", stream);
  const size_t shared = (2 + kDispatchChunk / 32) * experts * sizeof(int32_t);
  dispatch_place_kernel<<<blocks, kDispatchChunk, shared, stream>>>(chosen, pairs, experts, alignment, counts, offsets, row_of, pair_of);
  CUDA_CHECK_LAUNCH("make_dispatch/place", stream);
}

namespace {

// One warp a row.
template <int W, class T>
__global__ void __launch_bounds__(kThreads) dispatch_rows_kernel(const T* x, const int32_t* pair_of, int64_t rows, int64_t hidden,
                                                                 int64_t k, T* z) {
  const int64_t r = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (r >= rows) return;
  const int32_t pair = pair_of[r];
  for (int64_t column = threadIdx.x % 32 * W; column < hidden; column += 32 * W) {
    Pack<T, W> p;
    if (pair >= 0) {
      p = *reinterpret_cast<const Pack<T, W>*>(x + pair / k * hidden + column);
    } else {
#pragma unroll
      for (int i = 0; i < W; ++i) p.v[i] = static_cast<T>(0.0f);
    }
    *reinterpret_cast<Pack<T, W>*>(z + r * hidden + column) = p;
  }
}

// One warp a token.
template <int W, class T, class A>
__global__ void __launch_bounds__(kThreads) combine_rows_kernel(const T* z, const A* gates, const int32_t* row_of, int64_t tokens,
                                                                int64_t hidden, int64_t k, T* y) {
  const int64_t t = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (t >= tokens) return;
  for (int64_t column = threadIdx.x % 32 * W; column < hidden; column += 32 * W) {
    A sum[W] = {};
    for (int64_t i = t * k; i < (t + 1) * k; ++i) {
      const int32_t row = row_of[i];
      if (row < 0) continue;
      const A gate = gates ? gates[i] : A(1);
      const Pack<T, W> p = *reinterpret_cast<const Pack<T, W>*>(z + row * hidden + column);
#pragma unroll
      for (int j = 0; j < W; ++j) sum[j] += gate * static_cast<A>(p.v[j]);
    }
    Pack<T, W> out;
#pragma unroll
    for (int j = 0; j < W; ++j) out.v[j] = static_cast<T>(sum[j]);
    *reinterpret_cast<Pack<T, W>*>(y + t * hidden + column) = out;
  }
}

// One warp a dispatched row; each pair has one row, so dgates is written without conflict.
template <int W, class T, class A>
__global__ void __launch_bounds__(kThreads) combine_gradient_kernel(const T* z, const A* gates, const int32_t* pair_of, const T* dy,
                                                                    int64_t rows, int64_t hidden, int64_t k, T* dz, A* dgates) {
  const int64_t r = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (r >= rows) return;
  const int32_t pair = pair_of[r];
  const A gate = pair >= 0 ? gates[pair] : A(0);
  A inner = 0;
  for (int64_t column = threadIdx.x % 32 * W; column < hidden; column += 32 * W) {
    Pack<T, W> d, out;
    if (pair >= 0) {
      d = *reinterpret_cast<const Pack<T, W>*>(dy + pair / k * hidden + column);
      if (dgates) {
        const Pack<T, W> v = *reinterpret_cast<const Pack<T, W>*>(z + r * hidden + column);
#pragma unroll
        for (int j = 0; j < W; ++j) inner += static_cast<A>(d.v[j]) * static_cast<A>(v.v[j]);
      }
    }
#pragma unroll
    for (int j = 0; j < W; ++j) out.v[j] = pair >= 0 ? static_cast<T>(gate * static_cast<A>(d.v[j])) : static_cast<T>(0.0f);
    if (dz) *reinterpret_cast<Pack<T, W>*>(dz + r * hidden + column) = out;
  }
  inner = warp_sum(inner);
  if (dgates && pair >= 0 && threadIdx.x % 32 == 0) dgates[pair] = inner;
}

}  // namespace

template <class T>
void dispatch_rows(const T* x, const int32_t* pair_of, int64_t rows, int64_t hidden, int64_t k, T* z, Stream stream) {
  if (rows == 0) return;
  with_pack_width<T>(hidden, [&](auto width) {
    dispatch_rows_kernel<decltype(width)::value><<<warp_grid(rows), kThreads, 0, stream>>>(x, pair_of, rows, hidden, k, z);
  });
  CUDA_CHECK_LAUNCH("dispatch_rows", stream);
}

template <class T, class A>
void combine_rows(const T* z, const A* gates, const int32_t* row_of, int64_t tokens, int64_t hidden, int64_t k, T* y, Stream stream) {
  if (tokens == 0) return;
  with_pack_width<T>(hidden, [&](auto width) {
    combine_rows_kernel<decltype(width)::value><<<warp_grid(tokens), kThreads, 0, stream>>>(z, gates, row_of, tokens, hidden, k, y);
  });
  CUDA_CHECK_LAUNCH("combine_rows", stream);
}

template <class T, class A>
void combine_rows_gradient(const T* z, const A* gates, const int32_t* pair_of, const T* dy, int64_t rows, int64_t hidden, int64_t k,
                           T* dz, A* dgates, Stream stream) {
  if (rows == 0) return;
  with_pack_width<T>(hidden, [&](auto width) {
    combine_gradient_kernel<decltype(width)::value>
        <<<warp_grid(rows), kThreads, 0, stream>>>(z, gates, pair_of, dy, rows, hidden, k, dz, dgates);
  });
  CUDA_CHECK_LAUNCH("combine_rows/gradient", stream);
}

#define INSTANTIATE(T, A)                                                                                                             \
  template void router_logits(const RouterShape&, const T*, const A*, const A*, const A*, A*, A*, Stream);                            \
  template void router_logits_gradient(const RouterShape&, const T*, const A*, const A*, const A*, const A*, T*, A*, A*, A*, A*, Stream); \
  template void dispatch_rows(const T*, const int32_t*, int64_t, int64_t, int64_t, T*, Stream);                                       \
  template void combine_rows(const T*, const A*, const int32_t*, int64_t, int64_t, int64_t, T*, Stream);                              \
  template void combine_rows_gradient(const T*, const A*, const int32_t*, const T*, int64_t, int64_t, int64_t, T*, A*, Stream);
INSTANTIATE(float, float)
INSTANTIATE(double, double)
INSTANTIATE(bfloat16, float)
#undef INSTANTIATE
#define INSTANTIATE(A)                                                                                            \
  template void top_k_gates(const A*, const int32_t*, int64_t, int64_t, int64_t, A*, int32_t*, Stream);           \
  template void top_k_gates_gradient(const A*, const int32_t*, const A*, int64_t, int64_t, int64_t, A*, Stream);  \
  template void load_losses(const LoadShape&, const A*, const int32_t*, A*, A*, A*, Stream);                      \
  template void load_losses_gradient(const LoadShape&, const int32_t*, const A*, const A*, A*, Stream);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace glia::cuda
