// Attention for sequences of any length, backward in the queries: dQ, and δ for the kernel of dK and dV.
// attention_tiled.cuh says how the work lies.
#include "engine/ops/attention/attention_tiled_backward.cuh"

namespace glia::cuda {
namespace {

using namespace attention_tiled;

template <int kD> constexpr int kGroups = kD <= 64 ? 2 : 1;  // of 16 rows a warp
template <int kD> constexpr int kRows = kTile* kGroups<kD>;
template <int kD> constexpr uint32_t kTileBytes = kTile* kRowBytes<kD>;
template <int kD>
constexpr uint32_t kBytes = 2 * kRows<kD>* kRowBytes<kD> + 4 * kTileBytes<kD>;  // Q, dO; K, V twice

// A thread's share of Σ_d dO O for rows g (x, z of an operand) and g + 8 (y, w): O comes as dO's operand lies.
template <int kD>
__device__ __forceinline__ void add_delta(float (&delta)[2], const uint32_t (&dout)[4],
                                          const bfloat16* const (&out)[2], const bool (&valid)[2], int column) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int r = i & 1;
    const uint32_t o = valid[r] ? *reinterpret_cast<const uint32_t*>(out[r] + column + 8 * (i >> 1)) : 0u;
    delta[r] = fmaf(unpack_low(o), unpack_low(dout[i]), delta[r]);
    delta[r] = fmaf(unpack_high(o), unpack_high(dout[i]), delta[r]);
  }
}

