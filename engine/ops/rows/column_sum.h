// Sums over rows: the bias gradients. Rows are cut into chunks whose number depends on the shape only, each chunk
// is summed in row order, the chunks in chunk order: the same bits every time, without atomics.
#pragma once
#include "engine/core/bfloat16.h"
#include "engine/device/stream.h"

namespace glia {

class Tensor;

// out[j] = Σ_r x[r, j].                        x [R, N], out [N] of x's dtype or its accumulation type
void column_sum(const Tensor& x, const Tensor& out);
// out[e, j] = Σ_{r in group e} x[r, j].        x [R, N], offsets int32 [E + 1] on the device, out [E, N]
void grouped_column_sum(const Tensor& x, const Tensor& offsets, const Tensor& out);

namespace cpu {
// offsets nullptr: one group of all rows.
template <class T, class Out>
void column_sum(const T* x, const int32_t* offsets, Out* out, int64_t rows, int64_t n, int64_t groups);
}  // namespace cpu

namespace cuda {
constexpr int kColumnSumChunks = 64;
// partial: float or double [groups, kColumnSumChunks, n]
template <class T, class Out>
void column_sum(const T* x, const int32_t* offsets, Accumulator<T>* partial, Out* out, int64_t rows, int64_t n,
                int64_t groups, Stream stream);
}  // namespace cuda

}  // namespace glia
