// The fused router on CUDA: logits on tensor cores with the top-k, the gates and the load behind them in one launch.
#include "engine/ops/moe/router_products.cuh"

namespace glia::cuda {
namespace {

using namespace router;

__global__ void __launch_bounds__(kRouteThreads)
    context_kernel(RouterShape s, const bfloat16* __restrict__ x, const float* __restrict__ w,
                   const float* __restrict__ b, float* __restrict__ logits) {
  extern __shared__ __align__(16) bfloat16 parts[];
  const int lane = threadIdx.x % 32, g = lane >> 2, t = lane & 3;
  const int64_t first = blockIdx.x * static_cast<int64_t>(kRouteRows) + threadIdx.x / 32 * 16;
  // An empty sequence behind a full batch begins where x ends; nobody reads its logits.
  const auto row = [&](int64_t i) {
    return x + min(static_cast<int64_t>(s.offsets[min(i, s.sequences - 1)]), s.tokens - 1) * s.hidden;
  };
  float c[4];
  multiply_rows<8>(row(first + g), row(first + g + 8), static_cast<int>(s.hidden), w, static_cast<int>(s.experts),
                   parts, c);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t sequence = first + g + (i >> 1) * 8, e = 2 * t + (i & 1);
    if (sequence < s.sequences && e < s.experts) logits[sequence * s.experts + e] = c[i] + b[e];
  }
}

__global__ void __launch_bounds__(kRouteThreads)
    route_kernel(RouterShape s, int k, const bfloat16* __restrict__ x, const float* __restrict__ w,
                 const float* __restrict__ b, const float* __restrict__ context, float* __restrict__ logits,
                 float* __restrict__ raw, float* __restrict__ gates, int32_t* __restrict__ chosen,
                 float* __restrict__ partial) {
  extern __shared__ __align__(16) bfloat16 parts[];
  __shared__ float l[kRouteRows][kMostExperts + 1], r[kRouteRows][kMostExperts + 1], gate[kRouteRows][kMostExperts];
  __shared__ int32_t choice[kRouteRows][kMostExperts];
  __shared__ float sums[kRouteThreads / kMostExperts][kMostExperts];
  const int lane = threadIdx.x % 32, g = lane >> 2, t = lane & 3, warp = threadIdx.x / 32;
  const int64_t block = blockIdx.x * static_cast<int64_t>(kRouteRows), first = block + warp * 16;
  const int64_t at[2] = {first + g, first + g + 8};
  float bias[2], other[4] = {};  // fetched before the product
  bool real[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) bias[i] = 2 * t + i < s.experts ? b[2 * t + i] : 0.0f;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int32_t sequence = at[i] < s.tokens ? s.sequence_of[at[i]] : -1;
    real[i] = sequence >= 0;
    if (real[i] && s.mode != kNone) {
#pragma unroll
      for (int e = 0; e < 2; ++e)
        if (2 * t + e < s.experts) other[2 * i + e] = context[sequence * s.experts + 2 * t + e];
    }
  }
  float c[4];
  multiply_rows<8>(x + min(at[0], s.tokens - 1) * s.hidden, x + min(at[1], s.tokens - 1) * s.hidden,
                   static_cast<int>(s.hidden), w, static_cast<int>(s.experts), parts, c);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int e = 2 * t + (i & 1), row = warp * 16 + g + (i >> 1) * 8;
    const float plain = real[i >> 1] ? c[i] + bias[i & 1] : 0.0f;
    r[row][e] = plain;
    l[row][e] = s.mode == kAdd ? plain + other[i] : s.mode == kGate ? plain * logistic(other[i]) : plain;
    if (t == 0 && (i & 1)) choice[row][0] = real[i >> 1] ? 0 : -1;
  }
  __syncwarp();
  const int rows = static_cast<int>(
      min(static_cast<int64_t>(16), max(static_cast<int64_t>(0), s.tokens - first)));  // of this warp
  if (lane < 16) {
    const int row = warp * 16 + lane;
    if (choice[row][0] >= 0) {
      choose_and_gate(l[row], s.experts, k, gate[row], choice[row]);
    } else {
      for (int i = 0; i < k; ++i) gate[row][i] = 0.0f, choice[row][i] = -1;
    }
  }
  __syncwarp();
  const int experts = static_cast<int>(s.experts);
  for (int i = lane; i < rows * experts; i += 32) {
    const int row = warp * 16 + i / experts, e = i % experts;
    logits[first * experts + i] = l[row][e];
    if (raw) raw[first * experts + i] = r[row][e];
  }
  for (int i = lane; i < rows * k; i += 32) {
    gates[first * k + i] = gate[warp * 16 + i / k][i % k];
    chosen[first * k + i] = choice[warp * 16 + i / k][i % k];
  }
  __syncthreads();
  // Importance: 16 threads an expert with 4 rows each, then the 16 in order.
  constexpr int kShares = kRouteThreads / kMostExperts, kRowsEach = kRouteRows / kShares;
  const int e = threadIdx.x % kMostExperts, share = threadIdx.x / kMostExperts;
  float sum = 0;
  for (int row = share * kRowsEach; row < (share + 1) * kRowsEach; ++row)
    for (int i = 0; i < k; ++i)
      if (choice[row][i] == e) sum += gate[row][i];
  sums[share][e] = sum;
  __syncthreads();
  if (threadIdx.x < experts) {
    sum = 0;
    for (int i = 0; i < kShares; ++i) sum += sums[i][threadIdx.x];
    partial[blockIdx.x * experts + threadIdx.x] = sum;
  }
}

