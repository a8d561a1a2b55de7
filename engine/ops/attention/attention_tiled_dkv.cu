// Attention for sequences of any length, backward in the keys: dK and dV from scores that lie [keys, queries].
// attention_tiled.cuh says how the work lies.
#include "engine/ops/attention/attention_tiled_backward.cuh"

namespace glia::cuda {
namespace {

using namespace attention_tiled;

template <int kD> constexpr int kGroups = kD == 32 ? 2 : 1;  // of 16 rows a warp
template <int kD> constexpr int kRows = kTile* kGroups<kD>;
template <int kD> constexpr bool kHold = kD <= 96;  // K and V stay in registers
template <int kD> constexpr uint32_t kTileBytes = kTile* kRowBytes<kD>;

// What a tile of queries brings besides Q and dO.
template <int kD> struct Lines {
  float lse[kTile], delta[kTile];
  uint32_t kept[kTile][2 * kGroups<kD>];  // a bit for each of the block's keys
};
template <int kD>
constexpr uint32_t kBytes = 2 * kRows<kD>* kRowBytes<kD> + 4 * kTileBytes<kD> + 2 * sizeof(Lines<kD>);

// Starts copying tile i's lines. What is not read from memory is written here: the next barrier shows it.
template <int kD>
__device__ __forceinline__ void load_lines(const TensorParams& p, const Place& at, Lines<kD>& to, int i) {
  constexpr int kWords = 2 * kGroups<kD>;
  const int query = threadIdx.x % kTile, row = kTile * i + query;
  const int64_t line = static_cast<int64_t>(at.start + row) * p.heads + at.head;
  float* value = threadIdx.x < kTile ? &to.lse[query] : &to.delta[query];
  if (row < at.n) copy_async(value, (threadIdx.x < kTile ? p.lse : p.delta) + line);
  else *value = 0.0f;
  if (!p.dropout) return;
#pragma unroll
  for (int w = threadIdx.x / kTile; w < kWords; w += kTiledThreads / kTile) {
    const int word = at.row0 / 32 + w;
    if (row >= at.n || word >= p.words) {
      to.kept[query][w] = 0;
    } else if (p.kept) {
      copy_async(&to.kept[query][w], p.kept + line * p.words + word);
    } else {
      uint32_t bits = 0;
#pragma unroll
      for (int b = 0; b < 8; ++b) {
        const PhiloxBlock block =
            random_block(p.key.seed, p.key.purpose, at.step,
                         first_block(p.key) + line * (kAttentionMaxLength / 4) + 8 * word + b);
#pragma unroll
        for (int k = 0; k < 4; ++k) bits |= static_cast<uint32_t>(block.word[k] >= p.threshold) << (4 * b + k);
      }
      to.kept[query][w] = bits;
    }
  }
}

template <int kD>
__global__ __launch_bounds__(kTiledThreads, 2) void dkv_kernel(const __grid_constant__ TensorParams p) {
  constexpr int kM = kGroups<kD>;
  extern __shared__ __align__(1024) unsigned char memory[];
  const Place at = place_of<kRows<kD>, false>(p);
  if (at.row0 >= at.n) {
    if (p.to_sums) write_no_sums<kD, kM>(p, at, 1), write_no_sums<kD, kM>(p, at, 2);
    return;
  }
  const int lane = threadIdx.x % 32, g = lane >> 2, t = lane & 3, h = p.heads * kD;
  const int row0 = at.row0 + uniform(threadIdx.x / 32) * 16 * kM, own = row0 - at.row0, column = at.head * kD;
  const uint32_t k_tile = static_cast<uint32_t>(__cvta_generic_to_shared(memory)),
                 v_tile = k_tile + kRows<kD> * kRowBytes<kD>, tiles = v_tile + kRows<kD> * kRowBytes<kD>;
  const auto q_tile = [&](int i) { return tiles + (i & 1) * 2 * kTileBytes<kD>; };  // dO lies behind Q
  auto* lines = reinterpret_cast<Lines<kD>*>(memory + 2 * kRows<kD> * kRowBytes<kD> + 4 * kTileBytes<kD>);
  const bfloat16* from = p.qkv + static_cast<int64_t>(at.start) * 3 * h + column;
  const bfloat16* dout = p.dout + static_cast<int64_t>(at.start) * h + column;
  const auto load = [&](int i) {
    copy_rows<false, kD, kTile>(q_tile(i), from, 3 * h, kTile * i, at.n);
    copy_rows<false, kD, kTile>(q_tile(i) + kTileBytes<kD>, dout, h, kTile * i, at.n);
    load_lines<kD>(p, at, lines[i & 1], i);
    commit_copies();
  };
  // Keys that no query sees have no work, and queries before the first key see none of them.
  const int first = p.causal ? at.row0 / kTile : 0, count = at.row0 < at.keys ? (at.n + kTile - 1) / kTile : first;
  copy_rows<false, kD, kRows<kD>>(k_tile, from + h, 3 * h, at.row0, at.n);
  copy_rows<false, kD, kRows<kD>>(v_tile, from + 2 * h, 3 * h, at.row0, at.n);
  if (first < count) load(first);
  else commit_copies();

  const LaneOffsets<kD> lanes(lane);
  uint32_t k[kM][kD / 16][4], v[kM][kD / 16][4];
  float dk[kM][kD / 8][4] = {}, dv[kM][kD / 8][4] = {};
  for (int i = first; i < count; ++i) {
    wait_for_copies<0>();  // tile i is here, and nobody reads the other place any more
    __syncthreads();
    if (kHold<kD> && i == first) {
#pragma unroll
      for (int m = 0; m < kM; ++m)
#pragma unroll
        for (int x = 0; x < kD / 16; ++x)
          load_a(k[m][x], k_tile, own + 16 * m, 2 * x, lanes), load_a(v[m][x], v_tile, own + 16 * m, 2 * x, lanes);
    }
    if (i + 1 < count) load(i + 1);
    if (row0 >= at.keys) continue;
    const Lines<kD>& line = lines[i & 1];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int query0 = kTile * i + 16 * j;
      if (query0 >= at.n || (p.causal && query0 + 15 < row0)) continue;
      float s[kM][8] = {}, dp[kM][8] = {};
#pragma unroll
      for (int x = 0; x < kD / 16; ++x) {
        uint32_t b[4];
        load_b(b, q_tile(i), 16 * j, 2 * x, lanes);
#pragma unroll
        for (int m = 0; m < kM; ++m) {
          if (!kHold<kD>) load_a(k[m][x], k_tile, own + 16 * m, 2 * x, lanes);
          multiply(&s[m][0], k[m][x], b[0], b[1]);
          multiply(&s[m][4], k[m][x], b[2], b[3]);
        }
        load_b(b, q_tile(i) + kTileBytes<kD>, 16 * j, 2 * x, lanes);
#pragma unroll
        for (int m = 0; m < kM; ++m) {
          if (!kHold<kD>) load_a(v[m][x], v_tile, own + 16 * m, 2 * x, lanes);
          multiply(&dp[m][0], v[m][x], b[0], b[1]);
          multiply(&dp[m][4], v[m][x], b[2], b[3]);
        }
      }
      // A thread's queries 2t, 2t + 1, 2t + 8, 2t + 9 of the 16: elements 0 and 2, 1 and 3, 4 and 6, 5 and 7.
      const bool whole = !(p.causal && query0 < row0 + 16 * kM - 1);
      float weight[kM][8];
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int query = 16 * j + 2 * t + (c & 1) + 8 * (c >> 1);
        const float shift = line.lse[query] * kLog2E, delta = line.delta[query];
#pragma unroll
        for (int m = 0; m < kM; ++m) {
          const uint32_t kept = p.dropout ? line.kept[query][(own + 16 * m) / 32] >> ((own + 16 * m) % 32) : ~0u;
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            const int e = (c & 1) + 4 * (c >> 1) + 2 * r, key = row0 + 16 * m + g + 8 * r;
            const bool seen = whole || key <= kTile * i + query, keep = kept >> (g + 8 * r) & 1;
            const float p_e = seen ? exp2_fast(fmaf(s[m][e], kScale<kD> * kLog2E, -shift)) : 0.0f;
            s[m][e] = p_e * fmaf(keep ? dp[m][e] : 0.0f, p.inverse_keep, -delta);
            weight[m][e] = keep ? p_e : 0.0f;
          }
        }
      }
      uint32_t pm[kM][4], ds[kM][4];
#pragma unroll
      for (int m = 0; m < kM; ++m)
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          pm[m][c] = pack_bf16(weight[m][2 * c], weight[m][2 * c + 1]);
          ds[m][c] = pack_bf16(s[m][2 * c], s[m][2 * c + 1]);
        }
      multiply_rows(dv, pm, q_tile(i) + kTileBytes<kD>, 16 * j, lanes);
      multiply_rows(dk, ds, q_tile(i), 16 * j, lanes);
    }
  }
  wait_for_copies<0>();
  __syncthreads();  // the copies of K and V too, where there was no tile
  if (row0 < at.n) {
    bfloat16* to = p.to_dqkv + static_cast<int64_t>(at.start + at.row0) * 3 * h + column;
#pragma unroll
    for (int m = 0; m < kM; ++m) {
      // Rows of keys that do not count hold numbers of no meaning.
#pragma unroll
      for (int x = 0; x < kD / 8; ++x)
#pragma unroll
        for (int e = 0; e < 4; ++e)
          if (row0 + 16 * m + g + 8 * upper(e) >= at.keys) dk[m][x][e] = dv[m][x][e] = 0.0f;
      stage<kD>(dk[m], kScale<kD>, kScale<kD>, k_tile, own + 16 * m, lane);
      stage<kD>(dv[m], p.inverse_keep, p.inverse_keep, v_tile, own + 16 * m, lane);
      __syncwarp();
      write_rows<false, kD>(k_tile, own + 16 * m, at.n - at.row0, to + h, 3 * h, lane);
      write_rows<false, kD>(v_tile, own + 16 * m, at.n - at.row0, to + 2 * h, 3 * h, lane);
    }
  }
  if (!p.to_sums) return;
  __syncthreads();  // rows beyond the last one are zero, as copied
  write_sums<kD, kM>(p, at, k_tile, 1, 0, lanes);
  write_sums<kD, kM>(p, at, v_tile, 2, kM, lanes);
}

}  // namespace

namespace attention_tiled {

void launch_dkv(const AttentionArgs& args, const TensorParams& p, Stream stream) {
  with_head_size<32, 64, 96, 128>(args, [&](auto d) {
    launch_tiled<kRows<d()>>("attention_backward_tiled: dK, dV", dkv_kernel<d()>, kBytes<d()>, args, p, stream);
  });
}

}  // namespace attention_tiled

void attention_backward_tiled(const AttentionArgs& args, const bfloat16* qkv, const bfloat16* out, const float* lse,
                              const uint32_t* kept, const bfloat16* dout, bfloat16* dqkv, float* column_sums,
                              float* delta, Stream stream) {
  TensorParams p = tensor_params_of(args);
  p.qkv = qkv, p.out = out, p.lse = lse, p.kept = p.dropout ? kept : nullptr, p.dout = dout;
  p.to_dqkv = dqkv, p.to_sums = column_sums, p.delta = delta;
  attention_tiled::launch_dq(args, p, stream);
  attention_tiled::launch_dkv(args, p, stream);
}

}  // namespace glia::cuda
