// Attention for short packed sequences on tensor cores (mma.sync m16n8k16, sm_80 and later): bfloat16, D = 64, at
// most 128 rows.
//
// A block of 8 warps works on one head of a sequence of 65 to 128 rows, or on two heads of a shorter one, a head
// for each half of the block (4 warps with a named barrier of their own). A warp owns 16 query rows and keeps their
// scores in registers. In backward it puts P ∘ M and dS into shared memory, where K and V are no longer needed, and
// then owns 16 key rows for dK and dV: no atomics, and nothing is reduced across warps.

#include "engine/device/cuda/launch.cuh"
#include "engine/ops/attention/attention_kernels.h"
#include "engine/ops/attention/attention_tiles.cuh"

namespace glia::cuda {
namespace {

using namespace attention_tiles;

// Blocks a multiprocessor: 80 registers are enough for forward (spills in the long path only), too few for
// backward.
constexpr int kForwardBlocks = 3, kBackwardBlocks = 2;
constexpr int kBlockThreads = 256, kMaxRows = 128;
constexpr float kLog2E = 1.4426950408889634f;
constexpr float kScale = 0.125f;  // 1 / √D, a power of two: multiplying by it early or late gives the same bits
constexpr float kLog2Scale = -3.0f;
static_assert(kScale * kScale * kD == 1.0f);

struct Params {
  const bfloat16 *qkv, *out, *dout;  // [T, 3H], [T, H], [T, H]
  const float* lse;                  // [T, A]
  bfloat16 *to_out, *to_dqkv;  // forward writes to_out and to_lse, backward to_dqkv and, where wanted, to_sums
  float *to_lse, *to_sums;     // to_sums [B, 3H]: column sums of each sequence's dqkv
  const uint32_t* kept;        // [T, A, 4]: what forward drew, or null
  uint32_t* to_kept;
  const int32_t *offsets, *key_lengths;
  int rows, sequences, heads;
  bool causal, dropout;
  float inverse_keep;
  uint32_t threshold;
  RandomKey key;
};

// Rows from offsets[B] on: zeros, spread over all blocks.
template <class T> __device__ __forceinline__ void zero_tail(const Params& p, T* to, int width) {
  const int per_row = width * static_cast<int>(sizeof(T)) / 4;
  for (int row = p.offsets[p.sequences] + blockIdx.x; row < p.rows; row += gridDim.x) {
    auto* words = reinterpret_cast<uint32_t*>(to + static_cast<int64_t>(row) * width);
    for (int i = threadIdx.x; i < per_row; i += kBlockThreads) words[i] = 0;
  }
}

// The block's work. The grid has a block for every (sequence, head): it takes that head if the sequence has more
// than 64 rows, else two heads if its own is even and none (n = 0) if odd. An empty block costs less than finding
// the n-th piece of work in blocks that know only the offsets; longest sequences first, by the batch's own order,
// gains another 4 %.
struct Place {
  int sequence, first_head, start, n, keys;
  uint32_t step;
  bool tall;
};
__device__ __forceinline__ Place place_of(const Params& p) {
  const int b = blockIdx.x / p.heads, head = blockIdx.x % p.heads, start = uniform(p.offsets[b]);
  const int n = min(uniform(p.offsets[b + 1]) - start, kMaxRows);
  const int keys = p.key_lengths ? max(0, min(uniform(p.key_lengths[b]), n)) : n;
  const bool tall = n > kMaxRows / 2;
  if (!tall && (head & 1)) return {};
  return {b, head, start, n, keys, p.dropout && p.key.step ? *p.key.step : 0u, tall};
}

// Calls small(group, head) in each half of the block, or tall(group, head) in all of it.
template <class Small, class Tall>
__device__ __forceinline__ void for_each_problem(const Params& p, const Place& place, uint32_t shared,
                                                 uint32_t bytes, Small small, Tall tall) {
  const int thread = threadIdx.x, warp = uniform(thread >> 5);
  if (place.n <= 0) return;
  if (place.tall) {
    tall(Group{warp, thread & 31, thread, 256, 1, shared}, place.first_head);
    return;
  }
  const int half = warp >> 2, head = place.first_head + half;
  const Group group{warp & 3, thread & 31, thread & 127, 128, 1 + half, shared + half * (bytes / 2)};
  if (head < p.heads) small(group, head);
  __syncthreads();  // no half leaves while the other is at its own barriers (synccheck wants it)
}

// The dropout bits of the keys whose scores a thread has, in its rows g and g + 8: bit 4j + i stands for key 16j + 4t + i,
// where t is the thread's place in its quad. In memory a row of a head has four words, one a thread of the quad.
struct Kept {
  uint32_t upper = ~0u, lower = ~0u;