// d(w x + b) from what the gates, the losses and the logits were given:
//     dg_i = dgates_i + dimportance of i's expert + Σ dlosses · d(losses)/d(that importance),
//     dl_e = dlogits_e + g_i (dg_i − Σ_j g_j dg_j).
struct GatesSource {
  RouterShape s;
  RouteGradient g;
  const float* context;
  float* sum_dlogits;

  __device__ void begin(float* by_expert) const {
    const int e = threadIdx.x;
    if (e >= kMostExperts) return;
    by_expert[e] = (g.dlosses || g.dimportance) && e < s.experts
                       ? load_gradient(g.importance, e, s.experts, static_cast<float>(s.offsets[s.sequences]),
                                       g.dlosses, g.dimportance)
                       : 0.0f;
  }
  // One thread a token.
  __device__ void fill(const float* by_expert, int64_t tile, int n, int64_t, float (*dr)[kExpertsPerPass]) const {
    const int experts = static_cast<int>(s.experts), k = static_cast<int>(g.k);
    for (int i = threadIdx.x; i < n; i += kThreads) {
      const int64_t t = tile + i;
      const int32_t sequence = s.sequence_of[t];
      int32_t chosen[kMostExperts];
      float gate[kMostExperts], dg[kMostExperts], inner = 0;
#pragma unroll
      for (int j = 0; j < kMostExperts; ++j) {
        chosen[j] = j < k ? g.chosen[t * k + j] : -1;
        gate[j] = j < k ? g.gates[t * k + j] : 0.0f;
        dg[j] = j < k && g.dgates ? g.dgates[t * k + j] : 0.0f;
      }
#pragma unroll
      for (int j = 0; j < kMostExperts; ++j) {
        if (chosen[j] < 0) continue;
        dg[j] += by_expert[chosen[j]];
        inner += gate[j] * dg[j];
      }
#pragma unroll
      for (int e = 0; e < kMostExperts; ++e) {
        float dl = e < experts && g.dlogits ? g.dlogits[t * experts + e] : 0.0f;
#pragma unroll
        for (int j = 0; j < kMostExperts; ++j)
          if (chosen[j] == e) dl += gate[j] * (dg[j] - inner);
        if (e < experts && blockIdx.z == 0) sum_dlogits[t * experts + e] = dl;
        if (e < experts && s.mode == kGate && sequence >= 0) dl *= logistic(context[sequence * experts + e]);
        dr[i][e] = sequence >= 0 ? dl : 0.0f;
      }
    }
  }
};

// grid (H / 16), block (8, 32): a thread has two columns of every 32nd sequence; the 32 sums are added in order.
__global__ void __launch_bounds__(kThreads)
    context_gradient_kernel(RouterShape s, const bfloat16* __restrict__ x, const float* __restrict__ w,
                            const float* __restrict__ dcontext, bfloat16* __restrict__ dx, float* __restrict__ dw,
                            float* __restrict__ db) {
  constexpr int kLanes = 32, kColumns = 16, kAhead = 6;
  __shared__ float lane_sums[kLanes][kMostExperts][kColumns];
  const int column = blockIdx.x * kColumns + threadIdx.x * 2, experts = static_cast<int>(s.experts);
  float weight[kMostExperts][2] = {}, sums[kMostExperts][2] = {};
#pragma unroll
  for (int e = 0; e < kMostExperts; ++e)
    if (e < experts) load<2>(w + e * s.hidden + column, weight[e]);
  for (int64_t first = threadIdx.y; first < s.sequences; first += kLanes * kAhead) {
    int64_t at[kAhead];
    float v[kAhead][2] = {}, to[kAhead][2] = {}, d[kAhead][kMostExperts] = {};
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      const int64_t b = first + a * kLanes;
      // An empty one has no first row: where it begins another sequence may, or x has ended.
      const bool real = b < s.sequences && s.offsets[b] < s.offsets[b + 1];
      at[a] = real ? s.offsets[b] * s.hidden + column : -1;
#pragma unroll
      for (int e = 0; e < kMostExperts; ++e)
        if (at[a] >= 0 && e < experts) d[a][e] = dcontext[b * experts + e];
    }
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      if (at[a] < 0) continue;
      load<2>(x + at[a], v[a]);
      if (dx) load<2>(dx + at[a], to[a]);
    }
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
#pragma unroll
      for (int e = 0; e < kMostExperts; ++e)
