#include "engine/ops/rows/packs.cuh"
#include "engine/ops/sequences/sequences_kernels.h"

namespace glia::cuda {
namespace {

constexpr int kColumns = 32;  // packs of columns a block
constexpr int kLanes = 8;     // rows in flight a column

// grid (columns / (kColumns·W), count), block (kColumns, kLanes)
template <class T, int W>
__global__ void __launch_bounds__(kColumns* kLanes) reduce_kernel(SequenceRows s, const T* x, T* y) {
  using A = Accumulator<T>;
  __shared__ A sums[kLanes][kColumns * W];
  const int64_t j = (static_cast<int64_t>(blockIdx.x) * kColumns + threadIdx.x) * W;
  const auto [begin, end] = counted(s, blockIdx.y);
  A sum[W] = {};
  if (j < s.h)
    for (int64_t t = begin + threadIdx.y; t < end; t += kLanes) {
      A v[W];
      load<W>(x + t * s.h + j, v);
#pragma unroll
      for (int k = 0; k < W; ++k) sum[k] += v[k];
    }
#pragma unroll
  for (int k = 0; k < W; ++k) sums[threadIdx.y][threadIdx.x * W + k] = sum[k];
  __syncthreads();
  const A scale = s.mean && end > begin ? A{1} / static_cast<A>(end - begin) : A{1};
  for (int i = threadIdx.y * kColumns + threadIdx.x; i < kColumns * W; i += kColumns * kLanes) {
    const int64_t column = static_cast<int64_t>(blockIdx.x) * kColumns * W + i;
    if (column >= s.h) continue;
    A total = 0;
#pragma unroll
    for (int l = 0; l < kLanes; ++l) total += sums[l][i];
    y[blockIdx.y * s.h + column] = static_cast<T>(total * scale);
  }
}

// One warp a row.
template <class T, int W>
__global__ void __launch_bounds__(kThreads)
    spread_kernel(SequenceRows s, const int32_t* sequence_of, const T* dy, T* dx) {
  using A = Accumulator<T>;
  const int lane = threadIdx.x % 32;
  for (int64_t t = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / 32; t < s.tokens;
       t += static_cast<int64_t>(gridDim.x) * (kThreads / 32)) {
    const int64_t b = sequence_of[t];
    const auto [begin, end] = b >= 0 ? counted(s, b) : Span{0, 0};
    const bool inside = t >= begin && t < end;
    const A scale = s.mean && inside ? A{1} / static_cast<A>(end - begin) : A{1};
    for (int64_t j = lane * W; j < s.h; j += 32 * W) {
      A v[W] = {};
      if (inside) {
        load<W>(dy + b * s.h + j, v);
#pragma unroll
        for (int k = 0; k < W; ++k) v[k] *= scale;
      }
      store<W>(dx + t * s.h + j, v);
    }
  }
}

}  // namespace

template <class T> void sequence_reduce(const SequenceRows& s, const T* x, T* y, Stream stream) {
  if (s.count == 0 || s.h == 0) return;
  with_pack_width<T>(
      s.h,
      [&](auto width) {
        constexpr int W = decltype(width)::value;
        const dim3 grid((s.h + kColumns * W - 1) / (kColumns * W), s.count), block(kColumns, kLanes);
        launch("sequence_reduce", reduce_kernel<T, W>, {grid, block}, stream, s, x, y);
      },
      x, y);
}

template <class T>
void sequence_spread(const SequenceRows& s, const int32_t* sequence_of, const T* dy, T* dx, Stream stream) {
  if (s.tokens == 0 || s.h == 0) return;
  with_pack_width<T>(
      s.h,
      [&](auto width) {
        constexpr int W = decltype(width)::value;
        launch("sequence_spread", spread_kernel<T, W>, {grid_for(s.tokens, kThreads / 32), kThreads}, stream, s,
               sequence_of, dy, dx);
      },
      dy, dx);
}

#define INSTANTIATE(T)                                                      \
  template void sequence_reduce(const SequenceRows&, const T*, T*, Stream); \
  template void sequence_spread(const SequenceRows&, const int32_t*, const T*, T*, Stream);
GLIA_FOR_FLOATING(INSTANTIATE)
#undef INSTANTIATE

}  // namespace glia::cuda
