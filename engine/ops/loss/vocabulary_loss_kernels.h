// Kernels of vocabulary_loss.cpp. M rows, a part of n columns that begins at column `first` of V. A is float, or double.
#pragma once
#include <cstdint>

#include "engine/core/bfloat16.h"
#include "engine/device/stream.h"

namespace glia {

// Of each row over the columns seen so far: the largest logit and where it first stood, Σ exp(l − largest), the target's.
template <class A> struct VocabularyRows {
  A *largest, *sum, *target;  // [M]
  int32_t* best;              // [M]
};

namespace cpu {
// logits [M, n] without bias; b [n]. first = 0 begins anew.
template <class A>
void vocabulary_rows(const A* logits, const A* b, const int32_t* targets, int64_t rows, int64_t n, int64_t first,
                     const VocabularyRows<A>& r);
// lse [M] =, losses [M] =, loss [1] =, sums [3] = from the rows over all V columns
template <class A>
void vocabulary_finish(const VocabularyRows<A>& r, const int32_t* targets, int64_t rows, int64_t vocabulary, A* lse,
                       A* losses, A* loss, A* sums);
// dlogits [M, n] = (softmax − [column is the target]) · dloss / rows with a target; 0 in rows without one
template <class A, class T>
void vocabulary_gradient(const A* logits, const A* b, const int32_t* targets, const A* lse, const A* sums,
                         const A* dloss, int64_t rows, int64_t n, int64_t first, T* dlogits);
}  // namespace cpu

namespace cuda {
template <class A>
void vocabulary_rows(const A* logits, const A* b, const int32_t* targets, int64_t rows, int64_t n, int64_t first,
                     const VocabularyRows<A>& r, Stream stream);
template <class A>
void vocabulary_finish(const VocabularyRows<A>& r, const int32_t* targets, int64_t rows, int64_t vocabulary, A* lse,
                       A* losses, A* loss, A* sums, Stream stream);
template <class A, class T>
void vocabulary_gradient(const A* logits, const A* b, const int32_t* targets, const A* lse, const A* sums,
                         const A* dloss, int64_t rows, int64_t n, int64_t first, T* dlogits, Stream stream);
}  // namespace cuda

}  // namespace glia
