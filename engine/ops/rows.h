// Whole rows picked by index. Every gradient adds in ascending row order: no float atomics, the same bits every time.
// Index −1 stands for no row.
#pragma once
#include "engine/ops/sequences.h"

namespace glia {

// y[m] = x[index[m]], or 0 where index[m] = −1.     x [N, H], index int32 [M] → [M, H]
Var gather_rows(const Var& x, const Tensor& index);
// y[n] = Σ_{m: index[m] = n} x[m].                  x [M, H], index int32 [M] → [rows, H]
Var scatter_rows(const Var& x, const Tensor& index, int64_t rows);

// y[t] = table[ids[t]] in `dtype`; the gradient has the table's dtype.     table [V, H], ids int32 [T] → [T, H]
Var embedding(const Var& table, const Tensor& ids, DType dtype);
// y[t] = table[p] in row p of a sequence (NaN where p >= P), 0 in the tail. The gradient needs no sort: it adds the p-th row of
// every sequence, in the sequences' order.     table [P, H] → [T, H]
Var position_embedding(const Var& table, const Sequences& sequences, DType dtype);

}  // namespace glia
