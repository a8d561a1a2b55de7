// Attention over packed sequences on CUDA: the choice of the path, and the general kernels (any head size up to
// 128, any length up to 1024, float, double, bfloat16). They are tiled and share every load between rows, but use
// no tensor cores.
//
// A warp owns four rows (queries in forward and dQ, keys in dK/dV) and walks over tiles of 32 positions of the
// other kind: lane l scores position l, then holds dimensions l, l + 32, … of the results, to which the tile's
// weights come by shuffles.

#include <cmath>
#include <type_traits>

#include "engine/device/cuda/launch.cuh"
#include "engine/ops/attention/attention_kernels.h"

namespace glia::cuda {
namespace {

constexpr int kWarps = 4, kOwn = 4, kBlockRows = kWarps * kOwn, kTile = 32, kBlockThreads = kWarps * 32;

template <class T> struct Params {
  using F = Accumulator<T>;
  const T *qkv, *out, *dout;
  const F* lse;
  T *to_out, *to_dqkv;
  F *to_lse, *delta;  // delta [T, A]: written by the dQ kernel, read by the dK/dV kernel
  const int32_t *offsets, *key_lengths;
  int rows, sequences, heads, d;
  bool causal, dropout;
  F scale, inverse_keep;
  uint32_t threshold;
  RandomKey key;

  __device__ int hidden() const { return heads * d; }
};

// Where a block works: grid (row blocks of the longest sequence, A, B).
struct Place {
  int64_t start;
  int n, keys, head, row0;  // row0: the block's first own row within the sequence
  uint32_t step;
};
template <class T> __device__ Place place_of(const Params<T>& p) {
  const int b = blockIdx.z, start = p.offsets[b], n = p.offsets[b + 1] - start;
  return {start,
          n,
          p.key_lengths ? max(0, min(p.key_lengths[b], n)) : n,
          static_cast<int>(blockIdx.y),
          static_cast<int>(blockIdx.x) * kBlockRows,
          p.dropout && p.key.step ? *p.key.step : 0u};
}

template <class T, class To> __device__ void zero_tail(const Params<T>& p, To* to, int width) {
  const int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x,
            blocks = gridDim.x * gridDim.y * gridDim.z;
  for (int64_t row = p.offsets[p.sequences] + block; row < p.rows; row += blocks) {
    for (int i = threadIdx.x; i < width; i += kBlockThreads) to[row * width + i] = static_cast<To>(0.0f);
  }
}

// `count` rows of D elements from row `first` on, of which those below n exist (others: 0), to shared rows of `ld`.
template <class T, class F>
__device__ void load_rows(F* to, int ld, const T* from, int64_t stride, int d, int first, int count, int n) {
  for (int i = threadIdx.x; i < count * d; i += kBlockThreads) {
    const int r = i / d, x = i - r * d;
    to[r * ld + x] = first + r < n ? static_cast<F>(from[(first + r) * stride + x]) : F(0);
  }
}

// The next two tiles in place of those that every warp has done with.
template <class T, class F>
__device__ void load_tiles(F* a, const T* from_a, int64_t stride_a, F* b, const T* from_b, int64_t stride_b, int ld,
                           int d, int first, int n) {
  __syncthreads();
  load_rows(a, ld, from_a, stride_a, d, first, kTile, n);
  load_rows(b, ld, from_b, stride_b, d, first, kTile, n);
  __syncthreads();
}

// scores[r] = own[r] · line for the warp's four own rows; `line` is the lane's row of the tile.
template <class F> __device__ void dot_rows(F (&scores)[kOwn], const F* own, int own_ld, const F* line, int d) {
  for (int r = 0; r < kOwn; ++r) scores[r] = F(0);
  for (int x = 0; x < d; ++x) {
    const F y = line[x];
#pragma unroll
    for (int r = 0; r < kOwn; ++r) scores[r] += own[r * own_ld + x] * y;
  }
}
// sum[r][c] += Σ_l weights[r] of lane l · tile[l][lane + 32 c]
template <int kColumns, class F>
__device__ void add_rows(F (&sum)[kOwn][kColumns], const F (&weights)[kOwn], const F* tile, int ld, int d,
                         int lane) {
  for (int l = 0; l < kTile; ++l) {
    F w[kOwn];
#pragma unroll
    for (int r = 0; r < kOwn; ++r) w[r] = __shfl_sync(~0u, weights[r], l);
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      const int x = lane + 32 * c;
      const F y = x < d ? tile[l * ld + x] : F(0);
#pragma unroll
      for (int r = 0; r < kOwn; ++r) sum[r][c] += w[r] * y;
    }
  }
}
template <int kColumns, class T, class F>
__device__ void write_rows(const F (&sum)[kOwn][kColumns], const F (&factor)[kOwn], T* to, int64_t stride, int d,
                           int row, int n, int lane) {
  for (int r = 0; r < kOwn; ++r) {
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      const int x = lane + 32 * c;
      if (row + r < n && x < d) to[(row + r) * stride + x] = static_cast<T>(sum[r][c] * factor[r]);
    }
  }
}

