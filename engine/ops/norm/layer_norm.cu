#include "engine/device/cuda/limits.cuh"
#include "engine/ops/elementwise/dropout_mask.cuh"
#include "engine/ops/norm/layer_norm_kernels.h"

namespace glia::cuda {
namespace {

template <class T> struct Row {  // what both directions read
  using A = Accumulator<T>;
  LayerNormInputs<T> in;
  RandomKey key, output_key;
  uint32_t threshold, output_threshold;
  A scale, output_scale, eps;
  int64_t rows, n;
  bool drop, drop_output;

  Row(const LayerNormShape& s, const LayerNormInputs<T>& in)
      : in(in),
        key(s.key),
        output_key(s.output_key),
        threshold(bernoulli_threshold(s.p)),
        output_threshold(bernoulli_threshold(s.output_p)),
        scale(static_cast<A>(1 / (1 - s.p))),
        output_scale(static_cast<A>(1 / (1 - s.output_p))),
        eps(static_cast<A>(s.eps)),
        rows(s.rows),
        n(s.n),
        drop(s.p > 0),
        drop_output(s.output_p > 0) {}
  __device__ DropoutMask<A> mask() const { return {key, threshold, scale}; }
  __device__ DropoutMask<A> output_mask() const { return {output_key, output_threshold, output_scale}; }
};

template <int W, class A, class T> __device__ __forceinline__ void add_to(A (&v)[W], const T (&w)[W]) {
#pragma unroll
  for (int k = 0; k < W; ++k) v[k] += static_cast<A>(w[k]);
}

template <int W, class T, class A>
__device__ __forceinline__ void add_input_bias(const Row<T>& row, int64_t j, A (&v)[W]) {
  if (!row.in.input_bias) return;
  A b[W];
  load<W>(row.in.input_bias + j, b);
  add_to(v, b);
}

// --- rows that G warps hold in registers: kPacks packs of 16 bytes a thread -----------------------

constexpr int kPacks = 2, kMostWarps = 16;

template <class T, int G> struct Team {  // the threads that share a row, and how many elements they can hold
  static constexpr int W = kPackWidth<T>, kLanes = 32 * G, kStep = kLanes * W, kColumns = kStep * kPacks;
  const int lane = threadIdx.x % kLanes, id = threadIdx.x / kLanes;
  __device__ int column(int pack) const { return pack * kStep + lane * W; }

  // Bit p·W + k: element `first` + column(p) + k is kept. A loop: unrolled, the drawing is most of the kernel's
  // code.
  template <class A> __device__ __forceinline__ uint32_t keep(const DropoutMask<A>& mask, int64_t first) const {
    constexpr int kDrawn = W < 4 ? W : 4;  // at a time
    uint32_t bits = 0;
#pragma unroll 2
    for (int e = 0; e < kPacks * W; e += kDrawn)
      bits |= mask.template keep<kDrawn>(first + column(e / W) + e % W) << e;
    return bits;
  }

  // Sums over the team, the same bits in all of its threads; where a team has several warps, all of the block call
  // together. The next call must be given another `shared` [kMostWarps][N].
  template <int N, class A> __device__ __forceinline__ void sum(A (&v)[N], A (*shared)[N]) const {
#pragma unroll
    for (int k = 0; k < N; ++k) v[k] = warp_sum(v[k]);
    if constexpr (G > 1) {
      if (lane % 32 == 0) {
#pragma unroll
        for (int k = 0; k < N; ++k) shared[threadIdx.x / 32][k] = v[k];
      }
      __syncthreads();
#pragma unroll
      for (int k = 0; k < N; ++k) v[k] = 0;
#pragma unroll
      for (int w = 0; w < G; ++w) add_to(v, shared[id * G + w]);
    }
  }
};

// Without extras (input bias, output dropout) their code is left out: registers decide how many waves 10,000 rows
// take.
template <class T, int G, bool kExtras>
__global__ void __launch_bounds__(G > 8 ? 32 * G : kThreads)
    forward_kernel(const Row<T> row, const Accumulator<T>* bias, T* y, Accumulator<T>* mean, Accumulator<T>* rstd) {
  using A = Accumulator<T>;
  constexpr int W = kPackWidth<T>;
  __shared__ A shared[2][kMostWarps][1];
  const Team<T, G> team;
  const int n = static_cast<int>(row.n);
  const int64_t own = static_cast<int64_t>(blockIdx.x) * (blockDim.x / team.kLanes) + team.id;
  if (G == 1 && own >= row.rows) return;
  const int64_t r = min(own, row.rows - 1),
                first = r * n;  // a team without a row stays for the barriers and writes nothing
  const DropoutMask<A> mask = row.mask();
  A s[kPacks][W], sum[1] = {0}, square[1] = {0};
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const int j = team.column(p);
    if (j < n) {
      load<W>(row.in.x + first + j, s[p]);
      if constexpr (kExtras) add_input_bias(row, j, s[p]);
      if (row.drop) mask.template apply<W>(first + j, s[p]);
      if (row.in.residual) {
        A skip[W];
        load<W>(row.in.residual + first + j, skip);
        add_to(s[p], skip);
      }
    }
#pragma unroll
    for (int k = 0; k < W; ++k) sum[0] += j < n ? s[p][k] : A{0};
  }
  team.sum(sum, shared[0]);
  const A m = sum[0] / static_cast<A>(n);
#pragma unroll
  for (int p = 0; p < kPacks; ++p)
#pragma unroll
    for (int k = 0; k < W; ++k) square[0] += team.column(p) < n ? (s[p][k] - m) * (s[p][k] - m) : A{0};
  team.sum(square, shared[1]);
  if (G > 1 && own >= row.rows) return;
  const A inverse = A{1} / sqrt(square[0] / static_cast<A>(n) + row.eps);
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const int j = team.column(p);
    if (j >= n) continue;
    A g[W], b[W];
    load<W>(row.in.gain + j, g);
    load<W>(bias + j, b);
#pragma unroll
    for (int k = 0; k < W; ++k) s[p][k] = (s[p][k] - m) * inverse * g[k] + b[k];
    if constexpr (kExtras)
      if (row.drop_output) row.output_mask().template apply<W>(first + j, s[p]);
    store<W>(y + first + j, s[p]);
  }
  if (team.lane == 0) mean[r] = m, rstd[r] = inverse;
}

