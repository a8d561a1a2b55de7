// x [rows, n] row-major; lse [rows] in the accumulation type.
#pragma once
#include <cstdint>

#include "engine/core/bfloat16.h"
#include "engine/device/stream.h"

namespace glia {

namespace cpu {
template <class T> void softmax(const T* x, T* y, int64_t rows, int64_t n);
template <class T> void softmax_gradient(const T* y, const T* dy, T* dx, int64_t rows, int64_t n);
template <class T> void log_softmax(const T* x, T* y, int64_t rows, int64_t n);
template <class T> void log_softmax_gradient(const T* y, const T* dy, T* dx, int64_t rows, int64_t n);
// y may be nullptr.
template <class T> void logsumexp(const T* x, T* y, Accumulator<T>* lse, int64_t rows, int64_t n);
// dx = scale · dy[r] · softmax(x)[r]; labels, where given, subtract 1 at the label (cross-entropy) and dy is one
// number.
template <class T, class D>
void logsumexp_gradient(const T* x, const Accumulator<T>* lse, const D* dy, const int32_t* labels,
                        Accumulator<T> scale, T* dx, int64_t rows, int64_t n);
// loss = mean over rows of lse[r] − x[r, labels[r]]; NaN for a label outside [0, n).
template <class T>
void cross_entropy(const T* x, const int32_t* labels, Accumulator<T>* lse, Accumulator<T>* loss, int64_t rows,
                   int64_t n);
}  // namespace cpu

namespace cuda {
template <class T> void softmax(const T* x, T* y, int64_t rows, int64_t n, Stream stream);
template <class T> void softmax_gradient(const T* y, const T* dy, T* dx, int64_t rows, int64_t n, Stream stream);
template <class T> void log_softmax(const T* x, T* y, int64_t rows, int64_t n, Stream stream);
template <class T>
void log_softmax_gradient(const T* y, const T* dy, T* dx, int64_t rows, int64_t n, Stream stream);
template <class T> void logsumexp(const T* x, T* y, Accumulator<T>* lse, int64_t rows, int64_t n, Stream stream);
template <class T, class D>
void logsumexp_gradient(const T* x, const Accumulator<T>* lse, const D* dy, const int32_t* labels,
                        Accumulator<T> scale, T* dx, int64_t rows, int64_t n, Stream stream);
// losses [rows] is scratch.
template <class T>
void cross_entropy(const T* x, const int32_t* labels, Accumulator<T>* lse, Accumulator<T>* losses,
                   Accumulator<T>* loss, int64_t rows, int64_t n, Stream stream);
}  // namespace cuda

}  // namespace glia
