#include "engine/ops/rows/packs.cuh"
#include "engine/ops/rows/reduce_kernels.h"

namespace glia::cuda {
namespace {

// inner = 1: one warp a (row, chunk).     partial [outer, chunks]
template <class T>
__global__ void __launch_bounds__(kThreads)
    row_sum_kernel(AxisShape s, int64_t chunks, const T* x, Accumulator<T>* partial) {
  using A = Accumulator<T>;
  constexpr int W = kPackWidth<T>;
  const int lane = threadIdx.x % 32;
  for (int64_t c = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / 32; c < s.outer * chunks;
       c += static_cast<int64_t>(gridDim.x) * (kThreads / 32)) {
    const int64_t per = ((s.n + chunks - 1) / chunks + W - 1) / W * W, first = c % chunks * per,
                  last = min(s.n, first + per);
    const T* from = x + c / chunks * s.n;
    A sum = 0;
    if (reinterpret_cast<uintptr_t>(from) % 16 == 0) {
      int64_t i = first + lane * W;
#pragma unroll 8
      for (; i + W <= last; i += 32 * W) {
        A v[W], part = 0;
        load<W>(from + i, v);
#pragma unroll
        for (int k = 0; k < W; ++k) part += v[k];
        sum += part;
      }
      for (; i < last; ++i) sum += static_cast<A>(from[i]);  // at most one lane has a last, partial pack
    } else {
      for (int64_t i = first + lane; i < last; i += 32) sum += static_cast<A>(from[i]);
    }
    sum = warp_sum(sum);
    if (lane == 0) partial[c] = sum;
  }
}

// One block a row of partial sums.     partial [outer, chunks] → y [outer]
template <class T, class A>
__global__ void finish_rows_kernel(int64_t outer, int64_t chunks, const A* partial, A factor, T* y) {
  __shared__ A shared[32];
  for (int64_t o = blockIdx.x; o < outer; o += gridDim.x) {
    A sum = 0;
#pragma unroll 4
    for (int64_t c = threadIdx.x; c < chunks; c += blockDim.x) sum += partial[o * chunks + c];
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) y[o] = static_cast<T>(sum * factor);
  }
}

template <class T, class A> struct Finish {
  T* y;
  A factor;
  __device__ void operator()(int64_t i, A total) const { y[i] = static_cast<T>(total * factor); }
};

}  // namespace

template <class T>
void axis_sum(const AxisShape& s, const T* x, double factor, Accumulator<T>* partial, T* y, Stream stream) {
  using A = Accumulator<T>;
  const int64_t chunks = axis_chunks(s), columns = s.outer * s.inner;
  if (columns == 0) return;
  const A f = static_cast<A>(factor);
  if (s.inner == 1) {
    launch("axis_sum", row_sum_kernel<T>, {grid_for(s.outer * chunks, kThreads / 32), kThreads}, stream, s, chunks,
           x, partial);
    const int threads = std::min<int64_t>(1024, (chunks + 31) / 32 * 32);
    launch("axis_sum/chunks", finish_rows_kernel<T, A>, {grid_for(s.outer, 1), threads}, stream, s.outer, chunks,
           partial, f, y);
    return;
  }
  // One thread a (row, chunk, column).
  const int64_t per = (s.n + chunks - 1) / chunks;
  for_each("axis_sum", columns * chunks, stream, [=] __device__(int64_t i) {
    const int64_t k = i % s.inner, c = i / s.inner % chunks, o = i / s.inner / chunks;
    const T* from = x + (o * s.n) * s.inner + k;
    A sum = 0;
#pragma unroll 8
    for (int64_t j = c * per; j < min(s.n, (c + 1) * per); ++j) sum += static_cast<A>(from[j * s.inner]);
    partial[i] = sum;
  });
  if (chunks > 1 && s.outer <= 65535)
    return reduce_chunks("axis_sum/chunks", partial, s.outer, static_cast<int>(chunks), s.inner, stream,
                         Finish<T, A>{y, f});
  for_each("axis_sum/chunks", columns, stream, [=] __device__(int64_t i) {
    const int64_t k = i % s.inner, o = i / s.inner;
    A total = 0;
#pragma unroll 8
    for (int64_t c = 0; c < chunks; ++c) total += partial[(o * chunks + c) * s.inner + k];
    y[i] = static_cast<T>(total * f);
  });
}

