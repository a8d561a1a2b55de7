// Column sums for bias gradients in two stages without atomics: per tile of 128 rows, then over the tiles of a group.
#include <cuda_bf16.h>

#include "engine/device/cuda/intrinsics.cuh"
#include "engine/ops/products/grouped_launch.cuh"

namespace glia::cuda {
namespace {

__device__ __forceinline__ int group_offset(const int* offsets, int g, int rows) {
  return offsets != nullptr ? offsets[g] : g * rows;
}

// Block (32, 8): lane x takes 8 neighbouring columns, y every eighth row. Grid: (⌈N / 256⌉, row tiles).
__global__ void __launch_bounds__(256)
    partials_kernel(const __nv_bfloat16* m, float* partial, const int* offsets, int groups, int rows, int columns) {
  __shared__ float sums[8][256];
  const int row0 = static_cast<int>(blockIdx.y) * kGroupAlignment;
  const int last = min(group_offset(offsets, groups, rows), row0 + kGroupAlignment);
  if (row0 >= last) return;
  const int col = static_cast<int>(blockIdx.x) * 256 + static_cast<int>(threadIdx.x) * 8;
  float s[8] = {};
  if (col < columns) {
#pragma unroll 4
    for (int r = row0 + static_cast<int>(threadIdx.y); r < last; r += 8) {
      const uint4 v = __ldg(reinterpret_cast<const uint4*>(m + static_cast<long long>(r) * columns + col));
      const uint32_t u[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) s[2 * i] += unpack_low(u[i]), s[2 * i + 1] += unpack_high(u[i]);
    }
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) sums[threadIdx.y][threadIdx.x * 8 + i] = s[i];
  __syncthreads();
  const int t = static_cast<int>(threadIdx.y * 32 + threadIdx.x);
  float total = 0.0f;
#pragma unroll
  for (int y = 0; y < 8; ++y) total += sums[y][t];
  const int out = static_cast<int>(blockIdx.x) * 256 + t;
  if (out < columns) partial[static_cast<long long>(blockIdx.y) * columns + out] = total;
}

// Block (32, 16): x a column, y every sixteenth tile of the group. Grid: (⌈N / 32⌉, groups).
__global__ void __launch_bounds__(512)
    reduce_kernel(const float* partial, float* db, const int* offsets, int rows, int columns) {
  __shared__ float sums[16][33];
  const int col = static_cast<int>(blockIdx.x) * 32 + static_cast<int>(threadIdx.x);
  const int group = static_cast<int>(blockIdx.y);
  const int first = group_offset(offsets, group, rows) / kGroupAlignment;
  const int last = (group_offset(offsets, group + 1, rows) + kGroupAlignment - 1) / kGroupAlignment;
  float s = 0.0f;
  if (col < columns)
#pragma unroll 4
    for (int t = first + static_cast<int>(threadIdx.y); t < last; t += 16)
      s += __ldg(partial + static_cast<long long>(t) * columns + col);
  sums[threadIdx.y][threadIdx.x] = s;
  __syncthreads();
  if (threadIdx.y == 0 && col < columns) {
    float total = 0.0f;
#pragma unroll
    for (int y = 0; y < 16; ++y) total += sums[y][threadIdx.x];
    db[static_cast<long long>(group) * columns + col] = total;
  }
}

}  // namespace

void column_partials(const void* m, float* partial, RowGroups groups, int columns, Stream stream) {
  check_groups(groups, columns, 8);
  if (groups.rows == 0) return;
  const dim3 grid((columns + 255) / 256, (groups.rows + kGroupAlignment - 1) / kGroupAlignment);
  launch("column_partials", partials_kernel, {grid, dim3(32, 8)}, stream, static_cast<const __nv_bfloat16*>(m),
         partial, groups.offsets, groups.groups, groups.rows, columns);
}

void reduce_column_partials(const float* partial, float* db, RowGroups groups, int columns, Stream stream) {
  check_groups(groups, columns, 8);
  launch("reduce_column_partials", reduce_kernel, {dim3((columns + 31) / 32, groups.groups), dim3(32, 16)}, stream,
         partial, db, groups.offsets, groups.rows, columns);
}

}  // namespace glia::cuda
