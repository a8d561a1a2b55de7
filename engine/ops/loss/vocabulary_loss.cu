#include <algorithm>
#include <limits>

#include "engine/core/math.h"
#include "engine/device/cuda/launch.cuh"
#include "engine/device/cuda/limits.cuh"
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
    vocabulary_rows_kernel(VocabularyShape s, const A* logits, const int32_t* targets, VocabularyRows<A> r,
                           T* dlogits) {
  __shared__ A values[32];
  __shared__ int32_t words[32];
  const int64_t m = blockIdx.x;
  const A* l = logits + m * s.room;
  const auto each = [&](auto&& f) {
    for (int64_t j = threadIdx.x * W; j < s.room; j += kRowThreads * W) {
      A v[W];
      load<W>(l + j, v);
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
    r.target[m] = target >= 0 && target < s.words ? l[target] : A(0);
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

constexpr int kHeldPacks = 8, kHeldWidth = 4;  // of four logits a thread: rows of up to 32,768
constexpr int kHeldRoom = kHeldPacks * kHeldWidth * kRowThreads;

// The same with rows in registers: each logit is read once, and its exponential is made once, e^(l − largest), which the gradient
// takes divided by the sum. One block a multiprocessor takes row after row; where shared memory has room for one (`kAhead`), the
// next is on its way meanwhile. Each thread fetches what it reads itself, so that no barrier is needed.
template <class T, bool kAhead>
__global__ void __launch_bounds__(kRowThreads, 1)
    vocabulary_held_rows_kernel(VocabularyShape s, const float* logits, const int32_t* targets,
                                VocabularyRows<float> r, T* dlogits) {
  constexpr int W = kHeldWidth, kStep = kRowThreads * W, kWarps = kRowThreads / 32;
  constexpr float kLowest = -std::numeric_limits<float>::infinity();
  extern __shared__ __align__(16) float next_row[];
  __shared__ __align__(16) float largest[kWarps], sums[kWarps];
  __shared__ int32_t words[kWarps];
  const int first = threadIdx.x * W, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int used = static_cast<int>(s.words), room = static_cast<int>(s.room), rows = static_cast<int>(s.rows);
  float* const next = next_row + first;
  const auto fetch = [&](int m) {
    const float* from = logits + m * s.room + first;
#pragma unroll
    for (int p = 0; p < kHeldPacks; ++p)
      if (first + p * kStep < room)
        copy_async(reinterpret_cast<Pack<float, W>*>(next + p * kStep),
                   reinterpret_cast<const Pack<float, W>*>(from + p * kStep));
    commit_copies();
  };
  if constexpr (kAhead) {
    fetch(blockIdx.x);
#pragma unroll
    for (int p = 0; p < kHeldPacks; ++p)
      if (first + p * kStep >= room)
        for (int k = 0; k < W; ++k) next[p * kStep + k] = kLowest;
  }
  for (int m = blockIdx.x; m < rows; m += gridDim.x) {
    float v[kHeldPacks][W], best = kLowest;
    if constexpr (kAhead) wait_for_copies<0>();
#pragma unroll
    for (int p = 0; p < kHeldPacks; ++p) {
      if constexpr (kAhead) {
        load<W>(next + p * kStep, v[p]);
      } else {
#pragma unroll
        for (int k = 0; k < W; ++k) v[p][k] = kLowest;
        if (first + p * kStep < room) load<W>(logits + m * s.room + first + p * kStep, v[p]);
      }
    }
#pragma unroll
    for (int p = 0; p < kHeldPacks; ++p)
#pragma unroll
      for (int k = 0; k < W; ++k) best = fmaxf(best, v[p][k]);
    if (kAhead && m + static_cast<int>(gridDim.x) < rows) fetch(m + gridDim.x);

    best = warp_max(best);
    if (lane == 0) largest[warp] = best;
    __syncthreads();
    best = warp_max(largest[lane]);
    float own = 0;
    int32_t word = INT32_MAX;
#pragma unroll
    for (int p = 0; p < kHeldPacks; ++p)
#pragma unroll
      for (int k = 0; k < W; ++k) {
        if (v[p][k] == best) word = min(word, first + p * kStep + k);
        own += v[p][k] = math::exp_negative(v[p][k] - best);
      }
    own = warp_sum(own);
    word = __reduce_min_sync(0xffffffffu, word);
    if (lane == 0) sums[warp] = own, words[warp] = word;
    __syncthreads();
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; w += 4) {
      const float4 four = *reinterpret_cast<const float4*>(sums + w);
      sum += four.x, sum += four.y, sum += four.z, sum += four.w;
    }

    const int32_t target = targets[m];
    const bool is_word = target >= 0 && target < used;
    const float share = target == -1 ? 0.0f : 1.0f / sum;
    if (dlogits) {
      T* to = dlogits + m * s.room + first;
#pragma unroll
      for (int p = 0; p < kHeldPacks; ++p) {
        if (first + p * kStep >= room) break;
#pragma unroll
        for (int k = 0; k < W; ++k) v[p][k] *= share;
        store<W>(to + p * kStep, v[p]);
      }
    }
    // The thread that wrote the target's place writes it once more: 32 comparisons a thread less.
    if (is_word && threadIdx.x == target / W % kRowThreads) {
      const float l = logits[m * s.room + target];
      r.target[m] = l;
      if (dlogits) dlogits[m * s.room + target] = static_cast<T>(math::exp_negative(l - best) * share - 1.0f);
    }
    if (warp == 0) {
      word = __reduce_min_sync(0xffffffffu, words[lane]);
      if (lane == 0) {
        r.lse[m] = best + ::log(sum), r.best[m] = word;
        if (!is_word) r.target[m] = 0.0f;
      }
    }
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
void vocabulary_rows(const VocabularyShape& s, const A* logits, const int32_t* targets, const VocabularyRows<A>& r,
                     T* dlogits, const CudaHandles& cuda) {
  if (s.rows == 0) return;
  const bool aligned = s.room % kHeldWidth == 0 && aligned16(logits, dlogits);
  if constexpr (std::is_same_v<A, float>) {
    if (aligned && s.room <= kHeldRoom && s.room > kRowThreads) {
      constexpr size_t kBytes = kHeldRoom * sizeof(float);
      const bool ahead = shared_limit() >= static_cast<int>(kBytes);
      const auto kernel = ahead ? vocabulary_held_rows_kernel<T, true> : vocabulary_held_rows_kernel<T, false>;
      if (ahead) CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
      const int64_t blocks = std::min<int64_t>(s.rows, cuda.multiprocessors);
      return launch("vocabulary_loss/rows", kernel, {blocks, kRowThreads, ahead ? kBytes : 0}, cuda.stream, s,
                    logits, targets, r, dlogits);
    }
  }
  const auto run = [&](auto width) {
    launch("vocabulary_loss/rows", vocabulary_rows_kernel<A, T, decltype(width)::value>, {s.rows, kRowThreads},
           cuda.stream, s, logits, targets, r, dlogits);
  };
  if (aligned) run(std::integral_constant<int, 16 / sizeof(A)>{});
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

#define INSTANTIATE(A, T)                                                                                       \
  template void vocabulary_rows(const VocabularyShape&, const A*, const int32_t*, const VocabularyRows<A>&, T*, \
                                const CudaHandles&);                                                            \
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
