// Kernels of rotary.cpp.
#pragma once
#include <cmath>
#include <cstdint>

#include "engine/core/bfloat16.h"
#include "engine/device/stream.h"

namespace glia {

struct RotaryShape {
  int64_t rows, heads, half;  // T, A, D / 2
  const int32_t *sequence_of, *offsets;
  int64_t before;
  double sign;  // −1: back
};

// sin and cos of row t's angle in pair i. Far places turn many times over: the angle is made in double, and only what is left of it
// beyond whole turns is rounded to A.
template <class A> struct Turn { A sin, cos; };
template <class A> GLIA_HD Turn<A> turn_of(const RotaryShape& s, int64_t t, int64_t i) {
  constexpr double kLogBase = 9.210340371976184, kTurn = 6.283185307179586;  // ln 10000, 2π
  const double place = static_cast<double>(t - s.offsets[s.sequence_of[t]] + s.before);
  const double turns = place * exp(-kLogBase * static_cast<double>(i) / static_cast<double>(s.half)) / kTurn;
  const A angle = static_cast<A>(s.sign * kTurn * (turns - floor(turns + 0.5)));
  return {std::sin(angle), std::cos(angle)};
}

// Pair i of row t in every head: q and k, then v.     x, y [T, 3H]
template <class T> GLIA_HD void rotate_pair(const RotaryShape& s, int64_t t, int64_t i, const T* x, T* y) {
  using A = Accumulator<T>;
  const int64_t width = 2 * s.half, hidden = s.heads * width;
  const bool tail = s.sequence_of[t] < 0;
  const Turn<A> turn = tail ? Turn<A>{} : turn_of<A>(s, t, i);
  for (int64_t head = 0; head < 3 * s.heads; ++head) {
    const int64_t first = t * 3 * hidden + head * width + i, second = first + s.half;
    if (tail) {
      y[first] = y[second] = T(0.0f);
    } else if (head >= 2 * s.heads) {
      y[first] = x[first], y[second] = x[second];
    } else {
      const A a = static_cast<A>(x[first]), b = static_cast<A>(x[second]);
      y[first] = static_cast<T>(a * turn.cos - b * turn.sin);
      y[second] = static_cast<T>(a * turn.sin + b * turn.cos);
    }
  }
}

namespace cpu {
template <class T> void rotate(const RotaryShape& s, const T* x, T* y);  // y [T, 3H] =
}  // namespace cpu
namespace cuda {
template <class T> void rotate(const RotaryShape& s, const T* x, T* y, Stream stream);
}  // namespace cuda

}  // namespace glia
