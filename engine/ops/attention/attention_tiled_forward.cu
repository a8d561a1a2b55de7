// Attention for sequences of any length, forward: online softmax (Milakov and Gimelshein, 2018) over tiles of 64 keys.
// attention_tiled.cuh says how the work lies.
#include "engine/ops/attention/attention_tiled.cuh"

namespace glia::cuda {
namespace {

using namespace attention_tiled;

// A warp's rows, in groups of 16: two share what is loaded of K and V where the registers allow.
template <int kD> constexpr int kGroups = kD <= 64 ? 2 : 1;
template <int kD> constexpr int kRows = kTile* kGroups<kD>;
template <int kD> constexpr uint32_t kTileBytes = kTile* kRowBytes<kD>;
template <int kD> constexpr uint32_t kBytes = kRows<kD>* kRowBytes<kD> + 4 * kTileBytes<kD>;  // Q, two of K and V

// What a thread keeps of its rows g and g + 8 of each group.
template <int kD> struct State {
  float top[kGroups<kD>][2], sum[kGroups<kD>][2] = {};  // sum: the thread's own share of it
  float o[kGroups<kD>][kD / 8][4] = {};
};

// S of a group of rows and 64 keys becomes exp(S − top); what came before is scaled to the new top.
template <int kD> __device__ __forceinline__ void softmax(State<kD>& state, float (&s)[4][8], int m) {
  constexpr float c = kScale<kD> * kLog2E;
  float shift[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float top = state.top[m][r];
#pragma unroll
    for (int j = 0; j < 4; ++j)
      top = fmaxf(top, fmaxf(fmaxf(s[j][2 * r], s[j][2 * r + 1]), fmaxf(s[j][2 * r + 4], s[j][2 * r + 5])));
    top = quad_max(top);
    shift[r] = top == -INFINITY ? 0.0f : top * c;
    const float old = exp2_fast(fmaf(state.top[m][r], c, -shift[r]));
    state.top[m][r] = top;
    state.sum[m][r] *= old;
#pragma unroll
    for (int x = 0; x < kD / 8; ++x) state.o[m][x][2 * r] *= old, state.o[m][x][2 * r + 1] *= old;
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) {
#pragma unroll
    for (int e = 0; e < 8; ++e) s[j][e] = exp2_fast(fmaf(s[j][e], c, -shift[upper(e)]));
    state.sum[m][0] += (s[j][0] + s[j][1]) + (s[j][4] + s[j][5]);
    state.sum[m][1] += (s[j][2] + s[j][3]) + (s[j][6] + s[j][7]);
  }
}

template <int kD>
__global__ __launch_bounds__(kTiledThreads, 2) void forward_kernel(const __grid_constant__ TensorParams p) {
  constexpr int kM = kGroups<kD>;
  extern __shared__ __align__(1024) unsigned char memory[];
  zero_tail(p, p.to_out, p.heads * kD);
  zero_tail(p, p.to_lse, p.heads);
  const Place at = place_of<kRows<kD>, true>(p);
  if (at.row0 >= at.n) return;
  const int lane = threadIdx.x % 32, g = lane >> 2, t = lane & 3, h = p.heads * kD;
  const int row0 = at.row0 + uniform(threadIdx.x / 32) * 16 * kM, own = row0 - at.row0;
  const uint32_t q_tile = static_cast<uint32_t>(__cvta_generic_to_shared(memory)),
                 tiles = q_tile + kRows<kD> * kRowBytes<kD>;
  const auto k_tile = [&](int i) { return tiles + (i & 1) * 2 * kTileBytes<kD>; };  // V lies behind K
  const bfloat16* from = p.qkv + static_cast<int64_t>(at.start) * 3 * h + at.head * kD;
  const auto load = [&](int i) {
    copy_rows<true, kD, kTile>(k_tile(i), from + h, 3 * h, kTile * i, at.n);
    copy_rows<true, kD, kTile>(k_tile(i) + kTileBytes<kD>, from + 2 * h, 3 * h, kTile * i, at.n);
    commit_copies();
  };
  copy_rows<false, kD, kRows<kD>>(q_tile, from, 3 * h, at.row0, at.n);
  load(0);
  wait_for_copies<0>();
  __syncthreads();

  const LaneOffsets<kD> lanes(lane);
  uint32_t q[kM][kD / 16][4];
  State<kD> state;
#pragma unroll
  for (int m = 0; m < kM; ++m) {
    state.top[m][0] = state.top[m][1] = -INFINITY;
#pragma unroll
    for (int x = 0; x < kD / 16; ++x) load_a(q[m][x], q_tile, own + 16 * m, 2 * x, lanes);
  }
  const int count = key_tiles<kRows<kD>>(p, at);
  for (int i = 0; i < count; ++i) {
    const int k0 = kTile * i, live = begin_tile(p, at, i, count, row0, row0 + 16 * kM - 1, load);
    if (live <= 0) continue;

    float s[kM][4][8];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float start = j < live ? 0.0f : -INFINITY;
#pragma unroll
      for (int m = 0; m < kM; ++m)
#pragma unroll
        for (int e = 0; e < 8; ++e) s[m][j][e] = start;
      if (j >= live) continue;
#pragma unroll
      for (int x = 0; x < kD / 16; ++x) {
        uint32_t k[4];
        load_b(k, k_tile(i), 16 * j, 2 * x, lanes);
#pragma unroll
        for (int m = 0; m < kM; ++m) {
          multiply(&s[m][j][0], q[m][x], k[0], k[1]);
          multiply(&s[m][j][4], q[m][x], k[2], k[3]);
        }
      }
      const int key0 = k0 + 16 * j;
      if (key0 + 16 <= at.keys && !(p.causal && key0 + 15 > row0)) continue;
#pragma unroll
      for (int m = 0; m < kM; ++m)
#pragma unroll
        for (int e = 0; e < 8; ++e) {
          const int key = key0 + 4 * t + nth_key(e), row = row0 + 16 * m + g + 8 * upper(e);
          if (key >= at.keys || (p.causal && key > row)) s[m][j][e] = -INFINITY;
        }
    }
    uint32_t weights[4][kM][4];  // P ∘ M, not yet normalised, as A operands
#pragma unroll
    for (int m = 0; m < kM; ++m) {
      softmax<kD>(state, s[m], m);
      if (p.dropout) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const int row = row0 + 16 * m + g + 8 * r;
          const uint32_t bits = draw_bits(p, at, at.start + row, i, live, t);
          if (p.to_kept) {
            const uint2 words = words_of(bits, t);
            if (t == 0 && row < at.n)
              *reinterpret_cast<uint2*>(words_at(p, p.to_kept, at.start + row, at.head, i)) = words;
          }
#pragma unroll
          for (int j = 0; j < 4; ++j)
#pragma unroll
            for (int e = 0; e < 8; ++e)
              if (upper(e) == r && !(bits >> (4 * j + nth_key(e)) & 1)) s[m][j][e] = 0.0f;
        }
      }
#pragma unroll
      for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int k = 0; k < 4; ++k) weights[j][m][k] = pack_bf16(s[m][j][2 * k], s[m][j][2 * k + 1]);
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (j < live) multiply_rows(state.o, weights[j], k_tile(i) + kTileBytes<kD>, 16 * j, lanes);
    }
  }
  if (row0 >= at.n) return;
    // The warp's own query rows are free: stage the result there and write whole lines.