#pragma unroll
        for (int i = 0; i < 2; ++i) sums[e][i] += d[a][e] * v[a][i], to[a][i] += d[a][e] * weight[e][i];
      if (dx && at[a] >= 0) store<2>(dx + at[a], to[a]);
    }
  }
#pragma unroll
  for (int e = 0; e < kMostExperts; ++e) store<2>(&lane_sums[threadIdx.y][e][threadIdx.x * 2], sums[e]);
  __syncthreads();
  const int thread = threadIdx.y * 8 + threadIdx.x;
  for (int i = thread; i < experts * kColumns; i += kThreads) {
    float total = 0;
#pragma unroll
    for (int l = 0; l < kLanes; ++l) total += lane_sums[l][i / kColumns][i % kColumns];
    dw[i / kColumns * s.hidden + blockIdx.x * kColumns + i % kColumns] = total;
  }
  if (blockIdx.x == 0 && thread / 32 < experts) {  // a warp an expert
    float total = 0;
    for (int64_t b = thread % 32; b < s.sequences; b += 32) total += dcontext[b * experts + thread / 32];
    total = warp_sum(total);
    if (thread % 32 == 0) db[thread / 32] = total;
  }
}

}  // namespace

bool route_fits(int64_t hidden, int64_t experts) {
  return experts >= 1 && experts <= kMostExperts && parts_fit(hidden);
}

void route_context(const RouterShape& s, const bfloat16* x, const float* w, const float* b, float* logits,
                   Stream stream) {
  if (s.sequences == 0) return;
  const int blocks = static_cast<int>((s.sequences + kRouteRows - 1) / kRouteRows);
  launch_with_parts("route/context", context_kernel, blocks, s.hidden, stream, s, x, w, b, logits);
}

void route(const RouterShape& s, int64_t k, const bfloat16* x, const float* w, const float* b, const float* context,
           float* logits, float* raw, float* gates, int32_t* chosen, float* partial, Stream stream) {
  if (s.tokens == 0) return;
  const int blocks = static_cast<int>((s.tokens + kRouteRows - 1) / kRouteRows);
  launch_with_parts("route", route_kernel, blocks, s.hidden, stream, s, static_cast<int>(k), x, w, b, context,
                    logits, raw, gates, chosen, partial);
}

void route_gradient(const RouterShape& s, const RouteGradient& g, const bfloat16* x, const float* w,
                    const float* context, const float* raw, float* sum_dlogits, bfloat16* dx, float* dw, float* db,
                    float* dcontext, float* partial, Stream stream) {
  const int chunks = static_cast<int>(router_chunks(s.tokens, s.hidden));
  launch_gradient<4>("route/gradient", chunks, 1, stream, s, x, w, GatesSource{s, g, context, sum_dlogits}, dx,
                     partial);
  const int sum_blocks = static_cast<int>((s.experts * (s.hidden + 1) + 31) / 32);
  const int context_blocks = dcontext && s.sequences > 0 ? warp_grid(s.sequences) : 0;
  launch("route/finish", finish_kernel<float>, {sum_blocks + context_blocks, kThreads}, stream, s, partial, chunks,
         sum_blocks, dw, db, context, raw, sum_dlogits, dcontext);
}

void route_context_gradient(const RouterShape& s, const bfloat16* x, const float* w, const float* dcontext,
                            bfloat16* dx, float* dw, float* db, Stream stream) {
  launch("route/context_gradient", context_gradient_kernel, {s.hidden / 16, dim3(8, 32)}, stream, s, x, w, dcontext,
         dx, dw, db);
}

}  // namespace glia::cuda