// Bit r of the result: query row + r keeps key k0 + lane. Four lanes share the four Philox blocks of (4 queries, 4
// keys): each draws one query's block and passes the bits on.
template <class T>
__device__ uint32_t keep_bits_of_queries(const Params<T>& p, const Place& at, int row, int k0, int lane) {
  if (!p.dropout) return 15u;
  const uint64_t query = static_cast<uint64_t>(at.start + row + (lane & 3));
  const PhiloxBlock block =
      random_block(p.key.seed, p.key.purpose, at.step,
                   first_block(p.key) + (query * p.heads + at.head) * (kAttentionMaxLength / 4) + (k0 + lane) / 4);
  uint32_t mine = 0, bits = 0;
#pragma unroll
  for (int w = 0; w < 4; ++w) mine |= static_cast<uint32_t>(block.word[w] >= p.threshold) << w;
#pragma unroll
  for (int r = 0; r < 4; ++r) bits |= (__shfl_sync(~0u, mine, (lane & ~3) + r) >> (lane & 3) & 1u) << r;
  return bits;
}
// Bit r: query `query` keeps key `key` + r; key is a multiple of 4, so the lane needs one block.
template <class T> __device__ uint32_t keep_bits_of_keys(const Params<T>& p, const Place& at, int query, int key) {
  if (!p.dropout) return 15u;
  const PhiloxBlock block = random_block(
      p.key.seed, p.key.purpose, at.step,
      first_block(p.key) +
          (static_cast<uint64_t>(at.start + query) * p.heads + at.head) * (kAttentionMaxLength / 4) + key / 4);
  uint32_t bits = 0;
#pragma unroll
  for (int r = 0; r < 4; ++r) bits |= static_cast<uint32_t>(block.word[r] >= p.threshold) << r;
  return bits;
}

// The end of the keys that any query of the block sees.
template <class T> __device__ int last_key(const Params<T>& p, const Place& at) {
  return p.causal ? min(at.keys, at.row0 + kBlockRows) : at.keys;
}

extern __shared__ __align__(16) unsigned char shared_memory[];

// Online softmax (Milakov and Gimelshein, 2018) over tiles of 32 keys.
template <class T, int kColumns>
__global__ __launch_bounds__(kBlockThreads) void forward_kernel(const __grid_constant__ Params<T> p) {
  using F = Accumulator<T>;
  zero_tail(p, p.to_out, p.hidden());
  zero_tail(p, p.to_lse, p.heads);
  const Place at = place_of(p);
  if (at.row0 >= at.n) return;
  const int d = p.d, ld = d + 1, lane = threadIdx.x & 31, warp = threadIdx.x >> 5, row = at.row0 + warp * kOwn;
  const int64_t h = p.hidden();
  F *q = reinterpret_cast<F*>(shared_memory), *k = q + kBlockRows * d, *v = k + kTile * ld;
  const T* from = p.qkv + at.start * 3 * h + static_cast<int64_t>(at.head) * d;
  load_rows(q, d, from, 3 * h, d, at.row0, kBlockRows, at.n);

  F top[kOwn], sum[kOwn] = {}, o[kOwn][kColumns] = {};
  for (int r = 0; r < kOwn; ++r) top[r] = -INFINITY;
  const int end = last_key(p, at);
  for (int k0 = 0; k0 < end; k0 += kTile) {
    load_tiles(k, from + h, 3 * h, v, from + 2 * h, 3 * h, ld, d, k0, at.n);
    F s[kOwn];
    dot_rows(s, q + warp * kOwn * d, d, k + lane * ld, d);
    const uint32_t keep = keep_bits_of_queries(p, at, row, k0, lane);
#pragma unroll
    for (int r = 0; r < kOwn; ++r) {
      const bool seen = k0 + lane < at.keys && (!p.causal || k0 + lane <= row + r);
      s[r] = seen ? s[r] * p.scale : F(-INFINITY);
      const F new_top = max(top[r], warp_max(s[r]));
      const F weight = seen ? exp(s[r] - new_top) : F(0), old = top[r] == new_top ? F(1) : exp(top[r] - new_top);
      sum[r] = sum[r] * old + warp_sum(weight);
      top[r] = new_top;
#pragma unroll
      for (int c = 0; c < kColumns; ++c) o[r][c] *= old;
      s[r] = (keep >> r & 1) ? weight : F(0);
    }
    add_rows(o, s, v, ld, d, lane);
  }
  F factor[kOwn];
  for (int r = 0; r < kOwn; ++r) {
    factor[r] = sum[r] > F(0) ? p.inverse_keep / sum[r] : F(0);
    if (lane == 0 && row + r < at.n) {
      p.to_lse[(at.start + row + r) * p.heads + at.head] = sum[r] > F(0) ? top[r] + log(sum[r]) : F(-INFINITY);
    }
  }
  write_rows(o, factor, p.to_out + at.start * h + static_cast<int64_t>(at.head) * d, h, d, row, at.n, lane);
}

