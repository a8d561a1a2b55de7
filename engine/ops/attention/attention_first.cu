// Attention of each sequence's first row alone over the sequence's keys (bfloat16, D = 32, 64, 96, 128): a warp a head
// of a sequence. D / 8 lanes hold 16 bytes each of a key's row, so with D = 64 a warp reads 4 keys at once, and several
// of these quartets are in flight.
#include <cmath>

#include "engine/ops/attention/attention_params.cuh"

namespace glia::cuda {
namespace {

constexpr int kWarps = 4, kAhead = 4;
// Lanes that read a row, of which 12 of 16 work with D = 96, and the rows that a warp reads at once.
template <int kD> constexpr int kLanes = kD == 96 ? 16 : kD / 8;
template <int kD> constexpr int kAtOnce = 32 / kLanes<kD>;
constexpr float kLog2E = 1.4426950408889634f;

struct Params {
  const bfloat16 *q, *kv, *out, *dout;  // [B, H], [T, 2H], [B, H], [B, H]
  const float* lse;                     // [B, A]
  bfloat16 *to_out, *to_dq, *to_dkv;
  float *to_lse, *to_sums;  // to_sums [B, 3H]
  const int32_t *offsets, *key_lengths;
  int rows, sequences, heads, longest;
  bool causal, dropout;
  float scale, inverse_keep;
  uint32_t threshold;
  RandomKey key;
};

// A warp's head: n keys' rows, of which the first `keys` count. The lane has chunk `chunk` of row `turn` of those that
// are read at once.
struct Place {
  int b, head, start, n, keys, lane, chunk, turn;
  uint32_t step;
  bool inside;
};
template <int kD> __device__ __forceinline__ Place place_of(const Params& p) {
  const int at = blockIdx.x * kWarps + threadIdx.x / 32, lane = threadIdx.x % 32;
  Place s{at / p.heads,
          at % p.heads,
          0,
          0,
          0,
          lane,
          lane % kLanes<kD>,
          lane / kLanes<kD>,
          0,
          at < p.sequences * p.heads};
  if (!s.inside) return s;
  s.start = p.offsets[s.b];
  s.n = min(p.offsets[s.b + 1] - s.start, p.longest);
  s.keys = p.key_lengths ? max(0, min(p.key_lengths[s.b], s.n)) : s.n;
  if (p.causal) s.keys = min(s.keys, 1);  // a first row sees itself
  s.step = p.dropout && p.key.step ? *p.key.step : 0u;
  return s;
}

using Chunk = Pack<bfloat16, 8>;
// The lane's chunk of a row; zeros where the row has none for it.
template <int kD> __device__ __forceinline__ Chunk load_chunk(const Place& s, const bfloat16* p) {
  if (kLanes<kD> * 8 != kD && s.chunk >= kD / 8) return {};
  return *reinterpret_cast<const Chunk*>(p);
}
__device__ __forceinline__ void unpack(const Chunk& c, float (&v)[8]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) v[i] = static_cast<float>(c.v[i]);
}
template <int kD>
__device__ __forceinline__ void store_chunk(const Place& s, bfloat16* p, const float (&v)[8], float factor) {
  if (kLanes<kD> * 8 != kD && s.chunk >= kD / 8) return;
  Chunk c;
#pragma unroll
  for (int i = 0; i < 8; ++i) c.v[i] = static_cast<bfloat16>(v[i] * factor);
  *reinterpret_cast<Chunk*>(p) = c;
}
template <int kD>
__device__ __forceinline__ float dot(const float (&a)[8], const Chunk& b) {  // over the row: all its lanes get it
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) sum = fmaf(a[i], static_cast<float>(b.v[i]), sum);
#pragma unroll
  for (int l = 1; l < kLanes<kD>; l *= 2) sum += __shfl_xor_sync(~0u, sum, l);
  return sum;
}
// Element (first row of b, head, key) of the dropout stream, as in attention_kernels.h.
__device__ __forceinline__ bool kept(const Params& p, const Place& s, int key) {
  if (!p.dropout) return true;
  const uint64_t row = static_cast<uint64_t>(s.start) * p.heads + s.head;
  const uint64_t block = first_block(p.key) + row * (kAttentionMaxLength / 4) + key / 4;
  return random_block(p.key.seed, p.key.purpose, s.step, block).word[key & 3] >= p.threshold;
}
// Over the rows that are read at once.
template <int kD> __device__ __forceinline__ float sum_turns(float x) {
#pragma unroll
  for (int l = kLanes<kD>; l < 32; l *= 2) x += __shfl_xor_sync(~0u, x, l);
  return x;
}