// y[r, j] = f · x[r] for rows of one number, f · x[r / n, j] else: a thread takes W columns of every (gridDim.y ·
// blockDim.y)-th row.
template <class T, int W, bool kOneNumber>
__global__ void __launch_bounds__(kThreads)
    spread_kernel(int64_t rows, int64_t columns, int64_t n, const T* x, Accumulator<T> f, T* y) {
  using A = Accumulator<T>;
  const int64_t j = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * W;
  if (j >= columns) return;
  for (int64_t r = static_cast<int64_t>(blockIdx.y) * blockDim.y + threadIdx.y; r < rows;
       r += static_cast<int64_t>(gridDim.y) * blockDim.y) {
    A v[W];
    if constexpr (kOneNumber) {
      const A value = static_cast<A>(x[r]);
#pragma unroll
      for (int k = 0; k < W; ++k) v[k] = value;
    } else {
      load<W>(x + r / n * columns + j, v);
    }
#pragma unroll
    for (int k = 0; k < W; ++k) v[k] *= f;
    store<W>(y + r * columns + j, v);
  }
}

template <class T> void axis_spread(const AxisShape& s, const T* dy, double factor, T* dx, Stream stream) {
  const bool one = s.inner == 1;
  const int64_t rows = one ? s.outer : s.outer * s.n, columns = one ? s.n : s.inner;
  if (rows * columns == 0) return;
  const Accumulator<T> f = static_cast<Accumulator<T>>(factor);
  with_pack_width<T>(
      columns,
      [&](auto width) {
        constexpr int W = decltype(width)::value;
        const dim3 block = rows < 8 ? dim3(kThreads, 1) : dim3(32, 8);
        const int64_t across = (columns + block.x * W - 1) / (block.x * W), down = (rows + block.y - 1) / block.y;
        const dim3 grid(across, std::clamp<int64_t>(132 * 16 / across, 1, down));
        if (one)
          launch("axis_spread", spread_kernel<T, W, true>, {grid, block}, stream, rows, columns, s.n, dy, f, dx);
        else
          launch("axis_spread", spread_kernel<T, W, false>, {grid, block}, stream, rows, columns, s.n, dy, f, dx);
      },
      dx, one ? nullptr : dy);
}

// One warp a column: its lanes look at every 32nd element, then the first of the largest wins.
template <class T>
__global__ void __launch_bounds__(kThreads) axis_max_kernel(AxisShape s, const T* x, T* y, int32_t* at) {
  using A = Accumulator<T>;
  const int lane = threadIdx.x % 32;
  for (int64_t c = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / 32; c < s.outer * s.inner;
       c += static_cast<int64_t>(gridDim.x) * (kThreads / 32)) {
    const T* from = x + c / s.inner * s.n * s.inner + c % s.inner;
    int32_t best = lane < s.n ? lane : 0;
    A value = static_cast<A>(from[best * s.inner]);
    const auto better = [](A v, int64_t i, A than, int64_t than_i) {
      if (v != v || than != than) return v != v && (than == than || i < than_i);
      return v > than || (v == than && i < than_i);
    };
    for (int64_t i = lane + 32; i < s.n; i += 32) {
      const A v = static_cast<A>(from[i * s.inner]);
      if (better(v, i, value, best)) value = v, best = static_cast<int32_t>(i);
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) {
      const A v = __shfl_xor_sync(0xffffffffu, value, offset);
      const int32_t i = __shfl_xor_sync(0xffffffffu, best, offset);
      if (better(v, i, value, best)) value = v, best = i;
    }
    if (lane == 0) y[c] = from[best * s.inner], at[c] = best;
  }
}

template <class T> void axis_max(const AxisShape& s, const T* x, T* y, int32_t* at, Stream stream) {
  const int64_t columns = s.outer * s.inner;
  if (columns == 0) return;
  launch("axis_max", axis_max_kernel<T>, {grid_for(columns, kThreads / 32), kThreads}, stream, s, x, y, at);
}

template <class T>
void axis_max_gradient(const AxisShape& s, const int32_t* at, const T* dy, T* dx, Stream stream) {
  for_each("axis_max/gradient", s.outer * s.n * s.inner, stream, [=] __device__(int64_t i) {
    const int64_t column = i / (s.n * s.inner) * s.inner + i % s.inner;
    dx[i] = at[column] == i / s.inner % s.n ? dy[column] : static_cast<T>(0.0f);
  });
}

#define INSTANTIATE(T)                                                                     \
  template void axis_sum(const AxisShape&, const T*, double, Accumulator<T>*, T*, Stream); \
  template void axis_spread(const AxisShape&, const T*, double, T*, Stream);               \
  template void axis_max(const AxisShape&, const T*, T*, int32_t*, Stream);                \
  template void axis_max_gradient(const AxisShape&, const int32_t*, const T*, T*, Stream);
GLIA_FOR_FLOATING(INSTANTIATE)
#undef INSTANTIATE

}  // namespace glia::cuda
