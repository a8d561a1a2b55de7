// The rows that a list of indices picks, in the rows' order. Made on the host, where the list is known in advance;
// it saves the device a sort, and tells which rows of a long table a batch touches.
#pragma once

#include <cstdint>

namespace glia {

// Entries of one row are cut at multiples of this place in the order: the sums that the device's own sort gives,
// bit for bit.
constexpr int64_t kPieceEntries = 32;

// In memory of the caller's.
struct RowOrderView {
  int32_t* entries = nullptr;  // [count]  places in the list by ascending index, equal ones in order; none of an
                               // index outside [0, n)
  int32_t* pieces =
      nullptr;  // [most_pieces][2]  {row, its first entry}, ascending; behind the last {−1, number of entries}
  int32_t* touched = nullptr;  // [touched_words]  bit row % 32 of word row / 32: whether the row is picked
  int32_t* count = nullptr;    // [1]  pieces, without the one behind the last
};

constexpr int64_t touched_words(int64_t n) { return (n + 31) / 32; }
// Of `count` indices, with the one behind the last.
constexpr int64_t most_pieces(int64_t count, int64_t n) {
  return (count < n ? count : n) + (count + kPieceEntries - 1) / kPieceEntries + 1;
}

void order_rows(const int32_t* index, int64_t count, int64_t n, const RowOrderView& out);

}  // namespace glia
