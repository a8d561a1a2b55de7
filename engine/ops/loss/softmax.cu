#include <limits>

#include "engine/core/math.h"
#include "engine/ops/loss/softmax_kernels.h"
#include "engine/ops/rows/packs.cuh"

namespace glia::cuda {
namespace {

// A row is the work of one warp where its packs fit the lanes' registers, of one block of 256 threads where they do
// not.
constexpr int kMostPacks = 8;  // of a row, that one lane works on

// What a thread of a team sees of a row: P packs of W elements, all asked for before the first is used, or, with P
// = 0, any number, read again each time: they lie in the cache by then.
template <int kTeam, int W, int P, class T> class Part {
 public:
  using A = Accumulator<T>;
  __device__ Part(const T* row, int64_t n) : row_(row), n_(n) {
#pragma unroll
    for (int p = 0; p < P; ++p)
      if (column(p) < n) packs_[p] = *reinterpret_cast<const Pack<T, W>*>(row + column(p));
  }
  // f(j, values of the columns j … j + W − 1).
  template <class F> __device__ __forceinline__ void each(F&& f) const {
    A v[W];
    if constexpr (P > 0) {
#pragma unroll
      for (int p = 0; p < P; ++p)
        if (column(p) < n_) load<W>(packs_[p].v, v), f(column(p), v);
    } else {
      for (int64_t j = column(0); j < n_; j += kTeam * W) load<W>(row_ + j, v), f(j, v);
    }
  }

 private:
  __device__ static int64_t column(int p) { return (p * kTeam + static_cast<int>(threadIdx.x) % kTeam) * W; }
  const T* row_;
  int64_t n_;
  Pack<T, W> packs_[P ? P : 1];
};

template <int kTeam, class A> __device__ __forceinline__ A team_sum(A x, A* shared) {
  if constexpr (kTeam == 32) return warp_sum(x);
  else return block_sum(x, shared);
}

template <int kTeam, class A> __device__ __forceinline__ A team_max(A x, A* shared) {
  x = warp_max(x);
  if constexpr (kTeam > 32) {
    __syncthreads();
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
    __syncthreads();
    x = shared[0];
#pragma unroll
    for (int w = 1; w < kTeam / 32; ++w) x = shared[w] > x ? shared[w] : x;
  }
  return x;
}

template <int kTeam, int W, int P, class T>
__device__ __forceinline__ Accumulator<T> row_max(const Part<kTeam, W, P, T>& x, Accumulator<T>* shared) {
  using A = Accumulator<T>;
  A m = -std::numeric_limits<A>::infinity();
  x.each([&](int64_t, const A(&v)[W]) {
#pragma unroll
    for (int k = 0; k < W; ++k) m = v[k] > m ? v[k] : m;
  });
  return team_max<kTeam>(m, shared);
}

template <int kTeam, int W, int P, class T>
__device__ __forceinline__ Accumulator<T> row_exp_sum(const Part<kTeam, W, P, T>& x, Accumulator<T> m,
                                                      Accumulator<T>* shared) {
  using A = Accumulator<T>;
  A sum = 0;
  x.each([&](int64_t, const A(&v)[W]) {
#pragma unroll
    for (int k = 0; k < W; ++k) sum += math::exp_negative(v[k] - m);
  });
  return team_sum<kTeam>(sum, shared);
}

// Each kernel's row functor: run<kTeam, W, P>(row, shared) by all threads of the team.
template <class T> struct Softmax {
  using A = Accumulator<T>;
  static constexpr int kPacks = kMostPacks;
  const T* x;
  T* y;
  int64_t n;
  template <int kTeam, int W, int P> __device__ void run(int64_t r, A* shared) const {
    const Part<kTeam, W, P, T> from(x + r * n, n);
    const A m = row_max(from, shared), inverse = A{1} / row_exp_sum(from, m, shared);
    from.each([&](int64_t j, A(&v)[W]) {
#pragma unroll
      for (int k = 0; k < W; ++k) v[k] = math::exp_negative(v[k] - m) * inverse;
      store<W>(y + r * n + j, v);
    });
  }
};

template <class T>
struct SoftmaxGradient {  // reads its two inputs again; a block has them in its cache for longer rows than a warp
  using A = Accumulator<T>;
  static constexpr int kPacks = kMostPacks / 2;
  const T *y, *dy;
  T* dx;
  int64_t n;
  template <int kTeam, int W, int P> __device__ void run(int64_t r, A* shared) const {
    A dot = 0;
    for (int64_t j = threadIdx.x % kTeam * W; j < n; j += kTeam * W) {
      A p[W], d[W];
      load<W>(y + r * n + j, p);
      load<W>(dy + r * n + j, d);
#pragma unroll
      for (int k = 0; k < W; ++k) dot += p[k] * d[k];
    }
    dot = team_sum<kTeam>(dot, shared);
    for (int64_t j = threadIdx.x % kTeam * W; j < n; j += kTeam * W) {
      A p[W], d[W];
      load<W>(y + r * n + j, p);
      load<W>(dy + r * n + j, d);
#pragma unroll
      for (int k = 0; k < W; ++k) d[k] = p[k] * (d[k] - dot);
      store<W>(dx + r * n + j, d);
    }
  }
};

// y = x − lse; or, where y is nullptr, lse alone (to `lse` and, rounded, to `out`), and with labels the row's loss.
template <class T> struct LogSumExp {
  using A = Accumulator<T>;
  static constexpr int kPacks = kMostPacks;
  const T* x;
  T *y, *out;
  A* lse;
  const int32_t* labels;
  A* losses;
  int64_t n;
  template <int kTeam, int W, int P> __device__ void run(int64_t r, A* shared) const {
    const Part<kTeam, W, P, T> from(x + r * n, n);
    const A m = row_max(from, shared);
    A s = m;
    if (m > -std::numeric_limits<A>::infinity()) s = m + math::log(row_exp_sum(from, m, shared));
    if (y) {
      from.each([&](int64_t j, A(&v)[W]) {
#pragma unroll
        for (int k = 0; k < W; ++k) v[k] -= s;
        store<W>(y + r * n + j, v);
      });
    }
    if (threadIdx.x % kTeam) return;
    if (lse) lse[r] = s;
    if (out) out[r] = static_cast<T>(s);
    if (labels) {
      const int32_t c = labels[r];
      losses[r] = c == -1           ? A{0}
                  : c >= 0 && c < n ? s - static_cast<A>(x[r * n + c])
                                    : std::numeric_limits<A>::quiet_NaN();
    }
  }
};

template <class T> struct LogSoftmaxGradient {
  using A = Accumulator<T>;
  static constexpr int kPacks = kMostPacks;
  const T *y, *dy;
  T* dx;
  int64_t n;
  template <int kTeam, int W, int P> __device__ void run(int64_t r, A* shared) const {
    A sum = 0;
    const Part<kTeam, W, P, T> from(dy + r * n, n);
    from.each([&](int64_t, const A(&d)[W]) {
#pragma unroll
      for (int k = 0; k < W; ++k) sum += d[k];
    });
    sum = team_sum<kTeam>(sum, shared);
    from.each([&](int64_t j, A(&d)[W]) {
      A p[W];
      load<W>(y + r * n + j, p);
#pragma unroll
      for (int k = 0; k < W; ++k) d[k] -= math::exp_negative(p[k]) * sum;
      store<W>(dx + r * n + j, d);
    });
  }
};

template <class T, class D> struct LogSumExpGradient {
  using A = Accumulator<T>;
  static constexpr int kPacks = kMostPacks;
  const T* x;
  const A* lse;
  const D* dy;
  const int32_t* labels;
  const A* scale;
  T* dx;
  int64_t n;
  template <int kTeam, int W, int P> __device__ void run(int64_t r, A*) const {
    const int32_t label = labels ? labels[r] : -1;
    const A s = lse[r], d = !labels ? static_cast<A>(dy[r]) : label == -1 ? A{0} : static_cast<A>(*dy) * *scale;
    const Part<kTeam, W, P, T> from(x + r * n, n);
    from.each([&](int64_t j, A(&v)[W]) {
#pragma unroll
      for (int k = 0; k < W; ++k) v[k] = (math::exp(v[k] - s) - (j + k == label ? A{1} : A{0})) * d;
      store<W>(dx + r * n + j, v);
    });
  }
};

template <int kTeam, int W, int P, class F>
__global__ void __launch_bounds__(kThreads) for_each_row_kernel(int64_t rows, F f) {
  __shared__ typename F::A shared[32];
  constexpr int kTeams = kThreads / kTeam;
  for (int64_t r = static_cast<int64_t>(blockIdx.x) * kTeams + threadIdx.x / kTeam; r < rows;
       r += static_cast<int64_t>(gridDim.x) * kTeams)
    f.template run<kTeam, W, P>(r, shared);
}

template <class T, class F, class... P>
void for_each_row(const char* name, int64_t rows, int64_t n, Stream stream, F f, const P*... pointers) {
  if (rows == 0) return;
  with_pack_width<T>(
      n,
      [&](auto width) {
        constexpr int W = decltype(width)::value;
        const int64_t packs = (n + 32 * W - 1) / (32 * W);
        const int warps = grid_for(rows, kThreads / 32);
        if (packs <= 1) launch(name, for_each_row_kernel<32, W, 1, F>, {warps, kThreads}, stream, rows, f);
        else if (packs <= 2) launch(name, for_each_row_kernel<32, W, 2, F>, {warps, kThreads}, stream, rows, f);
        else if (packs <= F::kPacks)
          launch(name, for_each_row_kernel<32, W, F::kPacks, F>, {warps, kThreads}, stream, rows, f);
        else launch(name, for_each_row_kernel<kThreads, W, 0, F>, {grid_for(rows, 1), kThreads}, stream, rows, f);
      },
      pointers...);
}

// One block: the mean of those of n values that have a label, thread t adding every 1024th, and 1 / their number.
constexpr int kMeanThreads = 1024;
template <class A>
__global__ void __launch_bounds__(kMeanThreads)
    mean_kernel(const A* x, const int32_t* labels, A* y, A* scale, int64_t n) {
  __shared__ A shared[32];
  A sum = 0, count = 0;
#pragma unroll 8
  for (int64_t i = threadIdx.x; i < n; i += kMeanThreads) {
    sum += x[i];
    count += labels[i] == -1 ? A{0} : A{1};
  }
  sum = block_sum(sum, shared);
  count = block_sum(count, shared);
  if (threadIdx.x > 0) return;
  *y = count > A{0} ? sum / count : A{0};
  *scale = count > A{0} ? A{1} / count : A{0};
}

}  // namespace

template <class T> void softmax(const T* x, T* y, int64_t rows, int64_t n, Stream stream) {
  for_each_row<T>("softmax", rows, n, stream, Softmax<T>{x, y, n}, x, y);
}

template <class T> void softmax_gradient(const T* y, const T* dy, T* dx, int64_t rows, int64_t n, Stream stream) {
  for_each_row<T>("softmax/gradient", rows, n, stream, SoftmaxGradient<T>{y, dy, dx, n}, y, dy, dx);
}

template <class T> void log_softmax(const T* x, T* y, int64_t rows, int64_t n, Stream stream) {
  for_each_row<T>("log_softmax", rows, n, stream, LogSumExp<T>{x, y, nullptr, nullptr, nullptr, nullptr, n}, x, y);
}

template <class T>
void log_softmax_gradient(const T* y, const T* dy, T* dx, int64_t rows, int64_t n, Stream stream) {
  for_each_row<T>("log_softmax/gradient", rows, n, stream, LogSoftmaxGradient<T>{y, dy, dx, n}, y, dy, dx);
}

template <class T> void logsumexp(const T* x, T* y, Accumulator<T>* lse, int64_t rows, int64_t n, Stream stream) {
  for_each_row<T>("logsumexp", rows, n, stream, LogSumExp<T>{x, nullptr, y, lse, nullptr, nullptr, n}, x);
}

template <class T, class D>
void logsumexp_gradient(const T* x, const Accumulator<T>* lse, const D* dy, const int32_t* labels,
                        const Accumulator<T>* scale, T* dx, int64_t rows, int64_t n, Stream stream) {
  for_each_row<T>("logsumexp/gradient", rows, n, stream, LogSumExpGradient<T, D>{x, lse, dy, labels, scale, dx, n},
                  x, dx);
}

template <class T>
void cross_entropy(const T* x, const int32_t* labels, Accumulator<T>* lse, Accumulator<T>* losses,
                   Accumulator<T>* loss, Accumulator<T>* scale, int64_t rows, int64_t n, Stream stream) {
  for_each_row<T>("cross_entropy", rows, n, stream, LogSumExp<T>{x, nullptr, nullptr, lse, labels, losses, n}, x);
  launch("cross_entropy/mean", mean_kernel<Accumulator<T>>, {1, kMeanThreads}, stream, losses, labels, loss, scale,
         rows);
}

#define INSTANTIATE(T)                                                                                     \
  template void softmax(const T*, T*, int64_t, int64_t, Stream);                                           \
  template void softmax_gradient(const T*, const T*, T*, int64_t, int64_t, Stream);                        \
  template void log_softmax(const T*, T*, int64_t, int64_t, Stream);                                       \
  template void log_softmax_gradient(const T*, const T*, T*, int64_t, int64_t, Stream);                    \
  template void logsumexp(const T*, T*, Accumulator<T>*, int64_t, int64_t, Stream);                        \
  template void logsumexp_gradient(const T*, const Accumulator<T>*, const T*, const int32_t*,              \
                                   const Accumulator<T>*, T*, int64_t, int64_t, Stream);                   \
  template void cross_entropy(const T*, const int32_t*, Accumulator<T>*, Accumulator<T>*, Accumulator<T>*, \
                              Accumulator<T>*, int64_t, int64_t, Stream);
GLIA_FOR_FLOATING(INSTANTIATE)
#undef INSTANTIATE
template void logsumexp_gradient(const bfloat16*, const float*, const float*, const int32_t*, const float*,
                                 bfloat16*, int64_t, int64_t, Stream);

}  // namespace glia::cuda