template <int kD>
__global__ __launch_bounds__(kTiledThreads, 2) void dq_kernel(const __grid_constant__ TensorParams p) {
  constexpr int kM = kGroups<kD>;
  extern __shared__ __align__(1024) unsigned char memory[];
  zero_tail(p, p.to_dqkv, 3 * p.heads * kD);
  const Place at = place_of<kRows<kD>, true>(p);
  if (at.row0 >= at.n) {
    if (p.to_sums) write_no_sums<kD, kM>(p, at, 0);
    return;
  }
  const int lane = threadIdx.x % 32, g = lane >> 2, t = lane & 3, h = p.heads * kD;
  const int row0 = at.row0 + uniform(threadIdx.x / 32) * 16 * kM, own = row0 - at.row0, column = at.head * kD;
  const uint32_t q_tile = static_cast<uint32_t>(__cvta_generic_to_shared(memory)),
                 g_tile = q_tile + kRows<kD> * kRowBytes<kD>, tiles = g_tile + kRows<kD> * kRowBytes<kD>;
  const auto k_tile = [&](int i) { return tiles + (i & 1) * 2 * kTileBytes<kD>; };  // V lies behind K
  const bfloat16* from = p.qkv + static_cast<int64_t>(at.start) * 3 * h + column;
  const auto load = [&](int i) {
    copy_rows<true, kD, kTile>(k_tile(i), from + h, 3 * h, kTile * i, at.n);
    copy_rows<true, kD, kTile>(k_tile(i) + kTileBytes<kD>, from + 2 * h, 3 * h, kTile * i, at.n);
    commit_copies();
  };
  copy_rows<false, kD, kRows<kD>>(q_tile, from, 3 * h, at.row0, at.n);
  copy_rows<false, kD, kRows<kD>>(g_tile, p.dout + static_cast<int64_t>(at.start) * h + column, h, at.row0, at.n);
  load(0);
  wait_for_copies<0>();
  __syncthreads();

  const LaneOffsets<kD> lanes(lane);
  uint32_t q[kM][kD / 16][4], dout[kM][kD / 16][4];
  float shift[kM][2], delta[kM][2];
#pragma unroll
  for (int m = 0; m < kM; ++m) {
    const bfloat16* out[2];
    bool valid[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = row0 + 16 * m + g + 8 * r;
      valid[r] = row < at.n, delta[m][r] = 0.0f;
      out[r] = p.out + static_cast<int64_t>(at.start + (valid[r] ? row : 0)) * h + column;
      shift[m][r] = valid[r] ? p.lse[static_cast<int64_t>(at.start + row) * p.heads + at.head] * kLog2E : 0.0f;
    }
#pragma unroll
    for (int x = 0; x < kD / 16; ++x) {
      load_a(q[m][x], q_tile, own + 16 * m, 2 * x, lanes);
      load_a(dout[m][x], g_tile, own + 16 * m, 2 * x, lanes);
      add_delta<kD>(delta[m], dout[m][x], out, valid, 16 * x + 2 * t);
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      delta[m][r] = quad_sum(delta[m][r]);
      if (t == 0 && valid[r])
        p.delta[static_cast<int64_t>(at.start + row0 + 16 * m + g + 8 * r) * p.heads + at.head] = delta[m][r];
    }
  }

  float dq[kM][kD / 8][4] = {};
  const int count = key_tiles<kRows<kD>>(p, at);
  for (int i = 0; i < count; ++i) {
    const int k0 = kTile * i, live = begin_tile(p, at, i, count, row0, row0 + 16 * kM - 1, load);
    if (live <= 0) continue;
    uint32_t bits[kM][2];
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int row = row0 + 16 * m + g + 8 * r;
        bits[m][r] = ~0u;
        if (p.kept) {
          if (row < at.n)
            bits[m][r] =
                bits_of(*reinterpret_cast<const uint2*>(words_at(p, p.kept, at.start + row, at.head, i)), t);
        } else if (p.dropout) {
          bits[m][r] = draw_bits(p, at, at.start + row, i, live, t);
        }
      }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (j >= live) continue;
      float s[kM][8] = {}, dp[kM][8] = {};
#pragma unroll
      for (int x = 0; x < kD / 16; ++x) {
        uint32_t b[4];
        load_b(b, k_tile(i), 16 * j, 2 * x, lanes);
#pragma unroll
        for (int m = 0; m < kM; ++m) {
          multiply(&s[m][0], q[m][x], b[0], b[1]);
          multiply(&s[m][4], q[m][x], b[2], b[3]);
        }
        load_b(b, k_tile(i) + kTileBytes<kD>, 16 * j, 2 * x, lanes);
#pragma unroll
        for (int m = 0; m < kM; ++m) {
          multiply(&dp[m][0], dout[m][x], b[0], b[1]);
          multiply(&dp[m][4], dout[m][x], b[2], b[3]);
        }
      }
      const int key0 = k0 + 16 * j;
      const bool whole = key0 + 16 <= at.keys && !(p.causal && key0 + 15 > row0);
      uint32_t ds[kM][4];
#pragma unroll
      for (int m = 0; m < kM; ++m) {
#pragma unroll
        for (int e = 0; e < 8; ++e) {
          const int r = upper(e), key = key0 + 4 * t + nth_key(e), row = row0 + 16 * m + g + 8 * r;
          const bool seen = whole || (key < at.keys && !(p.causal && key > row));
          const float weight = exp2_fast(fmaf(s[m][e], kScale<kD> * kLog2E, -shift[m][r]));
          const float gradient = bits[m][r] >> (4 * j + nth_key(e)) & 1 ? dp[m][e] : 0.0f;
          s[m][e] = seen ? weight * fmaf(gradient, p.inverse_keep, -delta[m][r]) : 0.0f;
        }
#pragma unroll
        for (int k = 0; k < 4; ++k) ds[m][k] = pack_bf16(s[m][2 * k], s[m][2 * k + 1]);
      }
      multiply_rows(dq, ds, k_tile(i), 16 * j, lanes);
    }
  }
  // The warp's own query rows are free: stage the result there and write whole lines.
  if (row0 < at.n) {
#pragma unroll
    for (int m = 0; m < kM; ++m) {
      __syncwarp();
      stage<kD>(dq[m], kScale<kD>, kScale<kD>, q_tile, own + 16 * m, lane);
      __syncwarp();
      write_rows<false, kD>(q_tile, own + 16 * m, at.n - at.row0,
                            p.to_dqkv + static_cast<int64_t>(at.start + at.row0) * 3 * h + column, 3 * h, lane);
    }
  }
  if (!p.to_sums) return;
  __syncthreads();  // rows beyond the last one are zero: as copied, or as computed from zeros
  write_sums<kD, kM>(p, at, q_tile, 0, 0, lanes);
}

}  // namespace

namespace attention_tiled {

void launch_dq(const AttentionArgs& args, const TensorParams& p, Stream stream) {
  with_head_size<32, 64, 96, 128>(args, [&](auto d) {
    launch_tiled<kRows<d()>>("attention_backward_tiled: dQ", dq_kernel<d()>, kBytes<d()>, args, p, stream);
  });
}

}  // namespace attention_tiled
}  // namespace glia::cuda