#pragma unroll
  for (int m = 0; m < kM; ++m) {
    float factor[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float sum = quad_sum(state.sum[m][r]);
      const int row = row0 + 16 * m + g + 8 * r;
      factor[r] = sum > 0.0f ? p.inverse_keep / sum : 0.0f;
      if (t == 0 && row < at.n)
        p.to_lse[static_cast<int64_t>(at.start + row) * p.heads + at.head] =
            sum > 0.0f ? fmaf(state.top[m][r], kScale<kD>, logf(sum)) : -INFINITY;
    }
    __syncwarp();
    stage<kD>(state.o[m], factor[0], factor[1], q_tile, own + 16 * m, lane);
    __syncwarp();
    write_rows<false, kD>(q_tile, own + 16 * m, at.n - at.row0,
                          p.to_out + static_cast<int64_t>(at.start + at.row0) * h + at.head * kD, h, lane);
  }
}

}  // namespace

void attention_forward_tiled(const AttentionArgs& args, const bfloat16* qkv, bfloat16* out, float* lse,
                             uint32_t* kept, Stream stream) {
  TensorParams p = tensor_params_of(args);
  p.qkv = qkv, p.to_out = out, p.to_lse = lse, p.to_kept = p.dropout ? kept : nullptr;
  with_head_size<32, 64, 96, 128>(args, [&](auto d) {
    launch_tiled<kRows<d()>>("attention_forward_tiled", forward_kernel<d()>, kBytes<d()>, args, p, stream);
  });
}

}  // namespace glia::cuda
