// From the accumulators of a warpgroup to device memory: bias, GELU and its derivative, column sums, staging.
//
// Every warp works for itself: it owns a few 2 KB chunks (16 rows × 64 columns of bf16, 128-byte swizzle), writes
// one with stmatrix and hands it to the copy engine, so that stores of a tile overlap the arithmetic and no warp
// waits for another.
#pragma once

#include "engine/ops/products/gelu_epilogue.cuh"
#include "engine/ops/products/sm90/gemm_sm90_schedule.cuh"

namespace glia::cuda::sm90 {

// Where a consumer thread stands; buffers in shared-memory addresses.
struct Consumer {
  int team, member, warp, lane;  // team, warpgroup inside it, warp inside that
  uint32_t staging;              // this warp's chunks
  uint32_t slope_barrier;        // this warp's: its chunks hold GELU's slopes
  float* sums;                   // [warps of the team][kTileN]
  float* bias;                   // [2][kTileN] of the team, used in turns
  int stores = 0;                // pairs of chunks sent off so far; the next pair = stores % (kChunks / 2)
};

template <class C> __device__ __forceinline__ int chunk_row(const Consumer& c, int mi) {
  return (c.member + mi) * 64 + c.warp * 16;  // one of the two is always 0
}
// Chunks are handled in pairs (one fence for both): two row blocks of the same columns, or two column blocks of a
// row.
template <class C> __device__ __forceinline__ constexpr int pair_mi(int e) { return C::kM64 == 2 ? e : 0; }
template <class C> __device__ __forceinline__ constexpr int pair_half(int q, int e) {
  return C::kM64 == 2 ? q : 2 * q + e;
}

template <class C> __device__ __forceinline__ int thread_in_team(const Consumer& c) {
  return c.member * kWarpgroup + c.warp * 32 + c.lane;
}
template <class C> __device__ __forceinline__ void team_sync(const Consumer& c) {
  named_sync(1 + c.team, C::kTeamSize * kWarpgroup);
}

// Lane l addresses row l % 8 of 8×8 matrix l / 8; matrices 0, 1 are rows 0–7, 8–15 of the even 8-column group and
// 2, 3 of the odd one. XOR with (pair << 5) moves on to the next pair of groups: the swizzle is an XOR of bits 4–6
// with the row.
__device__ __forceinline__ uint32_t matrix_address(uint32_t chunk, int lane) {
  const uint32_t r = lane & 7, m = lane >> 3;
  return chunk + ((m & 1) * 8 + r) * 128 + (((m >> 1) ^ r) << 4);
}

// GELU's slopes lie in memory as the accumulators in the threads: a chunk's 2 KB together, 16 bytes a lane at a time. Any
// kernel with tiles of 128 columns finds its own again, whatever its teams.
template <class C>
__device__ __forceinline__ uint4* slope_chunk(const Consumer& c, const Params& p, const Work& w, int q, int e) {
  static_assert(C::kTileN == 128);
  const int tile = w.row / kTileRows * ((p.n + C::kTileN - 1) / C::kTileN) + w.col / C::kTileN;
  const int chunk = ((c.member + pair_mi<C>(e)) * 4 + c.warp) * 2 + pair_half<C>(q, e);
  return p.slopes + (static_cast<long long>(tile) * 16 + chunk) * (kChunkBytes / 16);
}
// Issued before the multiplications of the tile: the slopes come into the chunks that the result will replace.
template <class C>
__device__ __forceinline__ void prefetch_slopes(const Consumer& c, const Params& p, const Work& w) {
  if (elected()) {
    store_wait_read<0>();
    barrier_expect(c.slope_barrier, C::kChunks * kChunkBytes);
#pragma unroll
    for (int i = 0; i < C::kChunks; ++i)
      load_bytes(c.staging + i * kChunkBytes, slope_chunk<C>(c, p, w, i / 2, i % 2), kChunkBytes, c.slope_barrier,
                 Cache::kPass);
  }
}

// float32 accumulators straight to memory: four lanes fill one 32-byte sector. out points at the tile's first
// element.
template <class C>
__device__ __forceinline__ void store_float(const Consumer& c, const float (&acc)[C::kM64][C::kTileN / 2],
                                            float* out, int stride, int rows, int cols) {
#pragma unroll
  for (int mi = 0; mi < C::kM64; ++mi) {
    const int row = chunk_row<C>(c, mi) + (c.lane >> 2);
#pragma unroll
    for (int j = 0; j < C::kTileN / 8; ++j) {
      const int col = j * 8 + 2 * (c.lane & 3);
      float* at = out + static_cast<long long>(row) * stride + col;
      if (col < cols && row < rows)
        *reinterpret_cast<float2*>(at) = make_float2(acc[mi][4 * j], acc[mi][4 * j + 1]);
      if (col < cols && row + 8 < rows)
        *reinterpret_cast<float2*>(at + 8ll * stride) = make_float2(acc[mi][4 * j + 2], acc[mi][4 * j + 3]);
    }
  }
}

// Accumulators of a part of a tile, between two blocks with the same layout of threads: 16 bytes a lane, in order.
// One flag a warp, raised by the writer and lowered by its only reader, so that the next kernel finds it as this
// one did.
template <class C> __device__ __forceinline__ long long part_warp(const Consumer& c, int block) {
  return (static_cast<long long>(block) * C::kTeamSize + c.member) * 4 + c.warp;
}
template <class C>
__device__ __forceinline__ void give_part(const Consumer& c, const float (&acc)[C::kM64][C::kTileN / 2],
                                          const Params& p) {
  const long long warp = part_warp<C>(c, static_cast<int>(blockIdx.x));
  float4* to = reinterpret_cast<float4*>(p.parts) + warp * 32 * (C::kM64 * C::kTileN / 8) + c.lane;
#pragma unroll
  for (int mi = 0; mi < C::kM64; ++mi)
#pragma unroll
    for (int i = 0; i < C::kTileN / 2; i += 4, to += 32)
      __stcg(to, make_float4(acc[mi][i], acc[mi][i + 1], acc[mi][i + 2], acc[mi][i + 3]));
  __threadfence();
  __syncwarp();
  if (elected()) store_release(p.flags + warp, 1);
}
template <class C>
__device__ __forceinline__ void add_part(const Consumer& c, float (&acc)[C::kM64][C::kTileN / 2], const Params& p,
                                         int block) {
  const long long warp = part_warp<C>(c, block);
  if (elected()) {
    wait_flag(p.flags + warp);
    store_release(p.flags + warp, 0);
  }
  __syncwarp();
  const float4* from = reinterpret_cast<const float4*>(p.parts) + warp * 32 * (C::kM64 * C::kTileN / 8) + c.lane;
  constexpr int kBatch = 16;  // loads under way
#pragma unroll
  for (int mi = 0; mi < C::kM64; ++mi)
#pragma unroll
    for (int i = 0; i < C::kTileN / 2; i += 4 * kBatch, from += 32 * kBatch) {
      float4 v[kBatch];
#pragma unroll
      for (int j = 0; j < kBatch; ++j) v[j] = __ldcg(from + 32 * j);
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        float* a = &acc[mi][i + 4 * j];
        a[0] += v[j].x, a[1] += v[j].y, a[2] += v[j].z, a[3] += v[j].w;
      }
    }
}

