// n elements each; A kernel computes in float for float and bfloat16, in double for double.
#pragma once
#include "engine/core/bfloat16.h"
#include "engine/device/stream.h"
#include "engine/ops/elementwise/elementwise_functors.h"

namespace glia {

namespace cpu {
template <class F, class T> void unary(F f, const T* x, T* y, int64_t n);
// dx = dy · f'(saved); saved is x, or y where F::kFromOutput.
template <class F, class T> void unary_gradient(F f, const T* saved, const T* dy, T* dx, int64_t n);
template <class F, class T> void binary(F f, const T* a, const T* b, T* y, int64_t n);
// da = dy · ∂f/∂a, db = dy · ∂f/∂b; either may be nullptr.
template <class F, class T> void binary_gradient(F f, const T* a, const T* b, const T* dy, T* da, T* db, int64_t n);
}  // namespace cpu

namespace cuda {
template <class F, class T> void unary(F f, const T* x, T* y, int64_t n, Stream stream);
template <class F, class T> void unary_gradient(F f, const T* saved, const T* dy, T* dx, int64_t n, Stream stream);
template <class F, class T> void binary(F f, const T* a, const T* b, T* y, int64_t n, Stream stream);
template <class F, class T>
void binary_gradient(F f, const T* a, const T* b, const T* dy, T* da, T* db, int64_t n, Stream stream);
}  // namespace cuda

}  // namespace glia