  __device__ __forceinline__ bool operator()(int e, int j) const {
    return (attention_tiles::upper(e) ? lower : upper) >> (4 * j + nth_key(e)) & 1;
  }
};
// Philox takes about a quarter of forward's instructions: draw while copies are under way.
__device__ __forceinline__ Kept draw(const Params& p, uint32_t step, int row, int head, int t, int tiles) {
  constexpr int kBlocks = kAttentionMaxLength / 4;  // of a row of a head
  const uint64_t first = first_block(p.key) + (static_cast<uint64_t>(row) * p.heads + head) * kBlocks + t;
  Kept kept{0, 0};
  for (int j = 0; j < tiles; ++j) {
    const PhiloxBlock a = random_block(p.key.seed, p.key.purpose, step, first + 4 * j);
    const PhiloxBlock b = random_block(p.key.seed, p.key.purpose, step, first + 8ull * p.heads * kBlocks + 4 * j);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      kept.upper |= static_cast<uint32_t>(a.word[i] >= p.threshold) << (4 * j + i);
      kept.lower |= static_cast<uint32_t>(b.word[i] >= p.threshold) << (4 * j + i);
    }
  }
  return kept;
}

// Where a thread begins to copy rows into tiles: its row, 16 bytes of it, and their places in a tile whose rows are in
// order and in one whose rows are slots. Every pass of the group goes `rows` further; rows from n up to the next multiple
// of 16 become zeros.
struct RowCopies {
  int row, rows, chunk;
  uint32_t to, to_slot;
  __device__ __forceinline__ explicit RowCopies(const Group& group)
      : row(group.thread >> 3),
        rows(group.threads >> 3),
        chunk(group.thread & 7),
        to(chunk_at(0, row, chunk)),
        to_slot(chunk_at(0, slot_of_key(row), chunk)) {}
  template <class F> __device__ __forceinline__ void for_each(int n, F copy) {
    for (; row < ((n + 15) & ~15); row += rows, to += rows * kRowBytes, to_slot += rows * kRowBytes)
      copy(*this, row < n, static_cast<int64_t>(row < n ? row : 0));
  }
};

// ---- forward

// kTiles: key tiles of 16 that fit (4 or 8); only those below ⌈keys / 16⌉ are touched.
template <int kTiles>
__device__ __forceinline__ void forward_problem(const Params& p, const Group& group, const Place& place, int head) {
  constexpr uint32_t kTile = kTiles * 16 * kRowBytes;
  const uint32_t q_tile = group.shared, k_tile = q_tile + kTile, v_tile = k_tile + kTile;
  const int start = place.start, n = place.n, keys = place.keys;
  const int lane = group.lane, g = lane >> 2, t = lane & 3, h = p.heads * kD, row0 = group.warp * 16;

  const LaneOffsets at(lane);

  const bfloat16* from = p.qkv + static_cast<int64_t>(start) * 3 * h + head * kD;
  RowCopies(group).for_each(n, [&](const RowCopies& c, bool valid, int64_t row) {
    const bfloat16* line = from + row * 3 * h + c.chunk * 8;
    copy_async(q_tile + c.to, line, valid);
    copy_async(k_tile + c.to_slot, line + h, valid);
  });
  commit_copies();
  RowCopies(group).for_each(n, [&](const RowCopies& c, bool valid, int64_t row) {
    copy_async(v_tile + c.to_slot, from + row * 3 * h + c.chunk * 8 + 2 * h, valid);
  });
  commit_copies();
  // A warp without rows goes through the same barriers as the others, who need its part of V.
  const bool active = row0 < n;
  int tiles = active ? (keys + 15) >> 4 : 0;
  if (p.causal) tiles = min(tiles, group.warp + 1);
  Kept kept;
  if (p.dropout) {
    kept = draw(p, place.step, start + row0 + g, head, t, tiles);
    if (p.to_kept) {
      uint32_t* to = p.to_kept + (static_cast<int64_t>(start + row0 + g) * p.heads + head) * 4 + t;
      if (row0 + g < n) to[0] = kept.upper;
      if (row0 + g + 8 < n) to[8 * p.heads * 4] = kept.lower;
    }
  }
  wait_for_copies<1>();
  group.sync();
  float s[kTiles][8], top0 = -INFINITY, top1 = -INFINITY;
  if (active) {
    uint32_t q[4][4];
#pragma unroll
    for (int x = 0; x < 4; ++x) load_a(q[x], q_tile, row0, 2 * x, at);
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
      if (j >= tiles) continue;
#pragma unroll
      for (int e = 0; e < 8; ++e) s[j][e] = 0.0f;
#pragma unroll
      for (int x = 0; x < 4; ++x) {
        uint32_t k[4];
        load_b(k, k_tile, 16 * j, 2 * x, at);
        multiply(&s[j][0], q[x], k[0], k[1]);
        multiply(&s[j][4], q[x], k[2], k[3]);
      }
      if (16 * j + 16 > keys || (p.causal && j == group.warp)) {
#pragma unroll
        for (int e = 0; e < 8; ++e) {
          const int key = 16 * j + 4 * t + nth_key(e), row = row0 + g + 8 * upper(e);
          if (key >= keys || (p.causal && key > row)) s[j][e] = -INFINITY;
        }
      }
      top0 = fmaxf(top0, fmaxf(fmaxf(s[j][0], s[j][1]), fmaxf(s[j][4], s[j][5])));
      top1 = fmaxf(top1, fmaxf(fmaxf(s[j][2], s[j][3]), fmaxf(s[j][6], s[j][7])));
    }
  }
  top0 = quad_max(top0), top1 = quad_max(top1);
  const float c = kScale * kLog2E;
  const float shift0 = top0 == -INFINITY ? 0.0f : top0 * c, shift1 = top1 == -INFINITY ? 0.0f : top1 * c;

