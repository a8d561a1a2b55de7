// The fused router on CUDA: logits on tensor cores with the top-k, the gates and the load behind them in one
// launch.
//
// The logits have to be as good as float32 ones (16-bit logits change 5 % of the choices): x is bfloat16 as it is,
// w is cut into three bfloat16 parts whose sum is w to 24 bits, so every product is exact and only the float32 sums
// round.
#include "engine/ops/moe/router_gradient.cuh"
#include "engine/ops/moe/top_k_route_kernels.h"

namespace glia::cuda {
namespace {

using namespace router;

constexpr int kRouteThreads = 128;           // 4 warps of 16 rows
constexpr int kParts = 3, kMostExperts = 8;  // n of one mma
constexpr int kGroup = 64;                   // columns a step: 4 mma of depth 16

__device__ __forceinline__ void multiply(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                         uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// A row of w in shared memory: 8 bfloat16 more than H, so that 8 rows begin in different banks.
__host__ __device__ constexpr int row_stride(int64_t hidden) { return static_cast<int>(hidden) + 8; }

// The three parts of w, rows from E on zero; a thread's loads fly together.     parts [3][8][row_stride(H)]
__device__ __forceinline__ void split_weights(const RouterShape& s, const float* __restrict__ w, bfloat16* parts) {
  constexpr int kAhead = 8;
  const int hidden = static_cast<int>(s.hidden), stride = row_stride(hidden), quads = hidden / 4;
  for (int first = threadIdx.x; first < kMostExperts * quads; first += kRouteThreads * kAhead) {
    float4 loaded[kAhead];
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      const int i = first + a * kRouteThreads;
      loaded[a] = i < s.experts * quads ? reinterpret_cast<const float4*>(w)[i] : make_float4(0, 0, 0, 0);
    }
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      const int i = first + a * kRouteThreads;
      if (i >= kMostExperts * quads) break;
      float rest[4] = {loaded[a].x, loaded[a].y, loaded[a].z, loaded[a].w};
      bfloat16* to = parts + i / quads * stride + i % quads * 4;
#pragma unroll
      for (int p = 0; p < kParts; ++p) {
        Pack<bfloat16, 4> part;
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          part.v[k] = static_cast<bfloat16>(rest[k]);
          rest[k] -= static_cast<float>(part.v[k]);
        }
        *reinterpret_cast<Pack<bfloat16, 4>*>(to + p * kMostExperts * stride) = part;
      }
    }
  }
}

// c[16 rows, 8 experts] = x wᵀ of a warp's rows, of which a lane reads rows lane / 4 and lane / 4 + 8. Depth runs
// in an order of its own (lane t of a quad has 16 columns in a row out of 64), the same on both sides, so that
// loads are 16 bytes wide.
__device__ __forceinline__ void multiply_rows(const bfloat16* row0, const bfloat16* row1, int hidden,
                                              const RouterShape& s, const float* w, bfloat16* parts,
                                              float (&c)[4]) {
  constexpr int kAhead = 8;  // groups in flight
  const int lane = threadIdx.x % 32, g = lane >> 2, t = lane & 3, groups = hidden / kGroup,
            stride = row_stride(hidden);
  float high[4][4] = {}, middle[4] = {}, low[4] = {};  // four sums of the leading part: shorter chains round less
  for (int first = 0; first < groups; first += kAhead) {
    uint4 x0[kAhead][2], x1[kAhead][2];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (first + i >= groups) break;
      const int column = (first + i) * kGroup + 16 * t;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        x0[i][half] = *reinterpret_cast<const uint4*>(row0 + column + 8 * half);
        x1[i][half] = *reinterpret_cast<const uint4*>(row1 + column + 8 * half);
      }
    }
    if (first == 0) {  // while the first rows fly
      split_weights(s, w, parts);
      __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (first + i >= groups) break;
      const bfloat16* b = parts + g * stride + (first + i) * kGroup + 16 * t;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t a[4] = {x0[i][half].x, x0[i][half].y, x0[i][half].z, x0[i][half].w};
        const uint32_t d[4] = {x1[i][half].x, x1[i][half].y, x1[i][half].z, x1[i][half].w};
        const uint4 b1 = *reinterpret_cast<const uint4*>(b + 8 * half);
        const uint4 b2 = *reinterpret_cast<const uint4*>(b + kMostExperts * stride + 8 * half);
        const uint4 b3 = *reinterpret_cast<const uint4*>(b + 2 * kMostExperts * stride + 8 * half);
        multiply(high[2 * half], a[0], d[0], a[1], d[1], b1.x, b1.y);
        multiply(high[2 * half + 1], a[2], d[2], a[3], d[3], b1.z, b1.w);
        multiply(middle, a[0], d[0], a[1], d[1], b2.x, b2.y);
        multiply(low, a[0], d[0], a[1], d[1], b3.x, b3.y);
        multiply(middle, a[2], d[2], a[3], d[3], b2.z, b2.w);
        multiply(low, a[2], d[2], a[3], d[3], b3.z, b3.w);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) c[i] = ((high[0][i] + high[1][i]) + (high[2][i] + high[3][i])) + (middle[i] + low[i]);
}

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
  multiply_rows(row(first + g), row(first + g + 8), static_cast<int>(s.hidden), s, w, parts, c);
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
  multiply_rows(x + min(at[0], s.tokens - 1) * s.hidden, x + min(at[1], s.tokens - 1) * s.hidden,
                static_cast<int>(s.hidden), s, w, parts, c);
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
//     dg_i = dgates_i + Σ dlosses · d(losses)/d(importance of i's expert),   dl_e = dlogits_e + g_i (dg_i − Σ_j g_j
//     dg_j).
struct GatesSource {
  RouterShape s;
  RouteGradient g;
  const float* context;
  float* sum_dlogits;

  __device__ void begin(float* by_expert) const {
    const int e = threadIdx.x;
    if (e >= kMostExperts) return;
    by_expert[e] = g.dlosses && e < s.experts
                       ? importance_gradient(g.importance, e, s.experts, static_cast<float>(s.offsets[s.sequences]),
                                             g.dlosses[0], g.dlosses[1])
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

size_t shared_bytes(int64_t hidden) { return sizeof(bfloat16) * kParts * kMostExperts * row_stride(hidden); }

}  // namespace

bool route_fits(int64_t hidden, int64_t experts) {
  return experts >= 1 && experts <= kMostExperts && hidden >= 64 && hidden % 64 == 0 && hidden <= 704;
}

void route_context(const RouterShape& s, const bfloat16* x, const float* w, const float* b, float* logits,
                   Stream stream) {
  if (s.sequences == 0) return;
  const int blocks = static_cast<int>((s.sequences + kRouteRows - 1) / kRouteRows);
  launch("route/context", context_kernel, {blocks, kRouteThreads, shared_bytes(s.hidden)}, stream, s, x, w, b,
         logits);
}

void route(const RouterShape& s, int64_t k, const bfloat16* x, const float* w, const float* b, const float* context,
           float* logits, float* raw, float* gates, int32_t* chosen, float* partial, Stream stream) {
  if (s.tokens == 0) return;
  const int blocks = static_cast<int>((s.tokens + kRouteRows - 1) / kRouteRows);
  launch("route", route_kernel, {blocks, kRouteThreads, shared_bytes(s.hidden)}, stream, s, static_cast<int>(k), x,
         w, b, context, logits, raw, gates, chosen, partial);
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
