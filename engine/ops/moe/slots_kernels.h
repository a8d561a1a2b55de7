// Kernels of slots.cpp; each element's sum has a fixed order, the same on CPU and CUDA. All write (=).
#pragma once
#include <cmath>
#include <cstdint>

#include "engine/core/bfloat16.h"
#include "engine/device/stream.h"

namespace glia {

struct SlotShape {
  int64_t sequences, tokens, slots, hidden;  // B, T, S, H
  const int32_t *offsets, *sequence_of;      // [B + 1], [T]
};

// Of sequence b, column s.     x, y [T, S]
template <class A> GLIA_HD void softmax_of_column(const SlotShape& k, const A* x, A* y, int64_t b, int64_t s) {
  const int64_t begin = k.offsets[b], end = k.offsets[b + 1];
  if (begin == end) return;
  A most = x[begin * k.slots + s], sum = 0;
  for (int64_t t = begin; t < end; ++t) most = x[t * k.slots + s] > most ? x[t * k.slots + s] : most;
  for (int64_t t = begin; t < end; ++t) sum += y[t * k.slots + s] = exp(x[t * k.slots + s] - most);
  for (int64_t t = begin; t < end; ++t) y[t * k.slots + s] /= sum;
}

// dx = y (dy − Σ y dy)
template <class A>
GLIA_HD void softmax_gradient_of_column(const SlotShape& k, const A* y, const A* dy, A* dx, int64_t b, int64_t s) {
  A dot = 0;
  for (int64_t t = k.offsets[b]; t < k.offsets[b + 1]; ++t) dot += y[t * k.slots + s] * dy[t * k.slots + s];
  for (int64_t t = k.offsets[b]; t < k.offsets[b + 1]; ++t)
    dx[t * k.slots + s] = y[t * k.slots + s] * (dy[t * k.slots + s] - dot);
}

// Element h of slot i = b·S + s.
template <class T>
GLIA_HD T blended(const SlotShape& k, const T* x, const Accumulator<T>* w, int64_t i, int64_t h) {
  Accumulator<T> sum = 0;
  for (int64_t t = k.offsets[i / k.slots]; t < k.offsets[i / k.slots + 1]; ++t)
    sum += w[t * k.slots + i % k.slots] * static_cast<Accumulator<T>>(x[t * k.hidden + h]);
  return static_cast<T>(sum);
}

// Element h of row t.
template <class T> GLIA_HD T spread(const SlotShape& k, const T* z, const Accumulator<T>* w, int64_t t, int64_t h) {
  Accumulator<T> sum = 0;
  if (k.sequence_of[t] >= 0)
    for (int64_t s = 0; s < k.slots; ++s)
      sum += w[t * k.slots + s] * static_cast<Accumulator<T>>(z[(k.sequence_of[t] * k.slots + s) * k.hidden + h]);
  return static_cast<T>(sum);
}

namespace cpu {
template <class A> void sequence_softmax(const SlotShape& k, const A* x, A* y);
template <class A> void sequence_softmax_gradient(const SlotShape& k, const A* y, const A* dy, A* dx);
template <class T> void blend_rows(const SlotShape& k, const T* x, const Accumulator<T>* w, T* z);
template <class T> void spread_slots(const SlotShape& k, const T* z, const Accumulator<T>* w, T* y);
// d[t, s] = ⟨x[t], z[b·S + s]⟩, 0 in the tail: the gradient of both by their weights.
template <class T> void slot_products(const SlotShape& k, const T* x, const T* z, Accumulator<T>* d);
void slot_experts(int64_t rows, int64_t slots, int64_t of_each, int32_t* experts);
}  // namespace cpu
namespace cuda {
template <class A> void sequence_softmax(const SlotShape& k, const A* x, A* y, Stream stream);
template <class A>
void sequence_softmax_gradient(const SlotShape& k, const A* y, const A* dy, A* dx, Stream stream);
template <class T> void blend_rows(const SlotShape& k, const T* x, const Accumulator<T>* w, T* z, Stream stream);
template <class T> void spread_slots(const SlotShape& k, const T* z, const Accumulator<T>* w, T* y, Stream stream);
template <class T> void slot_products(const SlotShape& k, const T* x, const T* z, Accumulator<T>* d, Stream stream);
void slot_experts(int64_t rows, int64_t slots, int64_t of_each, int32_t* experts, Stream stream);
}  // namespace cuda

}  // namespace glia
