#include <limits>

#include "engine/device/cuda/launch.cuh"
#include "engine/ops/loss/vocabulary_loss_kernels.h"

namespace glia::cuda {
namespace {

// One block a row: its largest logit and the first column that has it, then the sum, both in a fixed order.
template <class A>
__global__ void __launch_bounds__(kThreads)
    vocabulary_rows_kernel(const A* logits, const A* b, const int32_t* targets, int64_t n, int64_t first,
                           VocabularyRows<A> r) {
  __shared__ A values[32];
  __shared__ int32_t columns[32];
  const int64_t m = blockIdx.x;
  const A* l = logits + m * n;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  A best = -std::numeric_limits<A>::infinity();
  int32_t column = INT32_MAX;
  for (int64_t j = threadIdx.x; j < n; j += kThreads)
    if (const A x = l[j] + b[j]; x > best) best = x, column = static_cast<int32_t>(first + j);
  const auto take = [&](A other, int32_t where) {
    if (other > best || (other == best && where < column)) best = other, column = where;
  };
  for (int offset = 16; offset > 0; offset >>= 1)
    take(__shfl_xor_sync(0xffffffffu, best, offset), __shfl_xor_sync(0xffffffffu, column, offset));
  if (lane == 0) values[warp] = best, columns[warp] = column;
  __syncthreads();
  for (int w = 0; w < kThreads / 32; ++w) take(values[w], columns[w]);
  const A before = first ? r.largest[m] : -std::numeric_limits<A>::infinity();
  if (first && before >= best) best = before, column = r.best[m];
  A sum = 0;
  for (int64_t j = threadIdx.x; j < n; j += kThreads) sum += ::exp(l[j] + b[j] - best);
  sum = block_sum(sum, values);  // its first barrier is behind every reading of `values`
  if (threadIdx.x != 0) return;
  if (first) sum += r.sum[m] * ::exp(before - best);
  r.largest[m] = best, r.sum[m] = sum, r.best[m] = column;
  const int64_t hit = targets[m] - first;
  if (hit >= 0 && hit < n) r.target[m] = l[hit] + b[hit];
}

template <class A>
__global__ void __launch_bounds__(1024)
    vocabulary_finish_kernel(VocabularyRows<A> r, const int32_t* targets, int64_t rows, int64_t vocabulary, A* lse,
                             A* losses, A* loss, A* sums) {
  __shared__ double shared[32];
  double total = 0, count = 0, right = 0;
  for (int64_t m = threadIdx.x; m < rows; m += 1024) {
    const A e = r.largest[m] + ::log(r.sum[m]);
    const bool counts = targets[m] != -1, valid = targets[m] >= 0 && targets[m] < vocabulary;
    const A one = !counts ? A(0) : valid ? e - r.target[m] : std::numeric_limits<A>::quiet_NaN();
    lse[m] = e, losses[m] = one;
    total += one, count += counts, right += counts && r.best[m] == targets[m];
  }
  total = block_sum(total, shared), count = block_sum(count, shared), right = block_sum(right, shared);
  if (threadIdx.x != 0) return;
  *loss = static_cast<A>(count > 0 ? total / count : 0);
  sums[0] = static_cast<A>(total), sums[1] = static_cast<A>(count), sums[2] = static_cast<A>(right);
}

}  // namespace

template <class A>
void vocabulary_rows(const A* logits, const A* b, const int32_t* targets, int64_t rows, int64_t n, int64_t first,
                     const VocabularyRows<A>& r, Stream stream) {
  if (rows == 0) return;
  launch("vocabulary_loss/rows", vocabulary_rows_kernel<A>, {rows, kThreads}, stream, logits, b, targets, n, first,
         r);
}

template <class A>
void vocabulary_finish(const VocabularyRows<A>& r, const int32_t* targets, int64_t rows, int64_t vocabulary, A* lse,
                       A* losses, A* loss, A* sums, Stream stream) {
  launch("vocabulary_loss", vocabulary_finish_kernel<A>, {1, 1024}, stream, r, targets, rows, vocabulary, lse,
         losses, loss, sums);
}

template <class A, class T>
void vocabulary_gradient(const A* logits, const A* b, const int32_t* targets, const A* lse, const A* sums,
                         const A* dloss, int64_t rows, int64_t n, int64_t first, T* dlogits, Stream stream) {
  for_each("vocabulary_loss/gradient", rows * n, stream, [=] __device__(int64_t i) {
    const int64_t m = i / n, j = i - m * n;
    if (targets[m] == -1) {
      dlogits[i] = static_cast<T>(A(0));
      return;
    }
    const A scale = *dloss / (sums[1] > A(1) ? sums[1] : A(1)), hit = first + j == targets[m] ? A(1) : A(0);
    dlogits[i] = static_cast<T>((::exp(logits[i] + b[j] - lse[m]) - hit) * scale);
  });
}

#define INSTANTIATE(A)                                                                                         \
  template void vocabulary_rows(const A*, const A*, const int32_t*, int64_t, int64_t, int64_t,                 \
                                const VocabularyRows<A>&, Stream);                                             \
  template void vocabulary_finish(const VocabularyRows<A>&, const int32_t*, int64_t, int64_t, A*, A*, A*, A*,  \
                                  Stream);                                                                     \
  template void vocabulary_gradient(const A*, const A*, const int32_t*, const A*, const A*, const A*, int64_t, \
                                    int64_t, int64_t, A*, Stream);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE
template void vocabulary_gradient(const float*, const float*, const int32_t*, const float*, const float*,
                                  const float*, int64_t, int64_t, int64_t, bfloat16*, Stream);

}  // namespace glia::cuda
