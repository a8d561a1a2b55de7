// Attention for short packed sequences, backward. attention_short.cuh says how the work lies.
#include "engine/ops/attention/attention_short.cuh"

namespace glia::cuda {
namespace {

using namespace attention_short;

constexpr int kBlocks = 2;  // a multiprocessor: 80 registers are too few
template <int kD> constexpr float kLog2Scale = kD == 64 ? -3.0f : -2.5f;
static_assert(kScale<64> * kScale<64> * 64 == 1.0f);

// One operand of dK and dV: the warp's 16 rows of X (P ∘ M or dS), packed as A fragments, to rows of a shared tile.
template <int kTiles>
__device__ __forceinline__ void exchange(const uint32_t (&x)[kTiles][4], uint32_t tile, int row0, int tiles,
                                         int lane) {
  const uint32_t to = accumulators_at<kTiles * 16>(tile, row0, lane);
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
    if (j >= tiles) continue;
    store_pair<kTiles * 16>(to, 2 * j, x[j][0], x[j][1]);
    store_pair<kTiles * 16>(to, 2 * j + 1, x[j][2], x[j][3]);
  }
}
// c[16 keys, 64] += Xᵀ Y over the query tiles from `first` on.
template <int kD, int kTiles>
__device__ __forceinline__ void multiply_transposed(float (&c)[kD / 8][4], uint32_t x_tile, uint32_t y_tile,
                                                    int key_tile, int first, int query_tiles, int lane,
                                                    const LaneOffsets<kD>& at) {
  const LaneOffsets<kTiles * 16> at_x(lane);
  for (int i = first; i < query_tiles; ++i) {
    uint32_t a[4];
    load_a_transposed(a, x_tile, 16 * i, 2 * key_tile, at_x);
    multiply_rows(c, a, y_tile, 16 * i, at);
  }
}

template <int kD, int kTiles>
__device__ __forceinline__ void backward_problem(const TensorParams& p, const Group& group, const Place& place,
                                                 int head) {
  constexpr uint32_t kTile = kTiles * 16 * kRowBytes<kD>;
  const uint32_t q_tile = group.shared, g_tile = q_tile + kTile, k_tile = g_tile + kTile, v_tile = k_tile + kTile;
  // Where P ∘ M and dS go when K and V are used up: both at once where they fit (64 rows), else one after the other.
  const uint32_t p_tile = k_tile, s_tile = kTiles == 4 ? p_tile + kTiles * 16 * kRowBytes<kTiles * 16> : p_tile;
  const int start = place.start, n = place.n, keys = place.keys;
  const int lane = group.lane, g = lane >> 2, t = lane & 3, h = p.heads * kD, row0 = group.warp * 16;
  const int64_t column = head * kD;

  const LaneOffsets<kD> at(lane);

  const bfloat16* from = p.qkv + static_cast<int64_t>(start) * 3 * h + column;
  const bfloat16* dout = p.dout + static_cast<int64_t>(start) * h + column;
  RowCopies<kD>(group).for_each(n, [&](const RowCopies<kD>& c, bool valid, int64_t row) {
    const bfloat16* line = from + row * 3 * h + c.chunk * 8;
    copy_async(q_tile + c.to, line, valid);
    copy_async(g_tile + c.to, dout + row * h + c.chunk * 8, valid);
    copy_async(k_tile + c.to_slot, line + h, valid);
    copy_async(v_tile + c.to_slot, line + 2 * h, valid);
  });
  // While they fly: the warp's rows of O for δ, kRows at once, and the saved log-sum-exp.
  constexpr int kRows = 32 / kChunks<kD>;
  const int part = lane % kChunks<kD>;
  uint4 o[16 / kRows];
  float lse0 = 0.0f, lse1 = 0.0f;
  Kept kept;
  const bool active = row0 < n;
#pragma unroll
  for (int i = 0; i < 16 / kRows; ++i) {
    const int row = row0 + lane / kChunks<kD> + kRows * i;
    o[i] = make_uint4(0, 0, 0, 0);
    if (row < n)
      o[i] = *reinterpret_cast<const uint4*>(p.out + static_cast<int64_t>(start + row) * h + column + part * 8);
  }
  if (row0 + g < n) lse0 = p.lse[static_cast<int64_t>(start + row0 + g) * p.heads + head];
  if (row0 + g + 8 < n) lse1 = p.lse[static_cast<int64_t>(start + row0 + g + 8) * p.heads + head];
  const int key_tiles = (keys + 15) >> 4, query_tiles = (n + 15) >> 4;
  const int tiles = p.causal ? min(key_tiles, group.warp + 1) : key_tiles;
  commit_copies();
  if (p.kept) {
    const uint32_t* from = p.kept + (static_cast<int64_t>(start + row0 + g) * p.heads + head) * 4 + t;
    if (row0 + g < n) kept.upper = from[0];
    if (row0 + g + 8 < n) kept.lower = from[8 * p.heads * 4];
  } else if (p.dropout && active) {
    kept = draw(p, place.step, start + row0 + g, head, t, tiles);
  }
  wait_for_copies<0>();
  group.sync();

  // scale · P ∘ M (without 1 / (1 − p)) and scale · dS as A fragments; dQ, packed
  uint32_t pm[kTiles][4], ds[kTiles][4], dq[kD / 4];
  if (active) {
    // δ: a lane has 8 products of every kRows-th row; sums go to the lanes that own rows g and g + 8.
    float delta0, delta1;
    {
      float sums[16 / kRows];
#pragma unroll
      for (int i = 0; i < 16 / kRows; ++i) {
        const uint4 y = load_shared(chunk_at<kD>(g_tile, row0 + lane / kChunks<kD> + kRows * i, part));
        const uint32_t a[4] = {o[i].x, o[i].y, o[i].z, o[i].w}, b[4] = {y.x, y.y, y.z, y.w};
        float sum = 0.0f;
#pragma unroll
        for (int x = 0; x < 4; ++x) {
          sum = fmaf(__uint_as_float(a[x] << 16), __uint_as_float(b[x] << 16), sum);
          sum = fmaf(__uint_as_float(a[x] & 0xffff0000u), __uint_as_float(b[x] & 0xffff0000u), sum);
        }
        sum += __shfl_xor_sync(~0u, sum, 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
        if constexpr (kD == 64) sum += __shfl_xor_sync(~0u, sum, 4);
        sums[i] = sum;
      }
      if constexpr (kD == 32) {  // a quad of lanes had rows g and g + 8 already
        delta0 = sums[0], delta1 = sums[1];
      } else {
        const int source = (g & 3) * 8;
        const float low0 = __shfl_sync(~0u, sums[0], source), high0 = __shfl_sync(~0u, sums[1], source);
        const float low1 = __shfl_sync(~0u, sums[2], source), high1 = __shfl_sync(~0u, sums[3], source);
        delta0 = g < 4 ? low0 : high0, delta1 = g < 4 ? low1 : high1;
      }
    }
    const float c = kScale<kD> * kLog2E;
    const float shift0 = fmaf(lse0, kLog2E, -kLog2Scale<kD>), shift1 = fmaf(lse1, kLog2E, -kLog2Scale<kD>);
    constexpr bool kHold = kTiles == 4;  // the longer rows leave no registers for the fragments of Q and dO
    uint32_t q[kD / 16][4], dO[kD / 16][4];
#pragma unroll
    for (int x = 0; x < kD / 16; ++x) {
      if (kHold) load_a(q[x], q_tile, row0, 2 * x, at), load_a(dO[x], g_tile, row0, 2 * x, at);
    }
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
      if (j >= tiles) {
#pragma unroll
        for (int i = 0; i < 4; ++i) pm[j][i] = ds[j][i] = 0;
        continue;
      }
      float s[8] = {}, dp[8] = {};
#pragma unroll
      for (int x = 0; x < kD / 16; ++x) {
        uint32_t b[4];
        if (!kHold) load_a(q[x], q_tile, row0, 2 * x, at), load_a(dO[x], g_tile, row0, 2 * x, at);
        load_b(b, k_tile, 16 * j, 2 * x, at);
        multiply(&s[0], q[x], b[0], b[1]);
        multiply(&s[4], q[x], b[2], b[3]);
        load_b(b, v_tile, 16 * j, 2 * x, at);
        multiply(&dp[0], dO[x], b[0], b[1]);
        multiply(&dp[4], dO[x], b[2], b[3]);
      }
#pragma unroll
      for (int e = 0; e < 8; ++e) s[e] = exp2_fast(fmaf(s[e], c, -(upper(e) ? shift1 : shift0)));
      if (16 * j + 16 > keys || (p.causal && j == group.warp)) {
#pragma unroll
        for (int e = 0; e < 8; ++e) {
          const int key = 16 * j + 4 * t + nth_key(e), row = row0 + g + 8 * upper(e);
          if (key >= keys || (p.causal && key > row)) s[e] = 0.0f;
        }
      }
      float weight[8];
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        const bool keep = kept(e, j);
        dp[e] = fmaf(keep ? dp[e] : 0.0f, p.inverse_keep, -(upper(e) ? delta1 : delta0));
        weight[e] = keep ? s[e] : 0.0f;
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        pm[j][i] = pack_bf16(weight[2 * i], weight[2 * i + 1]);
        ds[j][i] = pack_bf16(s[2 * i] * dp[2 * i], s[2 * i + 1] * dp[2 * i + 1]);
      }
    }
    float sum[kD / 8][4] = {};
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
      if (j < tiles) multiply_rows(sum, ds[j], k_tile, 16 * j, at);
    }
#pragma unroll
    for (int x = 0; x < kD / 8; ++x) {
      dq[2 * x] = pack_bf16(sum[x][0], sum[x][1]);
      dq[2 * x + 1] = pack_bf16(sum[x][2], sum[x][3]);
    }
  }

  // From here on a warp owns 16 key slots.
  const int first = p.causal ? group.warp : 0;
  const bool owns_keys = group.warp < key_tiles;
  float dk[kD / 8][4] = {};
  uint32_t dv[kD / 4];
  group.sync();
  if (active) {
    exchange<kTiles>(pm, p_tile, row0, key_tiles, lane);
    if (kTiles == 4) exchange<kTiles>(ds, s_tile, row0, key_tiles, lane);
  }
  group.sync();
  {
    const float factor = p.inverse_keep / kScale<kD>;
    float sum[kD / 8][4] = {};
    if (owns_keys) multiply_transposed<kD, kTiles>(sum, p_tile, g_tile, group.warp, first, query_tiles, lane, at);
#pragma unroll
    for (int x = 0; x < kD / 8; ++x) {
      dv[2 * x] = pack_bf16(sum[x][0] * factor, sum[x][1] * factor);
      dv[2 * x + 1] = pack_bf16(sum[x][2] * factor, sum[x][3] * factor);
    }
  }
  if (kTiles != 4) {
    group.sync();
    if (active) exchange<kTiles>(ds, s_tile, row0, key_tiles, lane);
    group.sync();
  }
  if (owns_keys) multiply_transposed<kD, kTiles>(dk, s_tile, q_tile, group.warp, first, query_tiles, lane, at);
  group.sync();

  // All tiles are free: each warp stages its rows of dQ, dK, dV and writes whole lines.
  const int64_t stride = 3 * h;
  if (active) {
    const uint32_t to_q = accumulators_at<kD>(q_tile, row0, lane), to_k = accumulators_at<kD>(k_tile, row0, lane);
#pragma unroll
    for (int x = 0; x < kD / 8; ++x) {
      store_pair<kD>(to_q, x, dq[2 * x], dq[2 * x + 1]);
      store_pair<kD>(to_k, x, dv[2 * x], dv[2 * x + 1]);
    }
    stage<kD>(dk, 1.0f, 1.0f, g_tile, row0, lane);
    __syncwarp();
    bfloat16* to = p.to_dqkv + static_cast<int64_t>(start) * stride + column;
    write_rows<false, kD>(q_tile, row0, n, to, stride, lane);
    write_rows<true, kD>(g_tile, row0, n, to + h, stride, lane);
    write_rows<true, kD>(k_tile, row0, n, to + 2 * h, stride, lane);
  }
  if (!p.to_sums) return;
  group.sync();
  if (group.warp < 3) {
    const uint32_t tile = group.warp == 0 ? q_tile : group.warp == 1 ? g_tile : k_tile;
    write_column_sums(tile, query_tiles, p.to_sums + place.sequence * stride + group.warp * h + column, lane, at);
  }
}