template <class T> struct Backward {
  Row<T> row;
  const Accumulator<T>*mean, *rstd;
  Terms<T> dy;
  T *dx, *dresidual;
  bool sum_dx;
  Accumulator<T>* partial;

  __host__ __device__ int sources() const { return dy.count + 1 + (row.in.residual ? 1 : 0); }
  __host__ __device__ int sums() const { return sum_dx ? 3 : 2; }
};

// A team takes every (grid · teams)-th row. Each thread copies its own pieces of the next row to shared memory
// while it works on this one (it reads only what it copied, so nobody waits for anybody), and keeps its columns'
// share of the parameters' gradients in registers; the block's teams are added in their order, and the blocks by
// reduce_chunks: one fixed order. Shared: [2, sources, kPacks, threads] of 16 bytes, then [sums, teams, kColumns].
// partial [grid, sums, n]
template <class T, int G>
__global__ void __launch_bounds__(32 * kMostWarps, 1) backward_kernel(const Backward<T> a) {
  using A = Accumulator<T>;
  constexpr int W = kPackWidth<T>;
  extern __shared__ uint4 ring[];
  __shared__ A shared[2][kMostWarps][2];
  const Team<T, G> team;
  const int teams = blockDim.x / team.kLanes, sources = a.sources(), piece = kPacks * blockDim.x;
  const int n = static_cast<int>(a.row.n);
  const int64_t rows = a.row.rows, step = static_cast<int64_t>(gridDim.x) * teams;
  const auto fetch = [&](int64_t r, int slot) {
    if (r < rows)
#pragma unroll
      for (int p = 0; p < kPacks; ++p) {
        const int64_t i = r * n + team.column(p);
        if (team.column(p) >= n) continue;
        uint4* to = ring + slot * sources * piece + p * blockDim.x + threadIdx.x;
        copy_async(to, reinterpret_cast<const uint4*>(a.row.in.x + i));
        if (a.row.in.residual) copy_async(to += piece, reinterpret_cast<const uint4*>(a.row.in.residual + i));
#pragma unroll
        for (int t = 0; t < kMostTerms; ++t)
          if (t < a.dy.count) copy_async(to += piece, reinterpret_cast<const uint4*>(a.dy.term[t] + i));
      }
    commit_copies();
  };
  const DropoutMask<A> mask = a.row.mask(), output_mask = a.row.output_mask();
  A gain_sum[kPacks][W] = {}, bias_sum[kPacks][W] = {}, input_sum[kPacks][W] = {};
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * teams + team.id;
  A next_mean = 0, next_rstd = 0;
  int slot = 0;
  // The first turn only asks for its next row. Teams of several warps take as many turns as the block's first:
  // barriers.
  for (int64_t r = begin - step; r - (G > 1 ? team.id : 0) < rows; r += step, slot ^= 1) {
    const int64_t next = r + step;
    const A m = next_mean, inverse = next_rstd;
    fetch(next, slot ^ 1);
    if (next < rows) next_mean = a.mean[next], next_rstd = a.rstd[next];
    if (r < begin) continue;
    const bool real = G == 1 || r < rows;
    const int64_t first = r * n;
    const uint32_t bits = a.row.drop ? team.keep(mask, first) : 0;
    const uint32_t output_bits = a.row.drop_output ? team.keep(output_mask, first) : 0;
    wait_for_copies<1>();
    A s[kPacks][W], g[kPacks][W], sums[2] = {0, 0};
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const int j = team.column(p);
      if (j >= n || !real) continue;
      A v[W];
      const uint4* from = ring + slot * sources * piece + p * blockDim.x + threadIdx.x;
      load<W>(reinterpret_cast<const T*>(from), s[p]);
      add_input_bias(a.row, j, s[p]);
      if (a.row.drop) mask.apply_bits(bits >> p * W, s[p]);
      if (a.row.in.residual) load<W>(reinterpret_cast<const T*>(from += piece), v), add_to(s[p], v);
      load<W>(reinterpret_cast<const T*>(from += piece), g[p]);
#pragma unroll
      for (int t = 1; t < kMostTerms; ++t)
        if (t < a.dy.count) load<W>(reinterpret_cast<const T*>(from += piece), v), add_to(g[p], v);
      if (a.row.drop_output) output_mask.apply_bits(output_bits >> p * W, g[p]);
      load<W>(a.row.in.gain + j, v);
#pragma unroll
      for (int k = 0; k < W; ++k) {
        s[p][k] = (s[p][k] - m) * inverse;
        gain_sum[p][k] += g[p][k] * s[p][k];
        bias_sum[p][k] += g[p][k];
        g[p][k] *= v[k];
        sums[0] += g[p][k];
        sums[1] += g[p][k] * s[p][k];
      }
    }
    team.sum(sums, shared[slot]);
    const A shift = -sums[0] / static_cast<A>(n) * inverse, slope = -sums[1] / static_cast<A>(n) * inverse;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const int j = team.column(p);
      if (j >= n || !real) continue;
#pragma unroll
      for (int k = 0; k < W; ++k) g[p][k] = g[p][k] * inverse + (s[p][k] * slope + shift);
      if (a.dresidual) store<W>(a.dresidual + first + j, g[p]);
      if (a.row.drop) mask.apply_bits(bits >> p * W, g[p]);
      if (a.sum_dx) add_to(input_sum[p], g[p]);
      store<W>(a.dx + first + j, g[p]);
    }
  }
  wait_for_copies<0>();
  __syncthreads();  // the ring becomes [sums, teams, kColumns]
  A* block = reinterpret_cast<A*>(ring);
  const auto keep = [&](int sum, const A(&v)[kPacks][W]) {
#pragma unroll
    for (int p = 0; p < kPacks; ++p)
      *reinterpret_cast<Pack<A, W>*>(block + (sum * teams + team.id) * team.kColumns + team.column(p)) =
          reinterpret_cast<const Pack<A, W>&>(v[p]);
  };
  keep(0, gain_sum), keep(1, bias_sum);
  if (a.sum_dx) keep(2, input_sum);
  __syncthreads();
  for (int sum = 0; sum < a.sums(); ++sum)
    for (int j = threadIdx.x; j < n; j += blockDim.x) {
      A total = 0;
      for (int t = 0; t < teams; ++t) total += block[(sum * teams + t) * team.kColumns + j];
      a.partial[(blockIdx.x * a.sums() + sum) * n + j] = total;
    }
}

