#include "engine/ops/elementwise/elementwise_functors.h"
#include "engine/ops/rows/bias_kernels.h"
#include "engine/ops/rows/packs.cuh"

namespace glia::cuda {
namespace {

constexpr int kColumns = 32;  // packs of columns a block
constexpr int kLanes = 8;     // threads a column
constexpr int kRows = 4;      // rows in flight a thread

struct Identity {
  template <class A> __device__ A value(A x) const { return x; }
};

// y = f(x + b). A thread keeps its columns' bias in registers and walks down the rows, kRows of them asked for at a
// time. grid (columns / (kColumns·W), row chunks), block (kColumns, kLanes)
template <class F, class T, int W>
__global__ void __launch_bounds__(kColumns* kLanes)
    bias_kernel(F f, const T* x, const Accumulator<T>* b, T* y, int64_t rows, int64_t n) {
  const int64_t j = (static_cast<int64_t>(blockIdx.x) * kColumns + threadIdx.x) * W;
  if (j >= n) return;
  Accumulator<T> add[W];
#pragma unroll
  for (int k = 0; k < W; ++k) add[k] = b[j + k];
  const int64_t step = static_cast<int64_t>(gridDim.y) * kLanes;
  for (int64_t r = static_cast<int64_t>(blockIdx.y) * kLanes + threadIdx.y; r < rows; r += kRows * step) {
    Pack<T, W> pack[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i)
      if (r + i * step < rows) pack[i] = *reinterpret_cast<const Pack<T, W>*>(x + (r + i * step) * n + j);
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      if (r + i * step >= rows) break;
      Accumulator<T> v[W];
      load<W>(pack[i].v, v);
#pragma unroll
      for (int k = 0; k < W; ++k) v[k] = f.value(v[k] + add[k]);
      store<W>(y + (r + i * step) * n + j, v);
    }
  }
}

// grid (columns / (kColumns·W), chunks): chunk c sums the stored dx of rows c·per … into partial[c].
template <class T, int W>
__global__ void __launch_bounds__(kColumns* kLanes)
    bias_gelu_gradient_kernel(const T* x, const Accumulator<T>* b, const T* dy, T* dx, Accumulator<T>* partial,
                              int64_t rows, int64_t n) {
  using A = Accumulator<T>;
  __shared__ A sums[kLanes][kColumns * W];
  const int64_t j = (static_cast<int64_t>(blockIdx.x) * kColumns + threadIdx.x) * W;
  const int64_t per = (rows + gridDim.y - 1) / gridDim.y, first = blockIdx.y * per, last = min(rows, first + per);
  A sum[W] = {};
  if (j < n) {
    A add[W];
#pragma unroll
    for (int k = 0; k < W; ++k) add[k] = b[j + k];
#pragma unroll 2
    for (int64_t r = first + threadIdx.y; r < last; r += kLanes) {
      A v[W], d[W];
      load<W>(x + r * n + j, v);
      load<W>(dy + r * n + j, d);
#pragma unroll
      for (int k = 0; k < W; ++k) {
        d[k] *= Gelu{}.derivative(v[k] + add[k]);
        sum[k] += static_cast<A>(static_cast<T>(d[k]));  // the gradient that the other consumers see, rounded
      }
      store<W>(dx + r * n + j, d);
    }
  }
  if (!partial) return;
  store_column_sums<kColumns>(sums, sum, n, partial + blockIdx.y * n);
}

template <class A> struct Store {
  A* to;
  __device__ void operator()(int64_t i, A value) const { to[i] = value; }
};

template <class F, class T>
void run_bias(const char* name, F f, const T* x, const Accumulator<T>* b, T* y, int64_t rows, int64_t n,
              Stream stream) {
  if (rows == 0 || n == 0) return;
  with_pack_width<T>(
      n,
      [&](auto width) {
        constexpr int W = decltype(width)::value;
        const int64_t across = (n + kColumns * W - 1) / (kColumns * W);
        const int64_t down = std::clamp<int64_t>(132 * 16 / across, 1, (rows + kLanes - 1) / kLanes);
        launch(name, bias_kernel<F, T, W>, {dim3(across, down), dim3(kColumns, kLanes)}, stream, f, x, b, y, rows,
               n);
      },
      x, y);
}

}  // namespace

template <class T>
void bias_add(const T* x, const Accumulator<T>* b, T* y, int64_t rows, int64_t n, Stream stream) {
  run_bias("bias_add", Identity{}, x, b, y, rows, n, stream);
}

template <class T>
void bias_gelu(const T* x, const Accumulator<T>* b, T* y, int64_t rows, int64_t n, Stream stream) {
  run_bias("bias_gelu", Gelu{}, x, b, y, rows, n, stream);
}

template <class T>
void bias_gelu_gradient(const T* x, const Accumulator<T>* b, const T* dy, T* dx, Accumulator<T>* partial,
                        Accumulator<T>* db, int64_t rows, int64_t n, Stream stream) {
  if (n == 0) return;
  const int chunks = bias_chunks(rows, n);
  if (!db) partial = nullptr;
  with_pack_width<T>(
      n,
      [&](auto width) {
        constexpr int W = decltype(width)::value;
        const dim3 grid((n + kColumns * W - 1) / (kColumns * W), chunks), block(kColumns, kLanes);
        launch("bias_gelu/gradient", bias_gelu_gradient_kernel<T, W>, {grid, block}, stream, x, b, dy, dx, partial,
               rows, n);
      },
      x, dy, dx);
  if (db) reduce_chunks("bias_gelu/sum", partial, 1, chunks, n, stream, Store<Accumulator<T>>{db});
}

#define INSTANTIATE(T)                                                                             \
  template void bias_add(const T*, const Accumulator<T>*, T*, int64_t, int64_t, Stream);           \
  template void bias_gelu(const T*, const Accumulator<T>*, T*, int64_t, int64_t, Stream);          \
  template void bias_gelu_gradient(const T*, const Accumulator<T>*, const T*, T*, Accumulator<T>*, \
                                   Accumulator<T>*, int64_t, int64_t, Stream);
GLIA_FOR_FLOATING(INSTANTIATE)
#undef INSTANTIATE

}  // namespace glia::cuda