// Q, dO, and K with V, whose place P ∘ M takes: a square of the rows.
template <int kD>
constexpr uint32_t kBackwardBytes = 2 * kMaxRows* kRowBytes<kD> +
                                    kMaxRows*(kMaxRows * 2 > 2 * kRowBytes<kD> ? kMaxRows * 2 : 2 * kRowBytes<kD>);

template <int kD>
__global__ __launch_bounds__(kBlockThreads, kBlocks) void backward_kernel(const __grid_constant__ TensorParams p) {
  extern __shared__ __align__(1024) unsigned char memory[];
  const Place place = place_of(p);
  for_each_problem(
      p, place, static_cast<uint32_t>(__cvta_generic_to_shared(memory)), kBackwardBytes<kD>,
      [&](const Group& group, int head) { backward_problem<kD, 4>(p, group, place, head); },
      [&](const Group& group, int head) { backward_problem<kD, 8>(p, group, place, head); });
  zero_tail(p, p.to_dqkv, 3 * p.heads * kD);
  const int b = blockIdx.x / p.heads, head = blockIdx.x % p.heads;
  if (p.to_sums && p.offsets[b] == p.offsets[b + 1] && threadIdx.x < 3 * kD)  // an empty sequence
    p.to_sums[(static_cast<int64_t>(b) * 3 + threadIdx.x / kD) * p.heads * kD + head * kD + threadIdx.x % kD] =
        0.0f;
}

}  // namespace

void attention_backward_short(const AttentionArgs& args, const bfloat16* qkv, const bfloat16* out, const float* lse,
                              const uint32_t* kept, const bfloat16* dout, bfloat16* dqkv, float* column_sums,
                              Stream stream) {
  TensorParams p = tensor_params_of(args);
  p.qkv = qkv, p.out = out, p.lse = lse, p.kept = p.dropout ? kept : nullptr, p.dout = dout;
  p.to_dqkv = dqkv, p.to_sums = column_sums;
  with_head_size<32, 64>(args, [&](auto d) {
    launch_attention("attention_backward_short", backward_kernel<d()>, args.sequences * args.heads, kBlockThreads,
                     kBackwardBytes<d()>, args, p, stream);
  });
}

}  // namespace glia::cuda
