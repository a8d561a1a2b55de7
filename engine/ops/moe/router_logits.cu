// Router logits on CUDA, any size; top_k_route.cu has the fused path. Nothing here waits for the host or adds with float
// atomics.
#include "engine/ops/moe/router_products.cuh"

namespace glia::cuda {
namespace {

using namespace router;

constexpr int kRouterThreads = 128;  // of router_logits_kernel: its blocks divide evenly among the multiprocessors

// Four tokens a warp, 8 experts at a time. W columns are 16 bytes of w: a warp's loads of w are contiguous and,
// after the first block of a multiprocessor, hits in its L1. What the epilogue needs is fetched before the sums.
template <int W, class T, class A>
__global__ void __launch_bounds__(kRouterThreads, sizeof(A) == 4 ? 5 : 2)
    router_logits_kernel(RouterShape s, const T* __restrict__ x, const A* __restrict__ w, const A* __restrict__ b,
                         const A* __restrict__ context, A* __restrict__ logits, A* __restrict__ raw) {
  const int lane = threadIdx.x % 32;
  const int64_t first =
      (static_cast<int64_t>(blockIdx.x) * (kRouterThreads / 32) + threadIdx.x / 32) * kTokensPerWarp;
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

// The same on tensor cores, for bfloat16 rows: a block has 64 tokens and 8 experts.     grid (⌈T / 64⌉, ⌈E / 8⌉)
__global__ void __launch_bounds__(kRouteThreads, 4)
    tensor_logits_kernel(RouterShape s, const bfloat16* __restrict__ x, const float* __restrict__ w,
                         const float* __restrict__ b, const float* __restrict__ context, float* __restrict__ logits,
                         float* __restrict__ raw) {
  extern __shared__ __align__(16) bfloat16 parts[];
  const int lane = threadIdx.x % 32, g = lane >> 2, quad = lane & 3;
  const int64_t first = blockIdx.x * static_cast<int64_t>(kRouteRows) + threadIdx.x / 32 * 16,
                e0 = blockIdx.y * static_cast<int64_t>(kMostExperts);
  const auto row = [&](int64_t t) { return x + min(t, s.tokens - 1) * s.hidden; };
  const auto token_of = [&](int i) { return first + g + (i >> 1) * 8; };
  const auto expert_of = [&](int i) { return e0 + 2 * quad + (i & 1); };
  float bias[4] = {}, other[4] = {}, c[4];  // fetched before the product
  bool real[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t t = token_of(i), e = expert_of(i);
    const int32_t sequence = t < s.tokens && e < s.experts ? s.sequence_of[t] : -1;
    real[i] = sequence >= 0;
    if (!real[i]) continue;
    bias[i] = b[e];
    if (s.mode != kNone) other[i] = context[sequence * s.experts + e];
  }
  multiply_rows<2>(row(first + g), row(first + g + 8), static_cast<int>(s.hidden), w + e0 * s.hidden,
                   static_cast<int>(min(s.experts - e0, static_cast<int64_t>(kMostExperts))), parts, c);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t t = token_of(i), e = expert_of(i);
    if (t >= s.tokens || e >= s.experts) continue;
    const float r = real[i] ? c[i] + bias[i] : 0.0f;
    logits[t * s.experts + e] = !real[i] || s.mode == kNone ? r
                                : s.mode == kAdd            ? r + other[i]
                                                            : r * logistic(other[i]);
    if (raw) raw[t * s.experts + e] = r;
  }
}

// dx[t] = Σ_e dr[t, e] w[e], added in the order of the experts, for more of them than gradient_kernel keeps in registers.
template <int W, class T, class A>
__global__ void __launch_bounds__(kThreads, 3)
    router_dx_kernel(RouterShape s, const A* __restrict__ w, LogitsSource<A> source, T* __restrict__ dx) {
  const int lane = threadIdx.x % 32;
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32) * kTokensPerWarp;
  if (first >= s.tokens) return;
  for (int64_t column0 = 0; column0 < s.hidden; column0 += 32 * W) {  // all lanes stay: the shuffles need them
    const int64_t column = column0 + lane * W;
    A sums[kTokensPerWarp][W] = {};
    for (int64_t e0 = 0; e0 < s.experts; e0 += kExpertsPerPass) {
      const A d = source(first + lane / kExpertsPerPass, e0 + lane % kExpertsPerPass);
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

// The same for rows of whole packs of float32: a block has 64 tokens and 128 columns, a thread 4 tokens and twice 4 columns
// (64 apart, so that a warp reads w without bank conflicts); 32 experts at a time lie in shared memory.
//     grid (⌈T / 64⌉, ⌈H / 128⌉), H a multiple of 4
constexpr int kTileRows = 64, kTileColumns = 128, kTileDepth = 32;
template <class T>
__global__ void __launch_bounds__(kThreads) router_dx_tile_kernel(RouterShape s, const float* __restrict__ w,
                                                                  LogitsSource<float> source, T* __restrict__ dx) {
  __shared__ __align__(16) float dr[kTileDepth][kTileRows + 4];
  __shared__ __align__(16) float weights[kTileDepth][kTileColumns];
  const int across = threadIdx.x % 16 * 4, down = threadIdx.x / 16 * 4;
  const int64_t first = blockIdx.x * static_cast<int64_t>(kTileRows),
                column0 = blockIdx.y * static_cast<int64_t>(kTileColumns);
  float sums[4][2][4] = {};
  for (int64_t e0 = 0; e0 < s.experts; e0 += kTileDepth) {
    const int depth = static_cast<int>(min(s.experts - e0, static_cast<int64_t>(kTileDepth)));
    __syncthreads();  // the experts before may still be read
#pragma unroll
    for (int i = threadIdx.x; i < kTileRows * kTileDepth; i += kThreads)
      dr[i % kTileDepth][i / kTileDepth] = source(first + i / kTileDepth, e0 + i % kTileDepth);
#pragma unroll
    for (int i = threadIdx.x; i < kTileDepth * kTileColumns / 4; i += kThreads) {
      const int e = i / (kTileColumns / 4), column = i % (kTileColumns / 4) * 4;
      const bool inside = e < depth && column0 + column < s.hidden;
      *reinterpret_cast<float4*>(&weights[e][column]) =
          inside ? *reinterpret_cast<const float4*>(w + (e0 + e) * s.hidden + column0 + column)
                 : make_float4(0, 0, 0, 0);
    }
    __syncthreads();
#pragma unroll 8
    for (int e = 0; e < depth; ++e) {
      float d[4], v[2][4];
      load<4>(&dr[e][down], d);
      load<4>(&weights[e][across], v[0]);
      load<4>(&weights[e][across + kTileColumns / 2], v[1]);
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
          for (int k = 0; k < 4; ++k) sums[i][half][k] += d[i] * v[half][k];
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t column = column0 + across + half * (kTileColumns / 2);
    if (column >= s.hidden) continue;
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (first + down + i < s.tokens) store<4>(dx + (first + down + i) * s.hidden + column, sums[i][half]);
  }
}
}  // namespace

template <class T, class A>
void router_logits(const RouterShape& s, const T* x, const A* w, const A* b, const A* context, A* logits, A* raw,
                   Stream stream) {
  if (s.tokens == 0) return;
  if constexpr (std::is_same_v<T, bfloat16>) {
    if (parts_fit(s.hidden) && aligned16(x, w)) {
      const dim3 blocks((s.tokens + kRouteRows - 1) / kRouteRows, (s.experts + kMostExperts - 1) / kMostExperts);
      return launch_with_parts("router_logits", tensor_logits_kernel, blocks, s.hidden, stream, s, x, w, b, context,
                               logits, raw);
    }
  }
  constexpr int64_t kPerBlock = kRouterThreads / 32 * kTokensPerWarp;
  with_width<A>(
      s.hidden,
      [&](auto width) {
        launch("router_logits", router_logits_kernel<decltype(width)::value, T, A>,
               {(s.tokens + kPerBlock - 1) / kPerBlock, kRouterThreads}, stream, s, x, w, b, context, logits, raw);
      },
      x, w);
}

template <class T, class A>
void router_logits_gradient(const RouterShape& s, const T* x, const A* w, const A* context, const A* raw,
                            const A* dlogits, T* dx, A* dw, A* db, A* dcontext, A* partial, Stream stream) {
  const int passes = static_cast<int>((s.experts + kExpertsPerPass - 1) / kExpertsPerPass);
  const int chunks = static_cast<int>(router_chunks(s.tokens, s.hidden));
  const bool sums = dw || db, fused = passes == 1;
  const LogitsSource<A> source{s, context, dlogits};
  with_width<A>(
      s.hidden,
      [&](auto width) {
        constexpr int W = decltype(width)::value;
        if (dx && !fused && s.tokens > 0) {
          if constexpr (std::is_same_v<A, float> && W == 4)
            launch("router_logits/dx", router_dx_tile_kernel<T>,
                   {dim3((s.tokens + kTileRows - 1) / kTileRows, (s.hidden + kTileColumns - 1) / kTileColumns),
                    kThreads},
                   stream, s, w, source, dx);
          else
            launch("router_logits/dx", router_dx_kernel<W, T, A>, {warp_grid(s.tokens, kTokensPerWarp), kThreads},
                   stream, s, w, source, dx);
        }
        if (!sums && !(dx && fused)) return;
        launch_gradient<W>("router_logits/gradient", chunks, passes, stream, s, x, w, source, fused ? dx : nullptr,
                           sums ? partial : nullptr);
      },
      x, w, dx);
  const int sum_blocks = sums ? static_cast<int>((s.experts * (s.hidden + 1) + 31) / 32) : 0;
  const int context_blocks = dcontext && s.sequences > 0 ? warp_grid(s.sequences) : 0;
  if (sum_blocks + context_blocks == 0) return;
  launch("router_logits/finish", finish_kernel<A>, {sum_blocks + context_blocks, kThreads}, stream, s, partial,
         chunks, sum_blocks, dw, db, context, raw, dlogits, dcontext);
}
#define INSTANTIATE(T, A)                                                                                        \
  template void router_logits(const RouterShape&, const T*, const A*, const A*, const A*, A*, A*, Stream);       \
  template void router_logits_gradient(const RouterShape&, const T*, const A*, const A*, const A*, const A*, T*, \
                                       A*, A*, A*, A*, Stream);
INSTANTIATE(float, float)
INSTANTIATE(double, double)
INSTANTIATE(bfloat16, float)
#undef INSTANTIATE

}  // namespace glia::cuda