template <class T, int kColumns>
__global__ __launch_bounds__(kBlockThreads) void dq_kernel(const __grid_constant__ Params<T> p) {
  using F = Accumulator<T>;
  zero_tail(p, p.to_dqkv, 3 * p.hidden());
  const Place at = place_of(p);
  if (at.row0 >= at.n) return;
  const int d = p.d, ld = d + 1, lane = threadIdx.x & 31, warp = threadIdx.x >> 5, row = at.row0 + warp * kOwn;
  const int64_t h = p.hidden(), column = static_cast<int64_t>(at.head) * d;
  F *q = reinterpret_cast<F*>(shared_memory), *g = q + kBlockRows * d, *k = g + kBlockRows * d, *v = k + kTile * ld;
  const T* from = p.qkv + at.start * 3 * h + column;
  load_rows(q, d, from, 3 * h, d, at.row0, kBlockRows, at.n);
  load_rows(g, d, p.dout + at.start * h + column, h, d, at.row0, kBlockRows, at.n);
  __syncthreads();

  F delta[kOwn], lse[kOwn], dq[kOwn][kColumns] = {};
  for (int r = 0; r < kOwn; ++r) {
    F sum = F(0);
    const bool exists = row + r < at.n;
    const T* o = p.out + (at.start + (exists ? row + r : 0)) * h + column;
    for (int x = lane; x < d; x += 32) sum += g[(warp * kOwn + r) * d + x] * static_cast<F>(o[x]);
    delta[r] = warp_sum(sum);
    const int64_t i = (at.start + row + r) * p.heads + at.head;
    lse[r] = exists ? p.lse[i] : F(0);
    if (lane == 0 && exists) p.delta[i] = delta[r];
  }
  const int end = last_key(p, at);
  for (int k0 = 0; k0 < end; k0 += kTile) {
    load_tiles(k, from + h, 3 * h, v, from + 2 * h, 3 * h, ld, d, k0, at.n);
    F s[kOwn], dp[kOwn];
    dot_rows(s, q + warp * kOwn * d, d, k + lane * ld, d);
    dot_rows(dp, g + warp * kOwn * d, d, v + lane * ld, d);
    const uint32_t keep = keep_bits_of_queries(p, at, row, k0, lane);
#pragma unroll
    for (int r = 0; r < kOwn; ++r) {
      const bool seen = k0 + lane < at.keys && (!p.causal || k0 + lane <= row + r);
      const F weight = seen ? exp(s[r] * p.scale - lse[r]) : F(0);
      s[r] = weight * (((keep >> r & 1) ? dp[r] * p.inverse_keep : F(0)) - delta[r]);
    }
    add_rows(dq, s, k, ld, d, lane);
  }
  const F factor[kOwn] = {p.scale, p.scale, p.scale, p.scale};
  write_rows(dq, factor, p.to_dqkv + at.start * 3 * h + column, 3 * h, d, row, at.n, lane);
}

