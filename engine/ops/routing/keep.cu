#include "engine/device/cuda/launch.cuh"
#include "engine/ops/routing/keep_kernels.h"

namespace glia::cuda {

template <class A> void keep_top_rows(const KeepShape& s, const A* x, A* y, Stream stream) {
  for_each("keep_top_rows", s.rows * s.columns, stream, [=] __device__(int64_t i) {
    y[i] = kept_in_sequence(s, x, i / s.columns, i % s.columns) ? x[i] : -A(INFINITY);
  });
}

template <class A> void keep_at_least(int64_t n, int64_t columns, const A* x, const A* bound, A* y, Stream stream) {
  for_each("keep_at_least", n, stream,
           [=] __device__(int64_t i) { y[i] = x[i] >= bound[i % columns] ? x[i] : -A(INFINITY); });
}

template <class A> void keep_largest(const LargestRule& r, const A* x, const A* u, A* y, Stream stream) {
  for_each("keep_largest", r.rows, stream, [=] __device__(int64_t i) {
    keep_largest_row(r, x + i * r.columns, u ? u + i : nullptr, y + i * r.columns);
  });
}

namespace {

// One block a column. Eight bits of the answer a pass, from the top: how many numbers that agree with what is known so far
// have each next byte. Counts of integers: their order does not matter.
template <class A> __global__ void __launch_bounds__(1024) column_rank_kernel(RankRule r, const A* x, A* y) {
  using Word = typename SortableBits<A>::Word;
  __shared__ int32_t count[256];
  __shared__ Word known;
  __shared__ int64_t left;
  const int64_t e = blockIdx.x;
  if (threadIdx.x == 0) known = 0, left = wanted_rank(r);
  for (int shift = sizeof(A) * 8 - 8; shift >= 0; shift -= 8) {
    if (threadIdx.x < 256) count[threadIdx.x] = 0;
    __syncthreads();
    for (int64_t t = threadIdx.x; t < r.rows; t += blockDim.x) {
      if (r.sequence_of[t] < 0) continue;
      const Word bits = sortable(x[t * r.columns + e]);
      // Shifting by all bits is undefined: in the first pass everything agrees.
      if (shift + 8 == sizeof(A) * 8 || bits >> (shift + 8) == known >> (shift + 8))
        atomicAdd(&count[(bits >> shift) & 255], 1);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int byte = 255;
      for (; byte > 0 && left >= count[byte]; --byte) left -= count[byte];
      known |= static_cast<Word>(byte) << shift;
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) y[e] = unsorted<A>(known);
}

}  // namespace

template <class A> void column_rank(const RankRule& r, const A* x, A* y, Stream stream) {
  launch("column_rank", column_rank_kernel<A>, {r.columns, 1024}, stream, r, x, y);
}

#define INSTANTIATE(A)                                                            \
  template void keep_top_rows(const KeepShape&, const A*, A*, Stream);            \
  template void keep_at_least(int64_t, int64_t, const A*, const A*, A*, Stream);  \
  template void keep_largest(const LargestRule&, const A*, const A*, A*, Stream); \
  template void column_rank(const RankRule&, const A*, A*, Stream);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace glia::cuda
