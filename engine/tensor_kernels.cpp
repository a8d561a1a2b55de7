#include "engine/tensor_kernels.h"

#include <atomic>
#include <cmath>

#include "engine/core/bfloat16.h"
#include "engine/core/parallel.h"

namespace glia::cpu {

constexpr int64_t kGrain = 1 << 15;

template <class From, class To> void cast(const From* x, To* y, int64_t n) {
  parallel_for(n, kGrain, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) y[i] = static_cast<To>(static_cast<Accumulator<From>>(x[i]));
  });
}

template <class T> void accumulate(T* sum, const T* term, int64_t n) {
  using A = Accumulator<T>;
  parallel_for(n, kGrain, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) sum[i] = static_cast<T>(static_cast<A>(sum[i]) + static_cast<A>(term[i]));
  });
}

template <class T> void sum_of(const Terms<T>& terms, T* y, int64_t n) {
  using A = Accumulator<T>;
  parallel_for(n, kGrain, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      A sum = static_cast<A>(terms.term[0][i]);
      for (int k = 1; k < terms.count; ++k) sum += static_cast<A>(terms.term[k][i]);
      y[i] = static_cast<T>(sum);
    }
  });
}

template <class T> void fill(T* x, double value, int64_t n) {
  const T v = static_cast<T>(value);
  parallel_for(n, kGrain, [=](int64_t begin, int64_t end) { std::fill(x + begin, x + end, v); });
}

template <class T> bool all_finite(const T* x, int64_t n) {
  std::atomic<bool> finite{true};
  parallel_for(n, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      if (!std::isfinite(static_cast<Accumulator<T>>(x[i]))) finite = false;
  });
  return finite;
}

#define INSTANTIATE(T)                                \
  template void cast(const T*, float*, int64_t);      \
  template void cast(const T*, double*, int64_t);     \
  template void cast(const T*, bfloat16*, int64_t);   \
  template void accumulate(T*, const T*, int64_t);    \
  template void sum_of(const Terms<T>&, T*, int64_t); \
  template void fill(T*, double, int64_t);            \
  template bool all_finite(const T*, int64_t);
GLIA_FOR_FLOATING(INSTANTIATE)
template void fill(int32_t*, double, int64_t);
#undef INSTANTIATE

}  // namespace glia::cpu