template <class T, int kColumns>
__global__ __launch_bounds__(kBlockThreads) void dkv_kernel(const __grid_constant__ Params<T> p) {
  using F = Accumulator<T>;
  const Place at = place_of(p);
  if (at.row0 >= at.n) return;
  const int d = p.d, ld = d + 1, lane = threadIdx.x & 31, warp = threadIdx.x >> 5, key = at.row0 + warp * kOwn;
  const int64_t h = p.hidden(), column = static_cast<int64_t>(at.head) * d;
  F *k = reinterpret_cast<F*>(shared_memory), *v = k + kBlockRows * d, *q = v + kBlockRows * d, *g = q + kTile * ld;
  const T *from = p.qkv + at.start * 3 * h + column, *dout = p.dout + at.start * h + column;
  load_rows(k, d, from + h, 3 * h, d, at.row0, kBlockRows, at.n);
  load_rows(v, d, from + 2 * h, 3 * h, d, at.row0, kBlockRows, at.n);

  F dk[kOwn][kColumns] = {}, dv[kOwn][kColumns] = {};
  for (int q0 = p.causal ? at.row0 / kTile * kTile : 0; q0 < at.n && at.row0 < at.keys; q0 += kTile) {
    load_tiles(q, from, 3 * h, g, dout, h, ld, d, q0, at.n);
    const int query = q0 + lane;
    const int64_t i = (at.start + query) * p.heads + at.head;
    const F lse = query < at.n ? p.lse[i] : F(0), delta = query < at.n ? p.delta[i] : F(0);
    F s[kOwn], dp[kOwn];
    dot_rows(s, k + warp * kOwn * d, d, q + lane * ld, d);
    dot_rows(dp, v + warp * kOwn * d, d, g + lane * ld, d);
    const uint32_t keep = keep_bits_of_keys(p, at, query, key);
#pragma unroll
    for (int r = 0; r < kOwn; ++r) {
      const bool seen = query < at.n && key + r < at.keys && (!p.causal || key + r <= query), kept = keep >> r & 1;
      const F weight = seen ? exp(s[r] * p.scale - lse) : F(0);
      s[r] = weight * ((kept ? dp[r] * p.inverse_keep : F(0)) - delta);
      dp[r] = kept ? weight : F(0);
    }
    add_rows(dk, s, q, ld, d, lane);
    add_rows(dv, dp, g, ld, d, lane);
  }
  const F scales[kOwn] = {p.scale, p.scale, p.scale, p.scale};
  const F keeps[kOwn] = {p.inverse_keep, p.inverse_keep, p.inverse_keep, p.inverse_keep};
  T* to = p.to_dqkv + at.start * 3 * h + column;
  write_rows(dk, scales, to + h, 3 * h, d, key, at.n, lane);
  write_rows(dv, keeps, to + 2 * h, 3 * h, d, key, at.n, lane);
}

template <class T> Params<T> params_of(const AttentionArgs& args) {
  using F = Accumulator<T>;
  Params<T> p{};
  p.offsets = args.offsets, p.key_lengths = args.key_lengths;
  p.rows = args.rows, p.sequences = args.sequences, p.heads = args.heads, p.d = args.head_size;
  p.causal = args.causal, p.dropout = args.dropout > 0.0;
  p.scale = F(1) / std::sqrt(static_cast<F>(args.head_size));
  p.inverse_keep = static_cast<F>(1.0 / (1.0 - args.dropout));
  p.threshold = bernoulli_threshold(args.dropout);
  p.key = args.key;
  return p;
}

// own: tiles of the block's own rows; every kernel has two tiles of 32 rows besides.
template <class T, class Kernel>
void launch_tiles(const char* name, Kernel kernel, int own, const AttentionArgs& args, const Params<T>& p,
                  Stream stream) {
  const auto bytes_at = [&](int head_size) {
    return (own * kBlockRows * head_size + 2 * kTile * (head_size + 1)) * static_cast<int>(sizeof(Accumulator<T>));
  };
  // Always the same limit, whatever this launch takes: other threads launch the kernel with other sizes.
  CUDA_CHECK(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes_at(kAttentionMaxHeadSize)));
  const int bytes = bytes_at(args.head_size);
  const int blocks = args.max_length > 0 ? (args.max_length + kBlockRows - 1) / kBlockRows : 1;
  launch(name, kernel, {dim3(blocks, args.heads, args.sequences), kBlockThreads, static_cast<size_t>(bytes)},
         stream, p);
}

// Calls f with the number of 32-wide column groups that D needs.
template <class F> void with_columns(int d, F f) {
  if (d <= 32) f(std::integral_constant<int, 1>{});
  else if (d <= 64) f(std::integral_constant<int, 2>{});
  else f(std::integral_constant<int, 4>{});
}

}  // namespace

