// Kernels of vocabulary_loss.cpp. R rows of logits; of a row's `room` columns the first V are words, the others only make rows aligned.
// A is float, or double.
#pragma once
#include <cstdint>

#include "engine/core/bfloat16.h"
#include "engine/device/stream.h"

namespace glia {

// What is kept of each row.
template <class A> struct VocabularyRows {
  A *lse, *target;  // [M] log Σ exp(l), the target's logit
  int32_t* best;    // [M] the first word that has the largest logit
};

struct VocabularyShape {
  int64_t rows, words, room;
};

namespace cpu {
// logits [R, room] without bias, b [V] → r [R]; dlogits [R, room] = softmax − [word is the target], 0 in rows without a target and
// beyond V; nullptr: not wanted
template <class A, class T>
void vocabulary_rows(const VocabularyShape& s, const A* logits, const A* b, const int32_t* targets,
                     const VocabularyRows<A>& r, T* dlogits);
// losses [M] =, loss [1] =, sums [3] = from all rows
template <class A>
void vocabulary_finish(const VocabularyRows<A>& r, const int32_t* targets, int64_t rows, int64_t words, A* losses,
                       A* loss, A* sums);
// y [n] = x · dloss / rows with a target
template <class A, class T> void vocabulary_scale(const A* x, const A* dloss, const A* sums, int64_t n, T* y);
}  // namespace cpu

namespace cuda {
// The same of logits that have their bias, and are −∞ beyond V.
template <class A, class T>
void vocabulary_rows(const VocabularyShape& s, const A* logits, const int32_t* targets, const VocabularyRows<A>& r,
                     T* dlogits, const CudaHandles& cuda);
template <class A>
void vocabulary_finish(const VocabularyRows<A>& r, const int32_t* targets, int64_t rows, int64_t words, A* losses,
                       A* loss, A* sums, Stream stream);
template <class A, class T>
void vocabulary_scale(const A* x, const A* dloss, const A* sums, int64_t n, T* y, Stream stream);
}  // namespace cuda

}  // namespace glia
