#include "engine/core/row_order.h"

#include <algorithm>
#include <vector>

namespace glia {

void order_rows(const int32_t* index, int64_t count, int64_t n, const RowOrderView& out) {
  // A counting sort: next[i] is where the next entry of row i goes.
  std::vector<int32_t> next(static_cast<size_t>(n), 0);
  const auto inside = [=](int32_t i) { return i >= 0 && i < n; };
  for (int64_t m = 0; m < count; ++m)
    if (inside(index[m])) ++next[static_cast<size_t>(index[m])];
  std::fill_n(out.touched, touched_words(n), 0);
  int32_t at = 0, pieces = 0;
  for (int32_t row = 0; row < n; ++row) {
    const int32_t begin = at, end = begin + next[static_cast<size_t>(row)];
    if (begin < end) out.touched[row / 32] |= static_cast<int32_t>(uint32_t{1} << row % 32);
    while (at < end) {
      out.pieces[2 * pieces] = row, out.pieces[2 * pieces + 1] = at;
      ++pieces;
      at = std::min(end, static_cast<int32_t>((at / kPieceEntries + 1) * kPieceEntries));
    }
    next[static_cast<size_t>(row)] = begin;
  }
  out.pieces[2 * pieces] = -1, out.pieces[2 * pieces + 1] = at;
  *out.count = pieces;
  for (int64_t m = 0; m < count; ++m)
    if (inside(index[m])) out.entries[next[static_cast<size_t>(index[m])]++] = static_cast<int32_t>(m);
}

}  // namespace glia