template <class T>
void attention_forward_general(const AttentionArgs& args, const T* qkv, T* out, Accumulator<T>* lse,
                               Stream stream) {
  Params<T> p = params_of<T>(args);
  p.qkv = qkv, p.to_out = out, p.to_lse = lse;
  with_columns(args.head_size, [&](auto c) {
    launch_tiles("attention_forward_general", forward_kernel<T, decltype(c)::value>, 1, args, p, stream);
  });
}

template <class T>
void attention_backward_general(const AttentionArgs& args, const T* qkv, const T* out, const Accumulator<T>* lse,
                                const T* dout, T* dqkv, Accumulator<T>* delta, Stream stream) {
  Params<T> p = params_of<T>(args);
  p.qkv = qkv, p.out = out, p.lse = lse, p.dout = dout, p.to_dqkv = dqkv, p.delta = delta;
  with_columns(args.head_size, [&](auto c) {
    launch_tiles("attention_backward_general: dQ", dq_kernel<T, decltype(c)::value>, 2, args, p, stream);
    launch_tiles("attention_backward_general: dK, dV", dkv_kernel<T, decltype(c)::value>, 2, args, p, stream);
  });
}

void attention_forward_tensor(const AttentionArgs& args, const bfloat16* qkv, bfloat16* out, float* lse,
                              uint32_t* kept, Stream stream) {
  if (attention_path<bfloat16>(args) == AttentionPath::kShort)
    attention_forward_short(args, qkv, out, lse, kept, stream);
  else attention_forward_tiled(args, qkv, out, lse, kept, stream);
}

void attention_backward_tensor(const AttentionArgs& args, const bfloat16* qkv, const bfloat16* out,
                               const float* lse, const uint32_t* kept, const bfloat16* dout, bfloat16* dqkv,
                               float* column_sums, float* workspace, Stream stream) {
  if (attention_path<bfloat16>(args) == AttentionPath::kShort)
    attention_backward_short(args, qkv, out, lse, kept, dout, dqkv, column_sums, stream);
  else attention_backward_tiled(args, qkv, out, lse, kept, dout, dqkv, column_sums, workspace, stream);
}

template <class T>
void attention_forward(const AttentionArgs& args, const T* qkv, T* out, Accumulator<T>* lse, Stream stream) {
  check_attention_args(args);
  if (args.sequences == 0) {
    CUDA_CHECK(cudaMemsetAsync(out, 0, sizeof(T) * args.rows * static_cast<int64_t>(args.hidden()), stream));
    CUDA_CHECK(
        cudaMemsetAsync(lse, 0, sizeof(Accumulator<T>) * args.rows * static_cast<int64_t>(args.heads), stream));
    return;
  }
  if constexpr (sizeof(T) == 2) {
    if (attention_path<T>(args) != AttentionPath::kGeneral)
      return attention_forward_tensor(args, qkv, out, lse, nullptr, stream);
  }
  attention_forward_general<T>(args, qkv, out, lse, stream);
}

template <class T>
void attention_backward(const AttentionArgs& args, const T* qkv, const T* out, const Accumulator<T>* lse,
                        const T* dout, T* dqkv, void* workspace, Stream stream) {
  check_attention_args(args);
  if (args.sequences == 0) {
    CUDA_CHECK(cudaMemsetAsync(dqkv, 0, sizeof(T) * args.rows * static_cast<int64_t>(3 * args.hidden()), stream));
    return;
  }
  if constexpr (sizeof(T) == 2) {
    if (attention_path<T>(args) != AttentionPath::kGeneral)
      return attention_backward_tensor(args, qkv, out, lse, nullptr, dout, dqkv, nullptr,
                                       static_cast<float*>(workspace), stream);
  }
  attention_backward_general<T>(args, qkv, out, lse, dout, dqkv, static_cast<Accumulator<T>*>(workspace), stream);
}

#define INSTANTIATE(T)                                                                                           \
  template void attention_forward<T>(const AttentionArgs&, const T*, T*, Accumulator<T>*, Stream);               \
  template void attention_backward<T>(const AttentionArgs&, const T*, const T*, const Accumulator<T>*, const T*, \
                                      T*, void*, Stream);                                                        \
  template void attention_forward_general<T>(const AttentionArgs&, const T*, T*, Accumulator<T>*, Stream);       \
  template void attention_backward_general<T>(const AttentionArgs&, const T*, const T*, const Accumulator<T>*,   \
                                              const T*, T*, Accumulator<T>*, Stream);
GLIA_FOR_FLOATING(INSTANTIATE)
#undef INSTANTIATE

}  // namespace glia::cuda
