// Kernels of running_mean.cpp. offsets [B + 1], borders [B] or nullptr.
#pragma once
#include <cstdint>

#include "engine/core/bfloat16.h"
#include "engine/device/stream.h"

namespace glia {

struct RunningShape {
  int64_t sequences, columns;
  const int32_t *offsets, *borders;
  bool mean;  // else the row itself is held
};

// The sequence's rows, and the last one that others are told of.
struct RunningRows {
  int64_t begin, end, last;
};
GLIA_HD RunningRows running_rows(const RunningShape& s, int64_t b) {
  const int64_t begin = s.offsets[b], end = s.offsets[b + 1];
  const int64_t border = s.borders && s.borders[b] > 0 ? begin + s.borders[b] : end;
  return {begin, end, (border < end ? border : end) - 1};
}

// Column n of sequence b, row after row: a row's sum has one order, whoever adds it up and however many rows follow.
template <class T> GLIA_HD void run_column(const RunningShape& s, int64_t b, int64_t n, const T* x, T* y) {
  using A = Accumulator<T>;
  const RunningRows rows = running_rows(s, b);
  A sum = 0;
  T held = T(0.0f);
  for (int64_t t = rows.begin; t < rows.end; ++t) {
    const int64_t at = t * s.columns + n;
    if (t <= rows.last) {
      sum += static_cast<A>(x[at]);
      held = s.mean ? static_cast<T>(sum / static_cast<A>(t - rows.begin + 1)) : x[at];
    }
    y[at] = held;
  }
}

// Held: dx_s = dy_s, and of the last row that counts Σ_{t ≥ s} dy_t. Mean: dx_s = Σ_{t ≥ s} dy_t / rows that y_t is a mean of.
template <class T> GLIA_HD void run_column_back(const RunningShape& s, int64_t b, int64_t n, const T* dy, T* dx) {
  using A = Accumulator<T>;
  const RunningRows rows = running_rows(s, b);
  A behind = 0;
  for (int64_t t = rows.end - 1; t >= rows.begin; --t) {
    const int64_t at = t * s.columns + n;
    const A own = static_cast<A>(dy[at]);
    if (t > rows.last) {
      behind += own;
      dx[at] = T(0.0f);
      continue;
    }
    const A here = t == rows.last ? own + behind : own;
    if (s.mean) behind = (t == rows.last ? A(0) : behind) + here / static_cast<A>(t - rows.begin + 1);
    dx[at] = static_cast<T>(s.mean ? behind : here);
  }
}

// Of what is 0: 1 from the last row before the border on.
template <class T> GLIA_HD void mark_column(const RunningShape& s, int64_t b, int64_t n, T* y) {
  const RunningRows rows = running_rows(s, b);
  const int64_t begin = s.borders[b] > 0 ? rows.last : rows.end;
  for (int64_t t = begin; t < rows.end; ++t) y[t * s.columns + n] = T(1.0f);
}

namespace cpu {
template <class T> void running(const RunningShape& s, const T* x, T* y);             // y [T, N] =, the tail stays
template <class T> void running_gradient(const RunningShape& s, const T* dy, T* dx);  // dx [T, N] =, likewise
template <class T>
void mark_behind(const RunningShape& s, T* y);  // y [T, N]: the rows behind are set, the others stay
}  // namespace cpu
namespace cuda {
template <class T> void running(const RunningShape& s, const T* x, T* y, Stream stream);
template <class T> void running_gradient(const RunningShape& s, const T* dy, T* dx, Stream stream);
template <class T> void mark_behind(const RunningShape& s, T* y, Stream stream);
}  // namespace cuda

}  // namespace glia
