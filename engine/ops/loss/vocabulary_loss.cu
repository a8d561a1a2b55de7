#include <limits>

#include "engine/core/math.h"
#include "engine/device/cuda/launch.cuh"
#include "engine/ops/loss/vocabulary_loss_kernels.h"
#include "engine/ops/rows/packs.cuh"

namespace glia::cuda {
namespace {

constexpr int kRowThreads =
    1024;  // two blocks a multiprocessor: their rows stay in the L2 cache between the passes

// The largest logit so far and the first word that has it, and Σ exp(l − largest).
template <class A> struct Online {
  A largest = -std::numeric_limits<A>::infinity(), sum = 0;
  int32_t word = INT32_MAX;
  __device__ __forceinline__ void add(A x, int32_t j) {
    if (x > largest) {
      sum = sum * math::exp_negative(largest - x) + A(1);
      largest = x, word = j;
    } else {
      sum += math::exp_negative(x - largest);
    }
  }
};

// The block's largest value and the first word that has it, in every thread.
template <class A>
__device__ __forceinline__ void best_of_block(A& best, int32_t& word, A* values, int32_t* words) {
  const auto take = [&](A other, int32_t where) {
    if (other > best || (other == best && where < word)) best = other, word = where;
  };
  for (int offset = 16; offset > 0; offset >>= 1)
    take(__shfl_xor_sync(0xffffffffu, best, offset), __shfl_xor_sync(0xffffffffu, word, offset));
  if (threadIdx.x % 32 == 0) values[threadIdx.x / 32] = best, words[threadIdx.x / 32] = word;
  __syncthreads();
  for (int w = 0; w < kRowThreads / 32; ++w) take(values[w], words[w]);
}

// One block a row: the first pass makes its sum, in an order that depends on nothing but the shape, the second its gradient.
template <class A, class T, int W>
__global__ void __launch_bounds__(kRowThreads)
    vocabulary_rows_kernel(VocabularyShape s, const A* logits, const A* b, const int32_t* targets,
                           VocabularyRows<A> r, T* dlogits) {
  __shared__ A values[32];
  __shared__ int32_t words[32];
  const int64_t m = blockIdx.x;
  const A* l = logits + m * s.room;
  const auto each = [&](auto&& f) {
    for (int64_t j = threadIdx.x * W; j < s.room; j += kRowThreads * W) {
      A v[W];
      load<W>(l + j, v);
#pragma unroll
      for (int k = 0; k < W; ++k)
        if (j + k < s.words) v[k] += b[j + k];
      f(j, v);
    }
  };
  Online<A> own;
  each([&](int64_t j, const A(&v)[W]) {
#pragma unroll
    for (int k = 0; k < W; ++k)
      if (j + k < s.words) own.add(v[k], static_cast<int32_t>(j + k));
  });
  A best = own.largest;
  int32_t word = own.word;
  best_of_block(best, word, values, words);
  // A thread without a word has a largest logit of −∞ and a sum of 0. block_sum's first barrier is behind every reading of `values`.
  const A sum = block_sum(own.sum == A(0) ? A(0) : own.sum * math::exp_negative(own.largest - best), values);
  const A lse = best + ::log(sum);
  const int32_t target = targets[m];
  if (threadIdx.x == 0) {
    r.lse[m] = lse, r.best[m] = word;
    r.target[m] = target >= 0 && target < s.words ? l[target] + b[target] : A(0);
  }
  if (!dlogits) return;
  T* to = dlogits + m * s.room;
  each([&](int64_t j, const A(&v)[W]) {
    A d[W];
#pragma unroll
    for (int k = 0; k < W; ++k) {
      const bool counts = target != -1 && j + k < s.words;
      d[k] = counts ? math::exp_negative(v[k] - lse) - (j + k == target ? A(1) : A(0)) : A(0);
    }
    store<W>(to + j, d);
  });
}

constexpr int kHeldPacks = 8;  // of four logits a thread: rows of up to 32,768

// The same with the row in registers: each logit is read once, and its exponential is made once, e^(l − largest), which the gradient
// takes divided by the sum. One block a multiprocessor.
template <class T>
__global__ void __launch_bounds__(kRowThreads, 1)
    vocabulary_held_rows_kernel(VocabularyShape s, const float* logits, const float* b, const int32_t* targets,
                                VocabularyRows<float> r, T* dlogits) {
  constexpr int W = 4, kStep = kRowThreads * W;
  __shared__ float values[32];
  __shared__ int32_t words[32];
  const int64_t m = blockIdx.x;
  const int first = threadIdx.x * W, used = static_cast<int>(s.words), room = static_cast<int>(s.room);
  const float *l = logits + m * s.room, *from = l + first, *bias = b + first;
  float v[kHeldPacks][W];
#pragma unroll
  for (int p = 0; p < kHeldPacks; ++p)
    if (first + p * kStep < room) load<W>(from + p * kStep, v[p]);
  float best = -std::numeric_limits<float>::infinity();
  int32_t word = INT32_MAX;
#pragma unroll
  for (int p = 0; p < kHeldPacks; ++p)
#pragma unroll
    for (int k = 0; k < W; ++k) {
      const int j = first + p * kStep + k;
      v[p][k] = j < used ? v[p][k] + bias[p * kStep + k] : -std::numeric_limits<float>::infinity();
      if (v[p][k] > best) best = v[p][k], word = j;
    }
  best_of_block(best, word, values, words);
  float own = 0;
#pragma unroll
  for (int p = 0; p < kHeldPacks; ++p)
#pragma unroll
    for (int k = 0; k < W; ++k) own += v[p][k] = math::exp_negative(v[p][k] - best);
  // block_sum's first barrier is behind every reading of `values`.
  const float sum = block_sum(own, values);
  const int32_t target = targets[m];
  if (threadIdx.x == 0) {
    r.lse[m] = best + ::log(sum), r.best[m] = word;
    r.target[m] = target >= 0 && target < used ? l[target] + b[target] : 0.0f;
  }
  if (!dlogits) return;
  T* to = dlogits + m * s.room + first;
  const float share = target == -1 ? 0.0f : 1.0f / sum;
#pragma unroll
  for (int p = 0; p < kHeldPacks; ++p) {
    if (first + p * kStep >= room) break;
#pragma unroll
    for (int k = 0; k < W; ++k) v[p][k] = v[p][k] * share - (first + p * kStep + k == target ? 1.0f : 0.0f);
    store<W>(to + p * kStep, v[p]);
  }
}

template <class A>
__global__ void __launch_bounds__(1024)
    vocabulary_finish_kernel(VocabularyRows<A> r, const int32_t* targets, int64_t rows, int64_t words, A* losses,
                             A* loss, A* sums) {
  __shared__ double shared[32];
  double total = 0, count = 0, right = 0;
  for (int64_t m = threadIdx.x; m < rows; m += 1024) {
    const bool counts = targets[m] != -1, valid = targets[m] >= 0 && targets[m] < words;
    const A one = !counts ? A(0) : valid ? r.lse[m] - r.target[m] : std::numeric_limits<A>::quiet_NaN();
    losses[m] = one;
    total += one, count += counts, right += counts && r.best[m] == targets[m];
  }
  total = block_sum(total, shared), count = block_sum(count, shared), right = block_sum(right, shared);
  if (threadIdx.x != 0) return;
  *loss = static_cast<A>(count > 0 ? total / count : 0);
  sums[0] = static_cast<A>(total), sums[1] = static_cast<A>(count), sums[2] = static_cast<A>(right);
}

}  // namespace

template <class A, class T>
void vocabulary_rows(const VocabularyShape& s, const A* logits, const A* b, const int32_t* targets,
                     const VocabularyRows<A>& r, T* dlogits, Stream stream) {
  if (s.rows == 0) return;
  const auto run = [&](auto width) {
    launch("vocabulary_loss/rows", vocabulary_rows_kernel<A, T, decltype(width)::value>, {s.rows, kRowThreads},
           stream, s, logits, b, targets, r, dlogits);
  };
  if constexpr (std::is_same_v<A, float>) {
    if (s.room % 4 == 0 && aligned16(logits, dlogits) && s.room <= kHeldPacks * 4 * kRowThreads &&
        s.room > kRowThreads)
      return launch("vocabulary_loss/rows", vocabulary_held_rows_kernel<T>, {s.rows, kRowThreads}, stream, s,
                    logits, b, targets, r, dlogits);
  }
  if (s.room % 4 == 0 && aligned16(logits, dlogits)) run(std::integral_constant<int, 16 / sizeof(A)>{});
  else run(std::integral_constant<int, 1>{});
}

template <class A>
void vocabulary_finish(const VocabularyRows<A>& r, const int32_t* targets, int64_t rows, int64_t words, A* losses,
                       A* loss, A* sums, Stream stream) {
  launch("vocabulary_loss", vocabulary_finish_kernel<A>, {1, 1024}, stream, r, targets, rows, words, losses, loss,
         sums);
}

template <class A, class T>
void vocabulary_scale(const A* x, const A* dloss, const A* sums, int64_t n, T* y, Stream stream) {
  for_each("vocabulary_loss/gradient", n, stream, [=] __device__(int64_t i) {
    y[i] = static_cast<T>(x[i] * (*dloss / (sums[1] > A(1) ? sums[1] : A(1))));
  });
}

#define INSTANTIATE(A, T)                                                                   \
  template void vocabulary_rows(const VocabularyShape&, const A*, const A*, const int32_t*, \
                                const VocabularyRows<A>&, T*, Stream);                      \
  template void vocabulary_scale(const A*, const A*, const A*, int64_t, T*, Stream);
INSTANTIATE(float, float)
INSTANTIATE(float, bfloat16)
INSTANTIATE(double, double)
#undef INSTANTIATE
template void vocabulary_finish(const VocabularyRows<float>&, const int32_t*, int64_t, int64_t, float*, float*,
                                float*, Stream);
template void vocabulary_finish(const VocabularyRows<double>&, const int32_t*, int64_t, int64_t, double*, double*,
                                double*, Stream);

}  // namespace glia::cuda
