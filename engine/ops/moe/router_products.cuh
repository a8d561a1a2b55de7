// Logits of a router on tensor cores, for kernels of 64 rows a block: the fused route (top_k_route.cu) and the logits alone
// (router_logits.cu), which so have the same bits.
//
// They have to be as good as float32 ones (16-bit logits change 5 % of the choices): x is bfloat16 as it is, w is cut into
// three bfloat16 parts whose sum is w to 24 bits, so every product is exact and only the float32 sums round.
#pragma once
#include "engine/ops/moe/router_gradient.cuh"
#include "engine/ops/moe/top_k_route_kernels.h"

namespace glia::cuda::router {

constexpr int kRouteThreads = kRouteRows * 2;  // 4 warps of 16 rows
constexpr int kParts = 3, kMostExperts = 8;    // n of one mma
constexpr int kGroup = 64;                     // columns a step: 4 mma of depth 16

__device__ __forceinline__ void multiply(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                         uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// A row of w in shared memory: 8 bfloat16 more than H, so that 8 rows begin in different banks.
__host__ __device__ constexpr int row_stride(int64_t hidden) { return static_cast<int>(hidden) + 8; }

// The three parts of w's `experts` rows, the rest of 8 zero; a thread's loads fly together.     parts [3][8][row_stride(H)]
__device__ __forceinline__ void split_weights(const float* __restrict__ w, int hidden, int experts,
                                              bfloat16* parts) {
  constexpr int kAhead = 8;
  const int stride = row_stride(hidden), quads = hidden / 4;
  for (int first = threadIdx.x; first < kMostExperts * quads; first += kRouteThreads * kAhead) {
    float4 loaded[kAhead];
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      const int i = first + a * kRouteThreads;
      loaded[a] = i < experts * quads ? reinterpret_cast<const float4*>(w)[i] : make_float4(0, 0, 0, 0);
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

// c[16 rows, 8 experts] = x wᵀ of a warp's rows, of which a lane reads rows lane / 4 and lane / 4 + 8, and the first
// `experts` rows of w, at most 8. Depth runs in an order of its own (lane t of a quad has 16 columns in a row out of 64),
// the same on both sides, so that loads are 16 bytes wide. A block calls it once: there is a barrier in it.
template <int kAhead>  // groups in flight
__device__ __forceinline__ void multiply_rows(const bfloat16* row0, const bfloat16* row1, int hidden,
                                              const float* w, int experts, bfloat16* parts, float (&c)[4]) {
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
      split_weights(w, hidden, experts, parts);
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

// Shared memory for the parts of 8 rows of w.
constexpr size_t parts_bytes(int64_t hidden) {
  return sizeof(bfloat16) * kParts * kMostExperts * row_stride(hidden);
}
// Kernels with so many bytes beside 10 KB of their own run on every GPU from sm_80 on, which have 99 KB a block.
constexpr int64_t kMostColumns = 1856;
inline bool parts_fit(int64_t hidden) { return hidden >= kGroup && hidden % kGroup == 0 && hidden <= kMostColumns; }

// launch() with room for the parts; the limit of a kernel is the same for all sizes, so that threads with others do not
// lower it under each other's launches.
template <class... P, class... A>
void launch_with_parts(const char* name, void (*kernel)(P...), const dim3& blocks, int64_t hidden, Stream stream,
                       A&&... arguments) {
  constexpr int kMost = static_cast<int>(parts_bytes(kMostColumns));
  CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kMost));
  launch(name, kernel, {blocks, kRouteThreads, parts_bytes(hidden)}, stream, std::forward<A>(arguments)...);
}

}  // namespace glia::cuda::router
