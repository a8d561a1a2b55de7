// Kernels of keep.cpp. T rows, E columns; sequence_of [T], −1 in the tail; offsets [B + 1].
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "engine/core/host_device.h"
#include "engine/device/stream.h"

namespace glia {

struct KeepShape {
  int64_t rows, columns;
  const int32_t *sequence_of, *offsets;  // of keep_top_rows
  double share;
};

struct LargestRule {
  int64_t rows, columns, least, most;
};

struct RankRule {
  int64_t rows, columns;
  const int32_t *sequence_of, *real;  // real: offsets[B] of each rank
  double share;
  int64_t beyond, ranks;
};

// Whether column e's value in row t is among the largest of its sequence.
template <class A> GLIA_HD bool kept_in_sequence(const KeepShape& s, const A* x, int64_t t, int64_t e) {
  const int32_t b = s.sequence_of[t];
  if (b < 0) return false;
  const int32_t begin = s.offsets[b], end = s.offsets[b + 1];
  const auto floor = static_cast<int32_t>((end - begin) * s.share + 1e-9);  // 6 · (1/3) is 2
  const int32_t places = floor > 1 ? floor : 1;
  const A mine = x[t * s.columns + e];
  int32_t before = 0;
  for (int32_t r = begin; r < end && before < places; ++r) {
    const A other = x[r * s.columns + e];
    before += other > mine || (other == mine && r < t);
  }
  return before < places;
}

// y [N] of one row.
template <class A> GLIA_HD void keep_largest_row(const LargestRule& r, const A* x, const A* u, A* y) {
  int64_t places = r.least;
  if (u) {
    places += static_cast<int64_t>(*u * static_cast<A>(r.most - r.least + 1));
    if (places > r.most) places = r.most;
  }
  for (int64_t n = 0; n < r.columns; ++n) {
    int64_t before = 0;
    for (int64_t m = 0; m < r.columns; ++m) before += x[m] > x[n] || (x[m] == x[n] && m < n);
    y[n] = before < places ? A(0) : -A(INFINITY);
  }
}

// Bits that sort as the numbers do.
template <class A> struct SortableBits;
template <> struct SortableBits<float> { using Word = uint32_t; };
template <> struct SortableBits<double> { using Word = uint64_t; };
template <class A> GLIA_HD typename SortableBits<A>::Word sortable(A x) {
  using Word = typename SortableBits<A>::Word;
  constexpr Word kSign = Word(1) << (sizeof(A) * 8 - 1);
  const Word bits = std::bit_cast<Word>(x);
  return bits & kSign ? ~bits : bits | kSign;
}
template <class A> GLIA_HD A unsorted(typename SortableBits<A>::Word bits) {
  using Word = typename SortableBits<A>::Word;
  constexpr Word kSign = Word(1) << (sizeof(A) * 8 - 1);
  return std::bit_cast<A>(bits & kSign ? bits ^ kSign : ~bits);
}

// Which of the real rows' numbers, counted from the largest, 0 first.
GLIA_HD int64_t wanted_rank(const RankRule& r) {
  int64_t real = 0;
  for (int64_t i = 0; i < r.ranks; ++i) real += r.real[i];
  int64_t rank = static_cast<int64_t>(static_cast<double>(real) * r.share + 1e-9) + r.beyond;
  rank = rank < real ? rank : real;
  return rank > 1 ? rank - 1 : 0;
}

namespace cpu {
template <class A> void keep_top_rows(const KeepShape& s, const A* x, A* y);  // [T, E] =
template <class A> void keep_at_least(int64_t n, int64_t columns, const A* x, const A* bound, A* y);
template <class A> void keep_largest(const LargestRule& r, const A* x, const A* u, A* y);  // u [R] or nullptr
template <class A> void column_rank(const RankRule& r, const A* x, A* y);                  // [E] =
}  // namespace cpu
namespace cuda {
template <class A> void keep_top_rows(const KeepShape& s, const A* x, A* y, Stream stream);
template <class A> void keep_at_least(int64_t n, int64_t columns, const A* x, const A* bound, A* y, Stream stream);
template <class A> void keep_largest(const LargestRule& r, const A* x, const A* u, A* y, Stream stream);
template <class A> void column_rank(const RankRule& r, const A* x, A* y, Stream stream);
}  // namespace cuda

}  // namespace glia