template <int kD> __global__ void __launch_bounds__(kWarps * 32) forward_kernel(const __grid_constant__ Params p) {
  extern __shared__ float weights[];  // [kWarps, longest]
  const Place s = place_of<kD>(p);
  if (!s.inside) return;
  float* weight = weights + threadIdx.x / 32 * p.longest;
  const int h = p.heads * kD, column = s.head * kD + s.chunk * 8;
  const bfloat16 *k = p.kv + static_cast<int64_t>(s.start) * 2 * h + column, *v = k + h;
  float q[8];
  unpack(load_chunk<kD>(s, p.q + static_cast<int64_t>(s.b) * h + column), q);
  for (int first = 0; first < s.keys; first += kAtOnce<kD> * kAhead) {
    Chunk chunk[kAhead] = {};
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      const int key = first + kAtOnce<kD> * a + s.turn;
      if (key < s.keys) chunk[a] = load_chunk<kD>(s, k + static_cast<int64_t>(key) * 2 * h);
    }
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      const int key = first + kAtOnce<kD> * a + s.turn;
      const float score = dot<kD>(q, chunk[a]) * p.scale;
      if (s.chunk == 0 && key < s.keys) weight[key] = score;
    }
  }
  __syncwarp();
  float top = -INFINITY, sum = 0;
  for (int key = s.lane; key < s.keys; key += 32) top = fmaxf(top, weight[key]);
  top = warp_max(top);
  for (int key = s.lane; key < s.keys; key += 32) {
    const float e = exp2f((weight[key] - top) * kLog2E);
    sum += e;
    weight[key] = kept(p, s, key) ? e : 0.0f;
  }
  sum = warp_sum(sum);
  __syncwarp();
  float o[8] = {};
  for (int first = 0; first < s.keys; first += kAtOnce<kD> * kAhead) {
    Chunk chunk[kAhead] = {};
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      const int key = first + kAtOnce<kD> * a + s.turn;
      if (key < s.keys) chunk[a] = load_chunk<kD>(s, v + static_cast<int64_t>(key) * 2 * h);
    }
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      const int key = first + kAtOnce<kD> * a + s.turn;
      const float w = key < s.keys ? weight[key] : 0.0f;
#pragma unroll
      for (int i = 0; i < 8; ++i) o[i] = fmaf(w, static_cast<float>(chunk[a].v[i]), o[i]);
    }
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) o[i] = sum_turns<kD>(o[i]);
  if (s.turn == 0)
    store_chunk<kD>(s, p.to_out + static_cast<int64_t>(s.b) * h + column, o, sum > 0 ? p.inverse_keep / sum : 0.0f);
  if (s.lane == 0) p.to_lse[s.b * p.heads + s.head] = sum > 0 ? top + logf(sum) : -INFINITY;
}