  float sum0 = 0.0f, sum1 = 0.0f;
  uint32_t weights[kTiles][4];  // P ∘ M, not yet normalised, as A fragments
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
    if (j >= tiles) continue;
#pragma unroll
    for (int e = 0; e < 8; ++e) s[j][e] = exp2_fast(fmaf(s[j][e], c, -(upper(e) ? shift1 : shift0)));
    sum0 += (s[j][0] + s[j][1]) + (s[j][4] + s[j][5]);
    sum1 += (s[j][2] + s[j][3]) + (s[j][6] + s[j][7]);
#pragma unroll
    for (int e = 0; e < 8; ++e) s[j][e] = kept(e, j) ? s[j][e] : 0.0f;
#pragma unroll
    for (int i = 0; i < 4; ++i) weights[j][i] = pack_bf16(s[j][2 * i], s[j][2 * i + 1]);
  }
  wait_for_copies<0>();
  group.sync();
  if (!active) return;
  float o[8][4] = {};
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
    if (j < tiles) multiply_rows(o, weights[j], v_tile, 16 * j, at);
  }
  sum0 = quad_sum(sum0), sum1 = quad_sum(sum1);

  if (t == 0) {
    float* lse = p.to_lse + static_cast<int64_t>(start + row0 + g) * p.heads + head;
    if (row0 + g < n) lse[0] = sum0 > 0.0f ? fmaf(top0, kScale, logf(sum0)) : -INFINITY;
    if (row0 + g + 8 < n) lse[8 * p.heads] = sum1 > 0.0f ? fmaf(top1, kScale, logf(sum1)) : -INFINITY;
  }
  // The warp's own query rows are free now: stage the result there and write whole lines.
  __syncwarp();
  stage(o, sum0 > 0.0f ? p.inverse_keep / sum0 : 0.0f, sum1 > 0.0f ? p.inverse_keep / sum1 : 0.0f, q_tile, row0,
        lane);
  __syncwarp();
  write_rows<false>(q_tile, row0, n, p.to_out + static_cast<int64_t>(start) * h + head * kD, h, lane);
}