// --- any row length: one block a row, elements one by one, read again for each pass -------------

template <class T>
__device__ __forceinline__ Accumulator<T> sum_at(const Row<T>& row, const DropoutMask<Accumulator<T>>& mask,
                                                 int64_t i, int64_t j) {
  using A = Accumulator<T>;
  A s[1] = {static_cast<A>(row.in.x[i])};
  add_input_bias(row, j, s);
  if (row.drop) mask.apply(i, s);
  return row.in.residual ? s[0] + static_cast<A>(row.in.residual[i]) : s[0];
}

template <class T>
__device__ __forceinline__ Accumulator<T> gradient_at(const Backward<T>& a,
                                                      const DropoutMask<Accumulator<T>>& output_mask, int64_t i) {
  using A = Accumulator<T>;
  A d[1] = {0};
  for (int t = 0; t < a.dy.count; ++t) d[0] += static_cast<A>(a.dy.term[t][i]);
  if (a.row.drop_output) output_mask.apply(i, d);
  return d[0];
}

template <class T>
__global__ void __launch_bounds__(kThreads) long_forward_kernel(const Row<T> row, const Accumulator<T>* bias, T* y,
                                                                Accumulator<T>* mean, Accumulator<T>* rstd) {
  using A = Accumulator<T>;
  __shared__ A shared[32];
  const int64_t n = row.n;
  const DropoutMask<A> mask = row.mask(), output_mask = row.output_mask();
  for (int64_t r = blockIdx.x; r < row.rows; r += gridDim.x) {
    A sum = 0, square = 0, v[1];
    for (int64_t j = threadIdx.x; j < n; j += kThreads) sum += sum_at(row, mask, r * n + j, j);
    const A m = block_sum(sum, shared) / static_cast<A>(n);
    for (int64_t j = threadIdx.x; j < n; j += kThreads) {
      const A s = sum_at(row, mask, r * n + j, j) - m;
      square += s * s;
    }
    const A inverse = A{1} / sqrt(block_sum(square, shared) / static_cast<A>(n) + row.eps);
    for (int64_t j = threadIdx.x; j < n; j += kThreads) {
      v[0] = (sum_at(row, mask, r * n + j, j) - m) * inverse * row.in.gain[j] + bias[j];
      if (row.drop_output) output_mask.apply(r * n + j, v);
      y[r * n + j] = static_cast<T>(v[0]);
    }
    if (threadIdx.x == 0) mean[r] = m, rstd[r] = inverse;
  }
}

