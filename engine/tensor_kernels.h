// Kernels below the ops: conversion, fill, accumulation, finiteness. n elements each.
#pragma once
#include "engine/device/stream.h"

namespace glia {

// Tensors that are added on load.
constexpr int kMostTerms = 4;
template <class T> struct Terms {
  const T* term[kMostTerms];
  int count;
};

namespace cpu {
template <class T> void sum_of(const Terms<T>& terms, T* y, int64_t n);
template <class From, class To> void cast(const From* x, To* y, int64_t n);
template <class T> void accumulate(T* sum, const T* term, int64_t n);  // +=
template <class T> void fill(T* x, double value, int64_t n);
template <class T> bool all_finite(const T* x, int64_t n);
}  // namespace cpu

namespace cuda {
template <class T> void sum_of(const Terms<T>& terms, T* y, int64_t n, Stream stream);
template <class From, class To> void cast(const From* x, To* y, int64_t n, Stream stream);
template <class T> void accumulate(T* sum, const T* term, int64_t n, Stream stream);
template <class T> void fill(T* x, double value, int64_t n, Stream stream);
template <class T>
void count_not_finite(const T* x, int* count, int64_t n, Stream stream);  // count is set to 0 first
}  // namespace cuda

}  // namespace glia
