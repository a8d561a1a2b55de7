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
// dx = dy[r] · softmax(x)[r]. Labels, where given, subtract 1 at the label (cross-entropy), and leave 0 in rows with the label −1;
// dy is one number then, and scale another that it is multiplied by.
template <class T, class D>
void logsumexp_gradient(const T* x, const Accumulator<T>* lse, const D* dy, const int32_t* labels,
                        const Accumulator<T>* scale, T* dx, int64_t rows, int64_t n);
// loss = mean of lse[r] − x[r, labels[r]] over the rows whose label is not −1; NaN for another label outside [0, n). scale = 1 /
// these rows; both are 0 where there are none.
template <class T>
void cross_entropy(const T* x, const int32_t* labels, Accumulator<T>* lse, Accumulator<T>* loss,
                   Accumulator<T>* scale, int64_t rows, int64_t n);
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
                        const Accumulator<T>* scale, T* dx, int64_t rows, int64_t n, Stream stream);
// losses [rows] is scratch.
template <class T>
void cross_entropy(const T* x, const int32_t* labels, Accumulator<T>* lse, Accumulator<T>* losses,
                   Accumulator<T>* loss, Accumulator<T>* scale, int64_t rows, int64_t n, Stream stream);
}  // namespace cuda

}  // namespace glia
