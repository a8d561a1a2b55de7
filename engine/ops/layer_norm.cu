#include "engine/ops/cuda/dropout_mask.cuh"
#include "engine/ops/layer_norm_kernels.h"

namespace glia::cuda {
namespace {

constexpr int kWarps = kThreads / 32;
constexpr int kMostPerLane = 32;  // elements of a row that one lane keeps in registers

template <class T>
struct Row {  // what both directions read
  using A = Accumulator<T>;
  const T *x, *residual;
  const A* gain;
  RandomKey key;
  uint32_t threshold;
  A scale, eps;
  int64_t rows, n;
  bool drop;
};

template <class T>
Row<T> make_row(const LayerNormShape& s, const T* x, const T* residual, const Accumulator<T>* gain) {
  using A = Accumulator<T>;
  return {x,      residual, gain, s.key,  bernoulli_threshold(s.p), static_cast<A>(1 / (1 - s.p)), static_cast<A>(s.eps),
          s.rows, s.n,      s.p > 0};
}

// s of W elements from i on; the mask's bits, where there is dropout, so that nobody draws them twice.
template <int W, class T>
__device__ __forceinline__ uint32_t load_sum(const Row<T>& row, const DropoutMask<Accumulator<T>>& mask, int64_t i,
                                             Accumulator<T> (&s)[W]) {
  uint32_t bits = 0;
  load<W>(row.x + i, s);
  if (row.drop) {
    bits = mask.template keep<W>(i);
    mask.apply_bits(bits, s);
  }
  if (row.residual) {
    Accumulator<T> r[W];
    load<W>(row.residual + i, r);
#pragma unroll
    for (int k = 0; k < W; ++k) s[k] += r[k];
  }
  return bits;
}

// dy of W elements from i on: the sum of its terms, all of them requested before the first is used.
template <int W, class T>
__device__ __forceinline__ void load_terms(const Terms<T>& terms, int64_t i, Accumulator<T> (&d)[W]) {
  Accumulator<T> more[kMostTerms][W];
#pragma unroll
  for (int t = 0; t < kMostTerms; ++t)
    if (t < terms.count) load<W>(terms.term[t] + i, more[t]);
#pragma unroll
  for (int k = 0; k < W; ++k) d[k] = more[0][k];
#pragma unroll
  for (int t = 1; t < kMostTerms; ++t)
    if (t < terms.count) {
#pragma unroll
      for (int k = 0; k < W; ++k) d[k] += more[t][k];
    }
}

// --- rows that one warp holds in registers: P packs of W elements a lane -------------------------

template <class T, int W, int P>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(Row<T> row, const Accumulator<T>* bias, T* y, Accumulator<T>* mean, Accumulator<T>* rstd) {
  using A = Accumulator<T>;
  const int lane = threadIdx.x % 32;
  const int64_t n = row.n, r = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (r >= row.rows) return;
  const DropoutMask<A> mask(row.key, row.threshold, row.scale);
  A s[P][W], sum = 0, square = 0;
#pragma unroll
  for (int p = 0; p < P; ++p) {
    const int64_t j = (p * 32 + lane) * W;
    if (j < n) load_sum<W>(row, mask, r * n + j, s[p]);
#pragma unroll
    for (int k = 0; k < W; ++k) sum += j < n ? s[p][k] : A{0};
  }
  const A m = warp_sum(sum) / static_cast<A>(n);
#pragma unroll
  for (int p = 0; p < P; ++p)
#pragma unroll
    for (int k = 0; k < W; ++k) square += (p * 32 + lane) * W < n ? (s[p][k] - m) * (s[p][k] - m) : A{0};
  const A inverse = A{1} / sqrt(warp_sum(square) / static_cast<A>(n) + row.eps);
#pragma unroll
  for (int p = 0; p < P; ++p) {
    const int64_t j = (p * 32 + lane) * W;
    if (j >= n) continue;
    A g[W], b[W];
    load<W>(row.gain + j, g);
    load<W>(bias + j, b);
#pragma unroll
    for (int k = 0; k < W; ++k) s[p][k] = (s[p][k] - m) * inverse * g[k] + b[k];
    store<W>(y + r * n + j, s[p]);
  }
  if (lane == 0) mean[r] = m, rstd[r] = inverse;
}

// Each warp takes every (grid · kWarps)-th row and keeps its share of dgain and dbias in registers; the block's warps are
// added in their order, and the blocks by reduce_chunks: one fixed order.     partial [grid, 2, n]
template <class T, int W, int P>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(Row<T> row, const Accumulator<T>* mean, const Accumulator<T>* rstd, const Terms<T> dy, T* dx, T* dresidual,
                    Accumulator<T>* partial) {
  using A = Accumulator<T>;
  __shared__ A sums[2 * P * 32 * W];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t n = row.n;
  const DropoutMask<A> mask(row.key, row.threshold, row.scale);
  A gain_sum[P][W] = {}, bias_sum[P][W] = {};
  for (int64_t r = static_cast<int64_t>(blockIdx.x) * kWarps + warp; r < row.rows; r += static_cast<int64_t>(gridDim.x) * kWarps) {
    A s[P][W], g[P][W], sum = 0, dot = 0;
    uint32_t kept[P];
    const A m = mean[r], inverse = rstd[r];
#pragma unroll
    for (int p = 0; p < P; ++p) {
      const int64_t j = (p * 32 + lane) * W;
      if (j >= n) continue;
      A scale[W];
      load_terms<W>(dy, r * n + j, g[p]);
      kept[p] = load_sum<W>(row, mask, r * n + j, s[p]);
      load<W>(row.gain + j, scale);
#pragma unroll
      for (int k = 0; k < W; ++k) {
        s[p][k] = (s[p][k] - m) * inverse;
        gain_sum[p][k] += g[p][k] * s[p][k];
        bias_sum[p][k] += g[p][k];
        g[p][k] *= scale[k];
        sum += g[p][k];
        dot += g[p][k] * s[p][k];
      }
    }
    sum = warp_sum(sum) / static_cast<A>(n);
    dot = warp_sum(dot) / static_cast<A>(n);
#pragma unroll
    for (int p = 0; p < P; ++p) {
      const int64_t j = (p * 32 + lane) * W;
      if (j >= n) continue;
#pragma unroll
      for (int k = 0; k < W; ++k) g[p][k] = (g[p][k] - sum - s[p][k] * dot) * inverse;
      if (dresidual) store<W>(dresidual + r * n + j, g[p]);
      if (row.drop) mask.apply_bits(kept[p], g[p]);
      store<W>(dx + r * n + j, g[p]);
    }
  }
  for (int w = 0; w < kWarps; ++w) {
    if (warp == w) {
#pragma unroll
      for (int p = 0; p < P; ++p)
#pragma unroll
        for (int k = 0; k < W; ++k) {
          A *a = &sums[(p * 32 + lane) * W + k], *b = a + P * 32 * W;
          *a = w ? *a + gain_sum[p][k] : gain_sum[p][k];
          *b = w ? *b + bias_sum[p][k] : bias_sum[p][k];
        }
    }
    __syncthreads();
  }
  for (int64_t j = threadIdx.x; j < n; j += kThreads) {
    partial[blockIdx.x * 2 * n + j] = sums[j];
    partial[(blockIdx.x * 2 + 1) * n + j] = sums[P * 32 * W + j];
  }
}

// --- any row length: one block a row, elements one by one, read again for each pass -------------

template <class T>
__global__ void __launch_bounds__(kThreads)
    long_forward_kernel(Row<T> row, const Accumulator<T>* bias, T* y, Accumulator<T>* mean, Accumulator<T>* rstd) {
  using A = Accumulator<T>;
  __shared__ A shared[32];
  const int64_t n = row.n;
  const DropoutMask<A> mask(row.key, row.threshold, row.scale);
  for (int64_t r = blockIdx.x; r < row.rows; r += gridDim.x) {
    A s[1], sum = 0, square = 0;
    for (int64_t j = threadIdx.x; j < n; j += kThreads) {
      load_sum<1>(row, mask, r * n + j, s);
      sum += s[0];
    }
    const A m = block_sum(sum, shared) / static_cast<A>(n);
    for (int64_t j = threadIdx.x; j < n; j += kThreads) {
      load_sum<1>(row, mask, r * n + j, s);
      square += (s[0] - m) * (s[0] - m);
    }
    const A inverse = A{1} / sqrt(block_sum(square, shared) / static_cast<A>(n) + row.eps);
    for (int64_t j = threadIdx.x; j < n; j += kThreads) {
      load_sum<1>(row, mask, r * n + j, s);
      y[r * n + j] = static_cast<T>((s[0] - m) * inverse * row.gain[j] + bias[j]);
    }
    if (threadIdx.x == 0) mean[r] = m, rstd[r] = inverse;
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    long_backward_kernel(Row<T> row, const Accumulator<T>* mean, const Accumulator<T>* rstd, const Terms<T> dy, T* dx,
                         T* dresidual) {
  using A = Accumulator<T>;
  __shared__ A shared[32];
  const int64_t n = row.n;
  const DropoutMask<A> mask(row.key, row.threshold, row.scale);
  for (int64_t r = blockIdx.x; r < row.rows; r += gridDim.x) {
    const A m = mean[r], inverse = rstd[r];
    A s[1], d[1], sum = 0, dot = 0;
    for (int64_t j = threadIdx.x; j < n; j += kThreads) {
      load_sum<1>(row, mask, r * n + j, s);
      load_terms<1>(dy, r * n + j, d);
      const A g = d[0] * row.gain[j];
      sum += g, dot += g * (s[0] - m) * inverse;
    }
    sum = block_sum(sum, shared) / static_cast<A>(n);
    dot = block_sum(dot, shared) / static_cast<A>(n);
    for (int64_t j = threadIdx.x; j < n; j += kThreads) {
      load_sum<1>(row, mask, r * n + j, s);
      load_terms<1>(dy, r * n + j, d);
      s[0] = (d[0] * row.gain[j] - sum - (s[0] - m) * inverse * dot) * inverse;
      if (dresidual) dresidual[r * n + j] = static_cast<T>(s[0]);
      if (row.drop) mask.apply(r * n + j, s);
      dx[r * n + j] = static_cast<T>(s[0]);
    }
  }
}

// grid (columns / kThreads, chunks): a thread adds one column of its chunk of rows.
template <class T>
__global__ void __launch_bounds__(kThreads)
    long_columns_kernel(Row<T> row, const Accumulator<T>* mean, const Accumulator<T>* rstd, const Terms<T> dy,
                        Accumulator<T>* partial) {
  using A = Accumulator<T>;
  const int64_t n = row.n, j = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (j >= n) return;
  const int64_t per = (row.rows + gridDim.y - 1) / gridDim.y, first = blockIdx.y * per, last = min(row.rows, first + per);
  const DropoutMask<A> mask(row.key, row.threshold, row.scale);
  A s[1], d[1], gain_sum = 0, bias_sum = 0;
  for (int64_t r = first; r < last; ++r) {
    load_sum<1>(row, mask, r * n + j, s);
    load_terms<1>(dy, r * n + j, d);
    gain_sum += d[0] * (s[0] - mean[r]) * rstd[r];
    bias_sum += d[0];
  }
  partial[blockIdx.y * 2 * n + j] = gain_sum;
  partial[(blockIdx.y * 2 + 1) * n + j] = bias_sum;
}

// f(P) for the number of packs that hold a row of n elements, or g() where no warp can hold it.
template <class T, class F, class G>
void with_packs(int64_t n, bool aligned, F&& f, G&& g) {
  constexpr int W = kPackWidth<T>;
  const int64_t packs = (n + 32 * W - 1) / (32 * W);
  if (!aligned || n % W || packs * W > kMostPerLane) return g();
  if (packs <= 1) return f(std::integral_constant<int, 1>{});
  if (packs <= 2) return f(std::integral_constant<int, 2>{});
  if constexpr (4 * W <= kMostPerLane) {
    if (packs <= 4) return f(std::integral_constant<int, 4>{});
  }
  if constexpr (8 * W <= kMostPerLane) {
    if (packs <= 8) return f(std::integral_constant<int, 8>{});
  }
  g();
}

template <class A>
struct SplitInTwo {  // the columns of [2, n] to two vectors
  A *first, *second;
  int64_t n;
  __device__ void operator()(int64_t i, A value) const { (i < n ? first[i] : second[i - n]) = value; }
};

}  // namespace

template <class T>
void layer_norm(const LayerNormShape& s, const T* x, const T* residual, const Accumulator<T>* gain, const Accumulator<T>* bias,
                T* y, Accumulator<T>* mean, Accumulator<T>* rstd, Stream stream) {
  if (s.rows == 0) return;
  const Row<T> row = make_row(s, x, residual, gain);
  with_packs<T>(s.n, aligned16(x, residual, gain, bias, y),
                [&](auto packs) {
                  forward_kernel<T, kPackWidth<T>, decltype(packs)::value>
                      <<<(s.rows + kWarps - 1) / kWarps, kThreads, 0, stream>>>(row, bias, y, mean, rstd);
                },
                [&] { long_forward_kernel<<<grid_for(s.rows, 1), kThreads, 0, stream>>>(row, bias, y, mean, rstd); });
  CUDA_CHECK_LAUNCH("layer_norm", stream);
}

template <class T>
void layer_norm_gradient(const LayerNormShape& s, const T* x, const T* residual, const Accumulator<T>* gain,
                         const Accumulator<T>* mean, const Accumulator<T>* rstd, const Terms<T>& dy, T* dx, T* dresidual,
                         Accumulator<T>* partial, Accumulator<T>* dgain, Accumulator<T>* dbias, Stream stream) {
  const int chunks = layer_norm_chunks(s.rows);
  const Row<T> row = make_row(s, x, residual, gain);
  bool aligned = aligned16(x, residual, gain, dx, dresidual);
  for (int t = 0; t < dy.count; ++t) aligned = aligned && aligned16(dy.term[t]);
  with_packs<T>(s.n, aligned,
                [&](auto packs) {
                  backward_kernel<T, kPackWidth<T>, decltype(packs)::value>
                      <<<chunks, kThreads, 0, stream>>>(row, mean, rstd, dy, dx, dresidual, partial);
                },
                [&] {
                  long_backward_kernel<<<grid_for(s.rows, 1), kThreads, 0, stream>>>(row, mean, rstd, dy, dx, dresidual);
                  long_columns_kernel<<<dim3((s.n + kThreads - 1) / kThreads, chunks), kThreads, 0, stream>>>(row, mean, rstd, dy,
                                                                                                         partial);
                });
  CUDA_CHECK_LAUNCH("layer_norm/gradient", stream);
  reduce_chunks("layer_norm/sum", partial, 1, chunks, 2 * s.n, stream, SplitInTwo<Accumulator<T>>{dgain, dbias, s.n});
}

#define INSTANTIATE(T)                                                                                                       \
  template void layer_norm(const LayerNormShape&, const T*, const T*, const Accumulator<T>*, const Accumulator<T>*, T*,      \
                           Accumulator<T>*, Accumulator<T>*, Stream);                                                        \
  template void layer_norm_gradient(const LayerNormShape&, const T*, const T*, const Accumulator<T>*, const Accumulator<T>*, \
                                    const Accumulator<T>*, const Terms<T>&, T*, T*, Accumulator<T>*, Accumulator<T>*,        \
                                    Accumulator<T>*, Stream);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

}  // namespace glia::cuda