// This thread's column of the tile's bias; fetched before the multiplications, shared after them.
template <class C> __device__ __forceinline__ float load_bias(const Consumer& c, const Params& p, const Work& w) {
  const int t = thread_in_team<C>(c), col = w.col + t;
  if (t >= C::kTileN || col >= p.n) return 0.0f;
  const long long at = static_cast<long long>(w.group) * p.n + col;
  return p.bias_bf16 ? __bfloat162float(static_cast<const __nv_bfloat16*>(p.bias)[at])
                     : static_cast<const float*>(p.bias)[at];
}

// The next pair of staging chunks, once the copy engine has read what was there.
template <class C> __device__ __forceinline__ uint32_t take_pair(Consumer& c) {
  const uint32_t pair = c.staging + c.stores++ % (C::kChunks / 2) * (2 * kChunkBytes);
  if (elected()) store_wait_read<C::kChunks / 2 - 1>();
  __syncwarp();
  return pair;
}

// 32 values a lane (4 pairs of 8-column groups) into a chunk.
__device__ __forceinline__ void stage(uint32_t at, const float (&v)[32]) {
#pragma unroll
  for (int pair = 0; pair < 4; ++pair) {
    uint32_t r[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) r[i] = pack_bf16(v[pair * 8 + 2 * i], v[pair * 8 + 2 * i + 1]);
    store_matrices(at ^ (pair << 5), r);
  }
}

