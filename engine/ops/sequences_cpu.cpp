#include "engine/core/parallel.h"
#include "engine/ops/sequences_functors.h"

namespace glia::cpu {
namespace {

// y[i, j] = f(i, j) for i < rows, j < columns.
template <class T, class F>
void fill_rows(int64_t rows, int64_t columns, T* y, F&& f) {
  parallel_for(rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      for (int64_t j = 0; j < columns; ++j) y[i * columns + j] = f(i, j);
  });
}

}  // namespace

template <class T>
void sequence_mean(const SequenceMean& s, const T* x, T* y) {
  fill_rows(s.sequences, s.hidden, y, [&](int64_t b, int64_t j) { return mean_element(s, x, b, j); });
}
template <class T>
void sequence_mean_gradient(const SequenceMean& s, const T* dy, T* dx) {
  fill_rows(s.tokens, s.hidden, dx, [&](int64_t t, int64_t j) { return mean_gradient_element(s, dy, t, j); });
}
template <class T>
void sequence_broadcast(const SequenceMean& s, const T* x, T* y) {
  fill_rows(s.tokens, s.hidden, y, [&](int64_t t, int64_t j) { return broadcast_element(s, x, t, j); });
}
template <class T>
void sequence_sum(const SequenceMean& s, const T* x, T* y) {
  fill_rows(s.sequences, s.hidden, y, [&](int64_t b, int64_t j) { return sum_element(s, x, b, j); });
}

#define INSTANTIATE(T)                                                      \
  template void sequence_mean(const SequenceMean&, const T*, T*);           \
  template void sequence_mean_gradient(const SequenceMean&, const T*, T*);  \
  template void sequence_broadcast(const SequenceMean&, const T*, T*);      \
  template void sequence_sum(const SequenceMean&, const T*, T*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

}  // namespace glia::cpu
