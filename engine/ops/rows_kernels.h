// Rows of h elements picked by index; sums of rows by index in a fixed order. An index outside [0, n) other than −1 gives NaN.
#pragma once
#include <cstdint>

#include "engine/core/bfloat16.h"
#include "engine/device/stream.h"

namespace glia {

namespace cpu {
// y[m] = x[index[m]].       x [n, h], index [rows], y [rows, h]
template <class T, class Out>
void gather_rows(const T* x, const int32_t* index, Out* y, int64_t n, int64_t rows, int64_t h);
// y[i] = Σ_{m: index[m] = i} x[m], m ascending.       x [rows, h], index [rows], y [n, h]
template <class T, class Out>
void scatter_rows(const T* x, const int32_t* index, Out* y, int64_t n, int64_t rows, int64_t h);
// y[t] = table[t − offsets[b]] in the rows of sequence b, 0 in the tail.       table [n, h], y [tokens, h]
template <class T, class Out>
void position_rows(const T* table, const int32_t* sequence_of, const int32_t* offsets, Out* y, int64_t n, int64_t tokens, int64_t h);
// dtable[p] = Σ_b dy[offsets[b] + p] over the sequences longer than p, 0 from p = longest on.       dtable [n, h]
template <class T, class Out>
void position_sums(const T* dy, const int32_t* offsets, Out* dtable, int64_t n, int64_t sequences, int64_t longest, int64_t h);
}  // namespace cpu

namespace cuda {
template <class T, class Out>
void gather_rows(const T* x, const int32_t* index, Out* y, int64_t n, int64_t rows, int64_t h, Stream stream);
template <class T, class Out>
void position_rows(const T* table, const int32_t* sequence_of, const int32_t* offsets, Out* y, int64_t n, int64_t tokens, int64_t h,
                   Stream stream);
template <class T, class Out>
void position_sums(const T* dy, const int32_t* offsets, Out* dtable, int64_t n, int64_t sequences, int64_t longest, int64_t h,
                   Stream stream);

// order: 0 … rows − 1 sorted by index (stably; indices outside [0, n) come last), keys: the indices in that order.
// workspace [sort_workspace(rows, n)] bytes.
int64_t sort_workspace(int64_t rows, int64_t n);
void sort_by_index(const int32_t* index, int32_t* keys, int32_t* order, int64_t rows, int64_t n, void* workspace,
                   Stream stream);

// Sorted entries are added in chunks of kScatterChunk; a run of equal keys that crosses chunks leaves partial sums, which a
// second kernel adds in order.       partial [ceil(rows / kScatterChunk), 2, h]
constexpr int64_t kScatterChunk = 32;
template <class T, class Out>
void scatter_rows(const T* x, const int32_t* keys, const int32_t* order, Accumulator<T>* partial, Out* y, int64_t n, int64_t rows,
                  int64_t h, Stream stream);
}  // namespace cuda

}  // namespace glia