template <int kD> __global__ void __launch_bounds__(kWarps * 32) backward_kernel(const __grid_constant__ Params p) {
  const Place s = place_of<kD>(p);
  const int h = p.heads * kD, width = 2 * h;
  for (int row = p.offsets[p.sequences] + blockIdx.x; row < p.rows; row += gridDim.x)  // the tail
    for (int i = threadIdx.x; i < width / 8; i += kWarps * 32)
      reinterpret_cast<uint4*>(p.to_dkv + static_cast<int64_t>(row) * width)[i] = uint4{};
  if (!s.inside) return;
  const int column = s.head * kD + s.chunk * 8;
  const int64_t own = static_cast<int64_t>(s.b) * h + column, from = static_cast<int64_t>(s.start) * width + column;
  const float shift = p.lse[s.b * p.heads + s.head];
  float q[8], g[8], dq[8] = {}, ds_sum = 0, pm_sum = 0;
  unpack(load_chunk<kD>(s, p.q + own), q);
  unpack(load_chunk<kD>(s, p.dout + own), g);
  const float delta = dot<kD>(g, load_chunk<kD>(s, p.out + own));
  for (int first = 0; first < s.n; first += kAtOnce<kD> * kAhead) {
    Chunk k[kAhead] = {}, v[kAhead] = {};
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      const int key = first + kAtOnce<kD> * a + s.turn;
      if (key >= s.keys) continue;
      k[a] = load_chunk<kD>(s, p.kv + from + static_cast<int64_t>(key) * width);
      v[a] = load_chunk<kD>(s, p.kv + from + static_cast<int64_t>(key) * width + h);
    }
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      const int key = first + kAtOnce<kD> * a + s.turn;
      const float score = dot<kD>(q, k[a]) * p.scale, dp = dot<kD>(g, v[a]);
      const float w = key < s.keys ? exp2f((score - shift) * kLog2E) : 0.0f;
      const float keep = key < s.keys && kept(p, s, key) ? p.inverse_keep : 0.0f, ds = w * (dp * keep - delta),
                  pm = w * keep;
      ds_sum += ds, pm_sum += pm;
#pragma unroll
      for (int i = 0; i < 8; ++i) dq[i] = fmaf(ds, static_cast<float>(k[a].v[i]), dq[i]);
      if (key >= s.n) continue;
      store_chunk<kD>(s, p.to_dkv + from + static_cast<int64_t>(key) * width, q, ds * p.scale);
      store_chunk<kD>(s, p.to_dkv + from + static_cast<int64_t>(key) * width + h, g, pm);
    }
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) dq[i] = sum_turns<kD>(dq[i]);
  ds_sum = sum_turns<kD>(ds_sum), pm_sum = sum_turns<kD>(pm_sum);
  if (s.turn != 0) return;
  store_chunk<kD>(s, p.to_dq + own, dq, p.scale);
  if (kLanes<kD> * 8 != kD && s.chunk >= kD / 8) return;
  float* sums = p.to_sums + static_cast<int64_t>(s.b) * 3 * h + column;
#pragma unroll
  for (int i = 0; i < 8; ++i)
    sums[i] = dq[i] * p.scale, sums[h + i] = q[i] * ds_sum * p.scale, sums[2 * h + i] = g[i] * pm_sum;
}

Params params_of(const AttentionArgs& args) {
  Params p{};
  p.offsets = args.offsets, p.key_lengths = args.key_lengths;
  p.rows = args.rows, p.sequences = args.sequences, p.heads = args.heads;
  p.longest = args.max_length;
  p.causal = args.causal, p.dropout = args.dropout > 0.0;
  p.scale = 1.0f / std::sqrt(static_cast<float>(args.head_size));
  p.inverse_keep = static_cast<float>(1.0 / (1.0 - args.dropout));
  p.threshold = bernoulli_threshold(args.dropout);
  p.key = args.key;
  return p;
}
int grid_of(const AttentionArgs& args) { return (args.sequences * args.heads + kWarps - 1) / kWarps; }

}  // namespace

void attention_first_forward(const AttentionArgs& args, const bfloat16* q, const bfloat16* kv, bfloat16* out,
                             float* lse, Stream stream) {
  check_attention_args(args);
  Params p = params_of(args);
  p.q = q, p.kv = kv, p.to_out = out, p.to_lse = lse;
  const size_t bytes = sizeof(float) * kWarps * args.max_length;
  with_head_size<32, 64, 96, 128>(args, [&](auto d) {
    launch("attention_first", forward_kernel<d()>, {grid_of(args), kWarps * 32, bytes}, stream, p);
  });
}

void attention_first_backward(const AttentionArgs& args, const bfloat16* q, const bfloat16* kv, const bfloat16* out,
                              const float* lse, const bfloat16* dout, bfloat16* dq, bfloat16* dkv,
                              float* column_sums, Stream stream) {
  check_attention_args(args);
  Params p = params_of(args);
  p.q = q, p.kv = kv, p.out = out, p.lse = lse, p.dout = dout, p.to_dq = dq, p.to_dkv = dkv,
  p.to_sums = column_sums;
  with_head_size<32, 64, 96, 128>(args, [&](auto d) {
    launch("attention_first/gradient", backward_kernel<d()>, {grid_of(args), kWarps * 32}, stream, p);
  });
}

void add_to_rows(const bfloat16* x, const int32_t* index, bfloat16* y, int64_t rows, int64_t columns,
                 Stream stream) {
  for_each("add_to_rows", rows * columns, stream, [=] __device__(int64_t i) {
    const int64_t row = index[i / columns];
    if (row < 0) return;  // an empty sequence
    bfloat16& to = y[row * columns + i % columns];
    to = static_cast<bfloat16>(static_cast<float>(to) + static_cast<float>(x[i]));
  });
}

}  // namespace glia::cuda