constexpr uint32_t kForwardBytes = 3 * kMaxRows * kRowBytes;   // Q, K, V
constexpr uint32_t kBackwardBytes = 4 * kMaxRows * kRowBytes;  // Q, dO, K, V

__global__ __launch_bounds__(kBlockThreads, kForwardBlocks) void forward_kernel(const __grid_constant__ Params p) {
  extern __shared__ __align__(1024) unsigned char memory[];
  const Place place = place_of(p);
  for_each_problem(
      p, place, static_cast<uint32_t>(__cvta_generic_to_shared(memory)), kForwardBytes,
      [&](const Group& group, int head) { forward_problem<4>(p, group, place, head); },
      [&](const Group& group, int head) { forward_problem<8>(p, group, place, head); });
  zero_tail(p, p.to_out, p.heads * kD);
  zero_tail(p, p.to_lse, p.heads);
}

// ---- backward

// One operand of dK and dV: the warp's 16 rows of X (P ∘ M or dS), packed as A fragments, to rows of a shared tile.
template <int kTiles>
__device__ __forceinline__ void exchange(const uint32_t (&x)[kTiles][4], uint32_t tile, int row0, int tiles,
                                         int lane) {
  const uint32_t to = accumulators_at<kTiles * 32>(tile, row0, lane);
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
    if (j >= tiles) continue;
    store_pair<kTiles * 32>(to, 2 * j, x[j][0], x[j][1]);
    store_pair<kTiles * 32>(to, 2 * j + 1, x[j][2], x[j][3]);
  }
}
// c[16 keys, 64] += Xᵀ Y over the query tiles from `first` on.
template <int kTiles>
__device__ __forceinline__ void multiply_transposed(float (&c)[8][4], uint32_t x_tile, uint32_t y_tile,
                                                    int key_tile, int first, int query_tiles,
                                                    const LaneOffsets& at) {
  for (int i = first; i < query_tiles; ++i) {
    uint32_t a[4];
    load_a_transposed<kTiles * 32>(a, x_tile, 16 * i, 2 * key_tile, at);
    multiply_rows(c, a, y_tile, 16 * i, at);
  }
}