// `tile` counts this team's tiles; `bias` is what load_bias gave.
template <class C>
__device__ __forceinline__ void epilogue(Consumer& c, const float (&acc)[C::kM64][C::kTileN / 2], const Work& w,
                                         const Params& p, const CUtensorMap* map_out, uint32_t tile, float bias) {
  if constexpr (C::kEpilogue == Epilogue::kFloat) {
    float* out = p.direct + (static_cast<long long>(w.group) * p.m + w.row) * p.n + w.col;
    store_float<C>(c, acc, out, p.n, p.m - w.row, p.n - w.col);
    return;
  }
  const float* shared_bias = c.bias + (tile & 1) * C::kTileN;
  if constexpr (C::kHasBias) {
    // Two buffers in turns: whoever writes the one has seen everybody leave it at the last tile's barrier.
    const int t = thread_in_team<C>(c);
    if (t < C::kTileN) c.bias[(tile & 1) * C::kTileN + t] = bias;
    team_sync<C>(c);
  }
  if constexpr (C::kEpilogue == Epilogue::kGeluGradient) barrier_wait(c.slope_barrier, tile & 1);
  // The chunks of a pair are written and sent off one step later, behind the arithmetic of the next pair, when the
  // fence has nothing left to wait for.
  const int z = C::kOp == Op::kWeightGradient ? w.group : 0;
  const uint32_t lane_at = matrix_address(0, c.lane);
  uint32_t pair = 0;
  const auto send = [&](int q) {
    fence_async_proxy();
    __syncwarp();
    if (elected()) {
#pragma unroll
      for (int e = 0; e < 2; ++e)
        store_3d(map_out, pair + e * kChunkBytes, w.col + pair_half<C>(q, e) * 64,
                 w.row + chunk_row<C>(c, pair_mi<C>(e)), z);
      store_commit();
    }
  };
#pragma unroll
  for (int q = 0; q < C::kChunks / 2; ++q) {
    float sum[16];
    float v[2][32];
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int h = pair_half<C>(q, e);
      const float* a = &acc[pair_mi<C>(e)][h * 32];
      if constexpr (C::kEpilogue == Epilogue::kGeluGradient) {
        if (e == 0 || C::kM64 == 1) {
#pragma unroll
          for (int i = 0; i < 16; ++i) sum[i] = 0.0f;
        }
        const uint32_t codes = c.staging + (2 * q + e) * kChunkBytes + c.lane * 16;
        uint4 x[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) x[i] = load_shared(codes + i * 512);
          // Values 4 j and 4 j + 2 of a lane are of one column, 4 j + 1 and 4 j + 3 of the next.
#pragma unroll
        for (int i = 0; i < 32; i += 2) {
          const int word = i / 2 % 4;
          const uint4& y = x[i / 8];
          const float2 slope = slopes_of(word == 0 ? y.x : word == 1 ? y.y : word == 2 ? y.z : y.w);
          v[e][i] = a[i] * slope.x, v[e][i + 1] = a[i + 1] * slope.y;
          sum[i / 4 * 2] += v[e][i], sum[i / 4 * 2 + 1] += v[e][i + 1];
        }
        if (e == 1 || C::kM64 == 1)
          reduce_columns(sum, c.lane, c.sums + (c.member * 4 + c.warp) * C::kTileN + h * 64);
      } else {
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          float2 b = make_float2(0.0f, 0.0f);
          if constexpr (C::kHasBias)
            b = *reinterpret_cast<const float2*>(shared_bias + h * 64 + j * 8 + 2 * (c.lane & 3));
          v[e][4 * j] = a[4 * j] + b.x, v[e][4 * j + 1] = a[4 * j + 1] + b.y;
          v[e][4 * j + 2] = a[4 * j + 2] + b.x, v[e][4 * j + 3] = a[4 * j + 3] + b.y;
        }
      }
      if constexpr (C::kEpilogue == Epilogue::kBiasGelu) {
#pragma unroll
        for (int i = 0; i < 32; ++i) v[e][i] = gelu(v[e][i], normal_tail(v[e][i]));
      }
      if constexpr (C::kEpilogue == Epilogue::kBiasGeluSlopes) {
        uint4* to = slope_chunk<C>(c, p, w, q, e) + c.lane;
#pragma unroll
        for (int i = 0; i < 32; i += 8) __stcs(to + i * 4, gelu_and_slopes(&v[e][i]));
      }
    }
    if (q > 0) send(q - 1);
    if constexpr (C::kEpilogue == Epilogue::kGeluGradient)
      pair = c.staging + 2 * q * kChunkBytes;  // all have read it
    else pair = take_pair<C>(c);
    __syncwarp();
    stage(pair + lane_at, v[0]);
    stage(pair + kChunkBytes + lane_at, v[1]);
  }
  send(C::kChunks / 2 - 1);
  if constexpr (C::kEpilogue == Epilogue::kGeluGradient) {
    // Sum over the warps that share the columns, in a fixed order; the second barrier guards the next tile's
    // writes.
    const int t = thread_in_team<C>(c);
    team_sync<C>(c);
    if (t < C::kTileN) {
      float total = 0.0f;
#pragma unroll
      for (int i = 0; i < 4 * C::kTeamSize; ++i) total += c.sums[i * C::kTileN + t];
      if (w.col + t < p.n) p.column_partial[static_cast<long long>(w.row / kTileRows) * p.n + w.col + t] = total;
    }
    team_sync<C>(c);
  }
}

}  // namespace glia::cuda::sm90