template <class T> __global__ void __launch_bounds__(kThreads) long_backward_kernel(const Backward<T> a) {
  using A = Accumulator<T>;
  __shared__ A shared[32];
  const int64_t n = a.row.n;
  const DropoutMask<A> mask = a.row.mask(), output_mask = a.row.output_mask();
  for (int64_t r = blockIdx.x; r < a.row.rows; r += gridDim.x) {
    const A m = a.mean[r], inverse = a.rstd[r];
    A sum = 0, dot = 0, v[1];
    for (int64_t j = threadIdx.x; j < n; j += kThreads) {
      const A g = gradient_at(a, output_mask, r * n + j) * a.row.in.gain[j];
      sum += g, dot += g * (sum_at(a.row, mask, r * n + j, j) - m) * inverse;
    }
    sum = block_sum(sum, shared) / static_cast<A>(n);
    dot = block_sum(dot, shared) / static_cast<A>(n);
    for (int64_t j = threadIdx.x; j < n; j += kThreads) {
      const A s = (sum_at(a.row, mask, r * n + j, j) - m) * inverse;
      v[0] = (gradient_at(a, output_mask, r * n + j) * a.row.in.gain[j] - sum - s * dot) * inverse;
      if (a.dresidual) a.dresidual[r * n + j] = static_cast<T>(v[0]);
      if (a.row.drop) mask.apply(r * n + j, v);
      a.dx[r * n + j] = static_cast<T>(v[0]);
    }
  }
}

// grid (columns / kThreads, chunks), after long_backward_kernel: a thread adds one column of its chunk of rows.
template <class T> __global__ void __launch_bounds__(kThreads) long_columns_kernel(const Backward<T> a) {
  using A = Accumulator<T>;
  const int64_t n = a.row.n, j = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (j >= n) return;
  const int64_t per = (a.row.rows + gridDim.y - 1) / gridDim.y, first = blockIdx.y * per,
                last = min(a.row.rows, first + per);
  const DropoutMask<A> mask = a.row.mask(), output_mask = a.row.output_mask();
  A sum[3] = {0, 0, 0};
  for (int64_t r = first; r < last; ++r) {
    const A d = gradient_at(a, output_mask, r * n + j);
    sum[0] += d * (sum_at(a.row, mask, r * n + j, j) - a.mean[r]) * a.rstd[r];
    sum[1] += d;
    if (a.sum_dx) sum[2] += static_cast<A>(a.dx[r * n + j]);
  }
  for (int k = 0; k < a.sums(); ++k) a.partial[(blockIdx.y * a.sums() + k) * n + j] = sum[k];
}

// f(G) for the number of warps that hold a row of n elements, or g() where a block's cannot.
template <class T, class F, class G> void with_warps(int64_t n, bool aligned, F&& f, G&& g) {
  const auto holds = [&](auto warps) { return n <= Team<T, decltype(warps)::value>::kColumns; };
  constexpr std::integral_constant<int, 1> one;
  constexpr std::integral_constant<int, 2> two;
  constexpr std::integral_constant<int, 4> four;
  constexpr std::integral_constant<int, 8> eight;
  constexpr std::integral_constant<int, kMostWarps> sixteen;
  if (!aligned || n % kPackWidth<T>) g();
  else if (holds(one)) f(one);
  else if (holds(two)) f(two);
  else if (holds(four)) f(four);
  else if (holds(eight)) f(eight);
  else if (holds(sixteen)) f(sixteen);
  else g();
}

