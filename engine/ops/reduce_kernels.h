// x [outer, n, inner] → y [outer, inner]; one output element sums (or compares) its n inputs in order.
#pragma once
#include <cstdint>

#include "engine/core/bfloat16.h"
#include "engine/device/stream.h"

namespace glia {

struct ReduceShape {
  int64_t outer, n, inner;
};

namespace cpu {
template <class T> void sum(const ReduceShape& s, const T* x, double factor, T* y);                  // y = factor · Σ
template <class T> void sum_gradient(const ReduceShape& s, const T* dy, double factor, T* dx);       // dx = factor · dy
template <class T> void max(const ReduceShape& s, const T* x, T* y, int32_t* where);                 // where: first maximum
template <class T> void max_gradient(const ReduceShape& s, const T* dy, const int32_t* where, T* dx);
}  // namespace cpu

namespace cuda {
template <class T> void sum(const ReduceShape& s, const T* x, double factor, T* y, Stream stream);
template <class T> void sum_gradient(const ReduceShape& s, const T* dy, double factor, T* dx, Stream stream);
template <class T> void max(const ReduceShape& s, const T* x, T* y, int32_t* where, Stream stream);
template <class T> void max_gradient(const ReduceShape& s, const T* dy, const int32_t* where, T* dx, Stream stream);
}  // namespace cuda

}  // namespace glia
