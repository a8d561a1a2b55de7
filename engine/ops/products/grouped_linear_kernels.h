// The plain grouped products, in every floating type and for groups of any size. Letters as in matmul.h: x [N, I],
// w [E, O, I], y [N, O]; `offsets` int32 [E + 1] lies where the data lies, group e is rows offsets[e] … offsets[e + 1]
// − 1. Sums in the accumulator's type, in a fixed order. C: T, or float for bfloat16.
#pragma once
#include <cstdint>

#include "engine/core/bfloat16.h"
#include "engine/device/stream.h"

namespace glia {

struct GroupedShape {
  int64_t rows, groups, outputs, inputs;
  const int32_t* offsets;
};

namespace cpu {
// y[r] = w[e] x[r] + b[e], bias [E, O] or nullptr; rows from offsets[E] on: 0
template <class T> void grouped_forward(const GroupedShape& s, const T* x, const T* w, const T* bias, T* y);
// dx[r] = dy[r] w[e]; rows from offsets[E] on: 0
template <class T> void grouped_data_gradient(const GroupedShape& s, const T* dy, const T* w, T* dx);
// dw[e] = Σ_r dy[r] x[r]ᵀ (=, empty group: 0)
template <class T, class C> void grouped_weight_gradient(const GroupedShape& s, const T* dy, const T* x, C* dw);
}  // namespace cpu

// The same without a look at the offsets from the host: a step that multiplies so can be captured in a graph.
namespace cuda {
template <class T>
void grouped_forward(const GroupedShape& s, const T* x, const T* w, const T* bias, T* y, Stream stream);
template <class T> void grouped_data_gradient(const GroupedShape& s, const T* dy, const T* w, T* dx, Stream stream);
template <class T, class C>
void grouped_weight_gradient(const GroupedShape& s, const T* dy, const T* x, C* dw, Stream stream);
// What grouped_products.h leaves as it was: rows from offsets[E] on = 0.     m [N, columns] bfloat16, columns a multiple of 8
void clear_behind_groups(const GroupedShape& s, int64_t columns, void* m, Stream stream);
}  // namespace cuda

}  // namespace glia