template <class A> struct Split {  // the columns of [2 or 3, n] to as many vectors
  LayerNormGradients<A> out;
  int64_t n;
  __device__ void operator()(int64_t i, A value) const {
    (i < n ? out.dgain[i] : i < 2 * n ? out.dbias[i - n] : out.dinput_bias[i - 2 * n]) = value;
  }
};

}  // namespace

template <class T>
void layer_norm(const LayerNormShape& s, const LayerNormInputs<T>& in, const Accumulator<T>* bias, T* y,
                Accumulator<T>* mean, Accumulator<T>* rstd, Stream stream) {
  if (s.rows == 0) return;
  const Row<T> row(s, in);
  with_warps<T>(
      s.n, aligned16(in.x, in.residual, in.input_bias, in.gain, bias, y),
      [&](auto warps) {
        constexpr int G = decltype(warps)::value, kBlock = G > 8 ? 32 * G : kThreads, kRows = kBlock / (32 * G);
        const bool extras = in.input_bias || row.drop_output;
        const auto kernel = extras ? forward_kernel<T, G, true> : forward_kernel<T, G, false>;
        launch("layer_norm", kernel, {(s.rows + kRows - 1) / kRows, kBlock}, stream, row, bias, y, mean, rstd);
      },
      [&] {
        launch("layer_norm", long_forward_kernel<T>, {grid_for(s.rows, 1), kThreads}, stream, row, bias, y, mean,
               rstd);
      });
}

template <class T>
void layer_norm_gradient(const LayerNormShape& s, const LayerNormInputs<T>& in, const Accumulator<T>* mean,
                         const Accumulator<T>* rstd, const Terms<T>& dy, const LayerNormGradients<T>& out,
                         Accumulator<T>* partial, Stream stream) {
  using A = Accumulator<T>;
  const int chunks = layer_norm_chunks(s.rows);
  const Backward<T> a{Row<T>(s, in), mean, rstd, dy, out.dx, out.dresidual, out.dinput_bias != nullptr, partial};
  bool aligned = aligned16(in.x, in.residual, in.input_bias, in.gain, out.dx, out.dresidual);
  for (int t = 0; t < dy.count; ++t) aligned = aligned && aligned16(dy.term[t]);
  with_warps<T>(
      s.n, aligned,
      [&](auto warps) {
        constexpr int G = decltype(warps)::value;
        const auto bytes = [&](int threads) {
          return threads * kPacks * std::max<int>(2 * a.sources() * 16, a.sums() * sizeof(A) * kPackWidth<T>);
        };
        const int limit = shared_limit();
        int threads = 32 * kMostWarps;
        while (bytes(threads) > limit && threads > 32 * G) threads /= 2;
        // Always the same limit, whatever this launch takes: other threads launch the kernel with other sizes.
        CUDA_CHECK(cudaFuncSetAttribute(backward_kernel<T, G>, cudaFuncAttributeMaxDynamicSharedMemorySize, limit));
        launch("layer_norm/gradient", backward_kernel<T, G>, {chunks, threads, static_cast<size_t>(bytes(threads))},
               stream, a);
      },
      [&] {
        launch("layer_norm/gradient", long_backward_kernel<T>, {grid_for(s.rows, 1), kThreads}, stream, a);
        launch("layer_norm/columns", long_columns_kernel<T>,
               {dim3((s.n + kThreads - 1) / kThreads, chunks), kThreads}, stream, a);
      });
  reduce_chunks("layer_norm/sum", partial, 1, chunks, a.sums() * s.n, stream,
                Split<A>{{nullptr, nullptr, out.dgain, out.dbias, out.dinput_bias}, s.n});
}

#define INSTANTIATE(T)                                                                                       \
  template void layer_norm(const LayerNormShape&, const LayerNormInputs<T>&, const Accumulator<T>*, T*,      \
                           Accumulator<T>*, Accumulator<T>*, Stream);                                        \
  template void layer_norm_gradient(const LayerNormShape&, const LayerNormInputs<T>&, const Accumulator<T>*, \
                                    const Accumulator<T>*, const Terms<T>&, const LayerNormGradients<T>&,    \
                                    Accumulator<T>*, Stream);
GLIA_FOR_FLOATING(INSTANTIATE)
#undef INSTANTIATE

}  // namespace glia::cuda
