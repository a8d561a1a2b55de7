// Attention for short packed sequences, forward. attention_short.cuh says how the work lies.
#include "engine/ops/attention/attention_short.cuh"

namespace glia::cuda {
namespace {

using namespace attention_short;

constexpr int kBlocks = 3;  // a multiprocessor: 80 registers are enough (spills in the long path only)

// kTiles: key tiles of 16 that fit (4 or 8); only those below ⌈keys / 16⌉ are touched.
template <int kD, int kTiles>
__device__ __forceinline__ void forward_problem(const TensorParams& p, const Group& group, const Place& place,
                                                int head) {
  constexpr uint32_t kTile = kTiles * 16 * kRowBytes<kD>;
  const uint32_t q_tile = group.shared, k_tile = q_tile + kTile, v_tile = k_tile + kTile;
  const int start = place.start, n = place.n, keys = place.keys;
  const int lane = group.lane, g = lane >> 2, t = lane & 3, h = p.heads * kD, row0 = group.warp * 16;

  const LaneOffsets<kD> at(lane);

  const bfloat16* from = p.qkv + static_cast<int64_t>(start) * 3 * h + head * kD;
  RowCopies<kD>(group).for_each(n, [&](const RowCopies<kD>& c, bool valid, int64_t row) {
    const bfloat16* line = from + row * 3 * h + c.chunk * 8;
    copy_async(q_tile + c.to, line, valid);
    copy_async(k_tile + c.to_slot, line + h, valid);
  });
  commit_copies();
  RowCopies<kD>(group).for_each(n, [&](const RowCopies<kD>& c, bool valid, int64_t row) {
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
    uint32_t q[kD / 16][4];
#pragma unroll
    for (int x = 0; x < kD / 16; ++x) load_a(q[x], q_tile, row0, 2 * x, at);
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
      if (j >= tiles) continue;
#pragma unroll
      for (int e = 0; e < 8; ++e) s[j][e] = 0.0f;
#pragma unroll
      for (int x = 0; x < kD / 16; ++x) {
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
  const float c = kScale<kD> * kLog2E;
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
  float o[kD / 8][4] = {};
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
    if (j < tiles) multiply_rows(o, weights[j], v_tile, 16 * j, at);
  }
  sum0 = quad_sum(sum0), sum1 = quad_sum(sum1);

  if (t == 0) {
    float* lse = p.to_lse + static_cast<int64_t>(start + row0 + g) * p.heads + head;
    if (row0 + g < n) lse[0] = sum0 > 0.0f ? fmaf(top0, kScale<kD>, logf(sum0)) : -INFINITY;
    if (row0 + g + 8 < n) lse[8 * p.heads] = sum1 > 0.0f ? fmaf(top1, kScale<kD>, logf(sum1)) : -INFINITY;
  }
  // The warp's own query rows are free now: stage the result there and write whole lines.
  __syncwarp();
  stage<kD>(o, sum0 > 0.0f ? p.inverse_keep / sum0 : 0.0f, sum1 > 0.0f ? p.inverse_keep / sum1 : 0.0f, q_tile, row0,
            lane);
  __syncwarp();
  write_rows<false, kD>(q_tile, row0, n, p.to_out + static_cast<int64_t>(start) * h + head * kD, h, lane);
}

template <int kD> constexpr uint32_t kForwardBytes = 3 * kMaxRows* kRowBytes<kD>;  // Q, K, V

template <int kD>
__global__ __launch_bounds__(kBlockThreads, kBlocks) void forward_kernel(const __grid_constant__ TensorParams p) {
  extern __shared__ __align__(1024) unsigned char memory[];
  const Place place = place_of(p);
  for_each_problem(
      p, place, static_cast<uint32_t>(__cvta_generic_to_shared(memory)), kForwardBytes<kD>,
      [&](const Group& group, int head) { forward_problem<kD, 4>(p, group, place, head); },
      [&](const Group& group, int head) { forward_problem<kD, 8>(p, group, place, head); });
  zero_tail(p, p.to_out, p.heads * kD);
  zero_tail(p, p.to_lse, p.heads);
}

}  // namespace

void attention_forward_short(const AttentionArgs& args, const bfloat16* qkv, bfloat16* out, float* lse,
                             uint32_t* kept, Stream stream) {
  TensorParams p = tensor_params_of(args);
  p.qkv = qkv, p.to_out = out, p.to_lse = lse, p.to_kept = p.dropout ? kept : nullptr;
  with_head_size<32, 64>(args, [&](auto d) {
    launch_attention("attention_forward_short", forward_kernel<d()>, args.sequences * args.heads, kBlockThreads,
                     kForwardBytes<d()>, args, p, stream);
  });
}

}  // namespace glia::cuda
