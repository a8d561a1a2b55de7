// Rows of h elements picked by index; sums of rows by index in a fixed order. An index outside [0, n) other than −1
// gives NaN.
#pragma once
#include <cstdint>

#include "engine/core/bfloat16.h"
#include "engine/core/row_order.h"
#include "engine/device/stream.h"

// Instantiates templates for every pair of types that rows are stored and read in.
#define GLIA_FOR_STORED_AND_READ(INSTANTIATE) \
  INSTANTIATE(float, float)                   \
  INSTANTIATE(double, double)                 \
  INSTANTIATE(bfloat16, bfloat16)             \
  INSTANTIATE(float, bfloat16)                \
  INSTANTIATE(bfloat16, float)

namespace glia {

// Tables [.., h] and where their rows go: words by id, positions by place in a sequence, the first type everywhere
// in one.
template <class T> struct InputTables {
  const T *words, *positions, *types;
  const int32_t *ids, *sequence_of, *offsets;
  int64_t n_words, n_positions;
};

namespace cpu {
// y[m] = x[index[m]].       x [n, h], index [rows], y [rows, h]
template <class T, class Out>
void gather_rows(const T* x, const int32_t* index, Out* y, int64_t n, int64_t rows, int64_t h);
// y[i] = Σ_{m: index[m] = i} x[m], m ascending.       x [rows, h], index [rows], y [n, h]
template <class T, class Out>
void scatter_rows(const T* x, const int32_t* index, Out* y, int64_t n, int64_t rows, int64_t h);
// y[row] = Σ x[entries of the row] for the rows of `order`'s pieces; others keep what they hold.       x [.., h], y
// [n, h]
template <class T, class Out> void scatter_ordered(const T* x, const RowOrderView& order, Out* y, int64_t h);
// y[t] = words[ids[t]] + (positions[p] + types[0]); 0 in place of either part where there is no id or no sequence.
template <class T, class Out> void input_rows(const InputTables<T>& tables, Out* y, int64_t tokens, int64_t h);
// dtypes[0] = Σ_{p < rows} dpositions[p], the other rows 0.       dpositions [.., h], dtypes [types, h]
template <class T> void type_sums(const T* dpositions, T* dtypes, int64_t rows, int64_t types, int64_t h);
// y[t] = table[t − offsets[b]] in the rows of sequence b, 0 in the tail.       table [n, h], y [tokens, h]
template <class T, class Out>
void position_rows(const T* table, const int32_t* sequence_of, const int32_t* offsets, Out* y, int64_t n,
                   int64_t tokens, int64_t h);
// dtable[p] = Σ_b dy[offsets[b] + p] over the sequences longer than p, 0 from p = longest on.       dtable [n, h]
template <class T, class Out>
void position_sums(const T* dy, const int32_t* offsets, Out* dtable, int64_t n, int64_t sequences, int64_t longest,
                   int64_t h);
}  // namespace cpu

namespace cuda {
template <class T, class Out>
void gather_rows(const T* x, const int32_t* index, Out* y, int64_t n, int64_t rows, int64_t h, Stream stream);
template <class T, class Out>
void position_rows(const T* table, const int32_t* sequence_of, const int32_t* offsets, Out* y, int64_t n,
                   int64_t tokens, int64_t h, Stream stream);
template <class T, class Out>
void position_sums(const T* dy, const int32_t* offsets, Out* dtable, int64_t n, int64_t sequences, int64_t longest,
                   int64_t h, Stream stream);

// order: 0 … rows − 1 sorted by index (stably; indices outside [0, n) come last), keys: the indices in that order.
// workspace [sort_workspace(rows, n)] bytes.
int64_t sort_workspace(int64_t rows, int64_t n);
void sort_by_index(const int32_t* index, int32_t* keys, int32_t* order, int64_t rows, int64_t n, void* workspace,
                   Stream stream);

// Sorted entries are added in chunks of kScatterChunk; a run of equal keys that crosses chunks leaves partial sums,
// which a second kernel adds in order.       partial [ceil(rows / kScatterChunk), 2, h]
constexpr int64_t kScatterChunk = kPieceEntries;
template <class T, class Out>
void scatter_rows(const T* x, const int32_t* keys, const int32_t* order, Accumulator<T>* partial, Out* y, int64_t n,
                  int64_t rows, int64_t h, Stream stream);
// The same sums by the host's order, a thread a piece and pack; at most most_pieces pieces. partial as above.
template <class T, class Out>
void scatter_ordered(const T* x, const RowOrderView& order, int64_t most_pieces, Accumulator<T>* partial, Out* y,
                     int64_t h, Stream stream);
template <class T, class Out>
void input_rows(const InputTables<T>& tables, Out* y, int64_t tokens, int64_t h, Stream stream);
template <class T>
void type_sums(const T* dpositions, T* dtypes, int64_t rows, int64_t types, int64_t h, Stream stream);
}  // namespace cuda

}  // namespace glia
