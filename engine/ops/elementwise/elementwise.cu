#include "engine/ops/elementwise/elementwise_kernels.h"
#include "engine/ops/rows/packs.cuh"

namespace glia::cuda {
namespace {

template <class F, class T> struct Unary {
  F f;
  const T* x;
  T* y;
  template <int W> __device__ void operator()(Width<W>, int64_t i) const {
    Accumulator<T> v[W];
    load<W>(x + i, v);
#pragma unroll
    for (int k = 0; k < W; ++k) v[k] = f.value(v[k]);
    store<W>(y + i, v);
  }
};

template <class F, class T> struct UnaryGradient {
  F f;
  const T *saved, *dy;
  T* dx;
  template <int W> __device__ void operator()(Width<W>, int64_t i) const {
    Accumulator<T> s[W], d[W];
    load<W>(saved + i, s);
    load<W>(dy + i, d);
#pragma unroll
    for (int k = 0; k < W; ++k) d[k] *= f.derivative(s[k]);
    store<W>(dx + i, d);
  }
};

template <class F, class T> struct Binary {
  const T *a, *b;
  T* y;
  template <int W> __device__ void operator()(Width<W>, int64_t i) const {
    Accumulator<T> p[W], q[W];
    load<W>(a + i, p);
    load<W>(b + i, q);
#pragma unroll
    for (int k = 0; k < W; ++k) p[k] = F::value(p[k], q[k]);
    store<W>(y + i, p);
  }
};

template <class F, class T> struct BinaryGradient {
  const T *a, *b, *dy;
  T *da, *db;
  template <int W> __device__ void operator()(Width<W>, int64_t i) const {
    Accumulator<T> p[W], q[W], d[W], g[W];
    load<W>(a + i, p);
    load<W>(b + i, q);
    load<W>(dy + i, d);
    if (da) {
#pragma unroll
      for (int k = 0; k < W; ++k) g[k] = d[k] * F::by_a(p[k], q[k]);
      store<W>(da + i, g);
    }
    if (db) {
#pragma unroll
      for (int k = 0; k < W; ++k) g[k] = d[k] * F::by_b(p[k], q[k]);
      store<W>(db + i, g);
    }
  }
};

}  // namespace

template <class F, class T> void unary(F f, const T* x, T* y, int64_t n, Stream stream) {
  for_each_pack<kPackWidth<T>>("unary", n, aligned16(x, y), stream, Unary<F, T>{f, x, y});
}

template <class F, class T> void unary_gradient(F f, const T* saved, const T* dy, T* dx, int64_t n, Stream stream) {
  for_each_pack<kPackWidth<T>>("unary_gradient", n, aligned16(saved, dy, dx), stream,
                               UnaryGradient<F, T>{f, saved, dy, dx});
}

template <class F, class T> void binary(F, const T* a, const T* b, T* y, int64_t n, Stream stream) {
  for_each_pack<kPackWidth<T>>("binary", n, aligned16(a, b, y), stream, Binary<F, T>{a, b, y});
}

template <class F, class T>
void binary_gradient(F, const T* a, const T* b, const T* dy, T* da, T* db, int64_t n, Stream stream) {
  for_each_pack<kPackWidth<T>>("binary_gradient", n, aligned16(a, b, dy, da, db), stream,
                               BinaryGradient<F, T>{a, b, dy, da, db});
}

#define LINEAR(F)                                                  \
  template void unary(F, const float*, float*, int64_t, Stream);   \
  template void unary(F, const double*, double*, int64_t, Stream); \
  template void unary(F, const bfloat16*, bfloat16*, int64_t, Stream);
#define UNARY_FOR(F, T) template void unary_gradient(F, const T*, const T*, T*, int64_t, Stream);
#define UNARY(F) LINEAR(F) UNARY_FOR(F, float) UNARY_FOR(F, double) UNARY_FOR(F, bfloat16)
#define BINARY_FOR(F, T)                                            \
  template void binary(F, const T*, const T*, T*, int64_t, Stream); \
  template void binary_gradient(F, const T*, const T*, const T*, T*, T*, int64_t, Stream);
#define BINARY(F) BINARY_FOR(F, float) BINARY_FOR(F, double) BINARY_FOR(F, bfloat16)
GLIA_LINEAR_FUNCTORS(LINEAR)
GLIA_UNARY_FUNCTORS(UNARY)
GLIA_BINARY_FUNCTORS(BINARY)

}  // namespace glia::cuda
