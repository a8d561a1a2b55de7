#include "engine/device/cuda/launch.cuh"
#include "engine/ops/rows/column_sum.h"
#include "engine/ops/rows/packs.cuh"

namespace glia::cuda {
namespace {

constexpr int kColumns = 32;  // packs of columns a block
constexpr int kLanes = 8;     // rows in flight a column

// grid (columns / (kColumns·W), chunks, groups), block (kColumns, kLanes)
template <class T, int W>
__global__ void partial_kernel(const T* x, const int32_t* offsets, Accumulator<T>* partial, int64_t rows,
                               int64_t n) {
  using A = Accumulator<T>;
  __shared__ A sums[kLanes][kColumns * W];
  const int64_t begin = offsets ? offsets[blockIdx.z] : 0, end = offsets ? offsets[blockIdx.z + 1] : rows;
  const int64_t per_chunk = (end - begin + gridDim.y - 1) / gridDim.y;
  const int64_t first = begin + blockIdx.y * per_chunk, last = min(end, first + per_chunk);
  const int64_t column = (static_cast<int64_t>(blockIdx.x) * kColumns + threadIdx.x) * W;
  A sum[W] = {};
  if (column < n)
    for (int64_t r = first + threadIdx.y; r < last; r += kLanes) {
      const Pack<T, W> p = *reinterpret_cast<const Pack<T, W>*>(x + r * n + column);
#pragma unroll
      for (int w = 0; w < W; ++w) sum[w] += static_cast<A>(p.v[w]);
    }
  store_column_sums<kColumns>(sums, sum, n,
                              partial + (blockIdx.z * static_cast<int64_t>(gridDim.y) + blockIdx.y) * n);
}

}  // namespace

template <class T, class Out>
void column_sum(const T* x, const int32_t* offsets, Accumulator<T>* partial, Out* out, int64_t rows, int64_t n,
                int64_t groups, Stream stream) {
  using A = Accumulator<T>;
  if constexpr (std::is_same_v<T, A>) {
    constexpr int64_t kFewRows = 512;  // one launch then: every row is its own chunk
    if (!offsets && rows <= kFewRows)
      return reduce_chunks("column_sum", x, 1, static_cast<int>(rows), n, stream,
                           [=] __device__(int64_t i, A total) { out[i] = static_cast<Out>(total); });
  }
  constexpr int W = 16 / sizeof(T) > 4 ? 4 : 16 / sizeof(T);
  const bool wide = n % W == 0 && reinterpret_cast<uintptr_t>(x) % (W * sizeof(T)) == 0;
  const int width = wide ? W : 1;
  const dim3 grid((n + kColumns * width - 1) / (kColumns * width), kColumnSumChunks, groups),
      block(kColumns, kLanes);
  if (wide) launch("column_sum", partial_kernel<T, W>, {grid, block}, stream, x, offsets, partial, rows, n);
  else launch("column_sum", partial_kernel<T, 1>, {grid, block}, stream, x, offsets, partial, rows, n);
  reduce_chunks("column_sum/reduce", partial, groups, kColumnSumChunks, n, stream,
                [=] __device__(int64_t i, A total) { out[i] = static_cast<Out>(total); });
}

template void column_sum(const float*, const int32_t*, float*, float*, int64_t, int64_t, int64_t, Stream);
template void column_sum(const double*, const int32_t*, double*, double*, int64_t, int64_t, int64_t, Stream);
template void column_sum(const bfloat16*, const int32_t*, float*, bfloat16*, int64_t, int64_t, int64_t, Stream);
template void column_sum(const bfloat16*, const int32_t*, float*, float*, int64_t, int64_t, int64_t, Stream);

}  // namespace glia::cuda