template <int kTiles>
__device__ __forceinline__ void backward_problem(const Params& p, const Group& group, const Place& place,
                                                 int head) {
  constexpr uint32_t kTile = kTiles * 16 * kRowBytes;
  const uint32_t q_tile = group.shared, g_tile = q_tile + kTile, k_tile = g_tile + kTile, v_tile = k_tile + kTile;
  const int start = place.start, n = place.n, keys = place.keys;
  const int lane = group.lane, g = lane >> 2, t = lane & 3, h = p.heads * kD, row0 = group.warp * 16;
  const int64_t column = head * kD;

  const LaneOffsets at(lane);

  const bfloat16* from = p.qkv + static_cast<int64_t>(start) * 3 * h + column;
  const bfloat16* dout = p.dout + static_cast<int64_t>(start) * h + column;
  RowCopies(group).for_each(n, [&](const RowCopies& c, bool valid, int64_t row) {
    const bfloat16* line = from + row * 3 * h + c.chunk * 8;
    copy_async(q_tile + c.to, line, valid);
    copy_async(g_tile + c.to, dout + row * h + c.chunk * 8, valid);
    copy_async(k_tile + c.to_slot, line + h, valid);
    copy_async(v_tile + c.to_slot, line + 2 * h, valid);
  });
  // While they fly: the warp's rows of O for δ, and the saved log-sum-exp.
  uint4 o[4];
  float lse0 = 0.0f, lse1 = 0.0f;
  Kept kept;
  const bool active = row0 < n;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = row0 + (lane >> 3) + 4 * i;
    o[i] = make_uint4(0, 0, 0, 0);
    if (row < n)
      o[i] =
          *reinterpret_cast<const uint4*>(p.out + static_cast<int64_t>(start + row) * h + column + (lane & 7) * 8);
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
  uint32_t pm[kTiles][4], ds[kTiles][4], dq[16];
  if (active) {
    // δ: lane l has 8 products of row (l >> 3) + 4i; the sums over 8 lanes go to the lanes that own rows g and g
    // + 8.
    float delta0, delta1;
    {
      float sums[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint4 y = load_shared(chunk_at(g_tile, row0 + (lane >> 3) + 4 * i, lane & 7));
        const uint32_t a[4] = {o[i].x, o[i].y, o[i].z, o[i].w}, b[4] = {y.x, y.y, y.z, y.w};
        float sum = 0.0f;
#pragma unroll
        for (int x = 0; x < 4; ++x) {
          sum = fmaf(__uint_as_float(a[x] << 16), __uint_as_float(b[x] << 16), sum);
          sum = fmaf(__uint_as_float(a[x] & 0xffff0000u), __uint_as_float(b[x] & 0xffff0000u), sum);
        }
        sum += __shfl_xor_sync(~0u, sum, 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
        sums[i] = sum + __shfl_xor_sync(~0u, sum, 4);
      }
      const int source = (g & 3) * 8;
      const float low0 = __shfl_sync(~0u, sums[0], source), high0 = __shfl_sync(~0u, sums[1], source);
      const float low1 = __shfl_sync(~0u, sums[2], source), high1 = __shfl_sync(~0u, sums[3], source);
      delta0 = g < 4 ? low0 : high0, delta1 = g < 4 ? low1 : high1;
    }
    const float c = kScale * kLog2E;
    const float shift0 = fmaf(lse0, kLog2E, -kLog2Scale), shift1 = fmaf(lse1, kLog2E, -kLog2Scale);
    constexpr bool kHold = kTiles == 4;  // the longer rows leave no registers for the fragments of Q and dO
    uint32_t q[4][4], dO[4][4];
#pragma unroll
    for (int x = 0; x < 4; ++x) {
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
      for (int x = 0; x < 4; ++x) {
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
    float sum[8][4] = {};
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
      if (j < tiles) multiply_rows(sum, ds[j], k_tile, 16 * j, at);
    }
#pragma unroll
    for (int x = 0; x < 8; ++x) {
      dq[2 * x] = pack_bf16(sum[x][0], sum[x][1]);
      dq[2 * x + 1] = pack_bf16(sum[x][2], sum[x][3]);
    }
  }

  // From here on a warp owns 16 key slots. K and V are used up; P ∘ M and dS take their place: both at once where
  // they fit (64 rows), else one after the other over both tiles.
  const int first = p.causal ? group.warp : 0;
  const bool owns_keys = group.warp < key_tiles;
  float dk[8][4] = {};
  uint32_t dv[16];
  group.sync();
  if (active) {
    exchange<kTiles>(pm, k_tile, row0, key_tiles, lane);
    if (kTiles == 4) exchange<kTiles>(ds, v_tile, row0, key_tiles, lane);
  }
  group.sync();
  {
    const float factor = p.inverse_keep / kScale;
    float sum[8][4] = {};
    if (owns_keys) multiply_transposed<kTiles>(sum, k_tile, g_tile, group.warp, first, query_tiles, at);
#pragma unroll
    for (int x = 0; x < 8; ++x) {
      dv[2 * x] = pack_bf16(sum[x][0] * factor, sum[x][1] * factor);
      dv[2 * x + 1] = pack_bf16(sum[x][2] * factor, sum[x][3] * factor);
    }
  }
  if (kTiles != 4) {
    group.sync();
    if (active) exchange<kTiles>(ds, k_tile, row0, key_tiles, lane);
    group.sync();
  }
  if (owns_keys)
    multiply_transposed<kTiles>(dk, kTiles == 4 ? v_tile : k_tile, q_tile, group.warp, first, query_tiles, at);
  group.sync();

  // All tiles are free: each warp stages its rows of dQ, dK, dV and writes whole lines.
  const int64_t stride = 3 * h;
  if (active) {
    const uint32_t to_q = accumulators_at(q_tile, row0, lane), to_k = accumulators_at(k_tile, row0, lane);
#pragma unroll
    for (int x = 0; x < 8; ++x) {
      store_pair(to_q, x, dq[2 * x], dq[2 * x + 1]);
      store_pair(to_k, x, dv[2 * x], dv[2 * x + 1]);
    }
    stage(dk, 1.0f, 1.0f, g_tile, row0, lane);
    __syncwarp();
    bfloat16* to = p.to_dqkv + static_cast<int64_t>(start) * stride + column;
    write_rows<false>(q_tile, row0, n, to, stride, lane);
    write_rows<true>(g_tile, row0, n, to + h, stride, lane);
    write_rows<true>(k_tile, row0, n, to + 2 * h, stride, lane);
  }
  if (!p.to_sums) return;
  group.sync();
  if (group.warp < 3) {
    const uint32_t tile = group.warp == 0 ? q_tile : group.warp == 1 ? g_tile : k_tile;
    write_column_sums(tile, query_tiles, p.to_sums + place.sequence * stride + group.warp * h + column, lane, at);
  }
}

__global__ __launch_bounds__(kBlockThreads,
                             kBackwardBlocks) void backward_kernel(const __grid_constant__ Params p) {
  extern __shared__ __align__(1024) unsigned char memory[];
  const Place place = place_of(p);
  for_each_problem(
      p, place, static_cast<uint32_t>(__cvta_generic_to_shared(memory)), kBackwardBytes,
      [&](const Group& group, int head) { backward_problem<4>(p, group, place, head); },
      [&](const Group& group, int head) { backward_problem<8>(p, group, place, head); });
  zero_tail(p, p.to_dqkv, 3 * p.heads * kD);
  const int b = blockIdx.x / p.heads, head = blockIdx.x % p.heads;
  if (p.to_sums && p.offsets[b] == p.offsets[b + 1] && threadIdx.x < 3 * kD)  // an empty sequence
    p.to_sums[(static_cast<int64_t>(b) * 3 + threadIdx.x / kD) * p.heads * kD + head * kD + threadIdx.x % kD] =
        0.0f;
}

Params params_of(const AttentionArgs& args) {
  Params p{};
  p.offsets = args.offsets, p.key_lengths = args.key_lengths;
  p.rows = args.rows, p.sequences = args.sequences, p.heads = args.heads;
  p.causal = args.causal, p.dropout = args.dropout > 0.0;
  p.inverse_keep = static_cast<float>(1.0 / (1.0 - args.dropout));
  p.threshold = bernoulli_threshold(args.dropout);
  p.key = args.key;
  return p;
}

template <class Kernel>
void launch_problems(const char* name, Kernel kernel, uint32_t bytes, const AttentionArgs& args, const Params& p,
                     Stream stream) {
  check_attention_args(args);
  if (args.sequences == 0) return;  // attention_forward and attention_backward zero the rows then
  CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
  launch(name, kernel, {args.sequences * args.heads, kBlockThreads, bytes}, stream, p);
}

}  // namespace

void attention_forward_sm80(const AttentionArgs& args, const bfloat16* qkv, bfloat16* out, float* lse,
                            uint32_t* kept, Stream stream) {
  Params p = params_of(args);
  p.qkv = qkv, p.to_out = out, p.to_lse = lse, p.to_kept = p.dropout ? kept : nullptr;
  launch_problems("attention_forward_sm80", forward_kernel, kForwardBytes, args, p, stream);
}

void attention_backward_sm80(const AttentionArgs& args, const bfloat16* qkv, const bfloat16* out, const float* lse,
                             const uint32_t* kept, const bfloat16* dout, bfloat16* dqkv, float* column_sums,
                             Stream stream) {
  Params p = params_of(args);
  p.qkv = qkv, p.out = out, p.lse = lse, p.kept = p.dropout ? kept : nullptr, p.dout = dout;
  p.to_dqkv = dqkv, p.to_sums = column_sums;
  launch_problems("attention_backward_sm80", backward_kernel, kBackwardBytes, args, p, stream);
}

}  // namespace glia::cuda
