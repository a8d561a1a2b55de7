// Whole rows picked by index. Every gradient adds in ascending row order: no float atomics, the same bits every
// time. Index −1 stands for no row.
#pragma once
#include "engine/core/row_order.h"
#include "engine/ops/sequences/sequences.h"

namespace glia {

class RowsLater;

// Which rows a list of T indices picks, on the device (engine/core/row_order.h). Undefined tensors: not known.
struct RowOrder {
  Tensor entries;  // int32 [T]
  Tensor pieces;   // int32 [room, 2]
  Tensor count;    // int32 [1]
  Tensor touched;  // int32 [touched_words]
  // Where ranks gather the sums of their own rows: the order of this rank's indices, whose i-th distinct one, ascending, is row i of
  // [own.rows, ..]. `entries` is then of those of all ranks, one after the other.
  struct Own {
    Tensor entries, pieces, count;
    int64_t rows = 0;
  };
  Own own = {};
  bool defined() const { return entries.defined(); }
};
// Of indices into n rows.
RowOrder order_rows(Context& context, const std::vector<int32_t>& index, int64_t n);

// y[m] = x[index[m]], or 0 where index[m] = −1.     x [N, H], index int32 [M] → [M, H]
Var gather_rows(const Var& x, const Tensor& index);
// y[n] = Σ_{m: index[m] = n} x[m].                  x [M, H], index int32 [M] → [rows, H]
Var scatter_rows(const Var& x, const Tensor& index, int64_t rows);

// y[t] = table[ids[t]] in `dtype`; the gradient has the table's dtype.     table [V, H], ids int32 [T] → [T, H]
Var embedding(const Var& table, const Tensor& ids, DType dtype);
// y[t] = table[p] in row p of a sequence (NaN where p >= P), 0 in the tail. The gradient needs no sort: it adds the
// p-th row of every sequence, in the sequences' order.     table [P, H] → [T, H]
Var position_embedding(const Var& table, const Sequences& sequences, DType dtype);

// A transformer's input in one pass: y = embedding(words, ids) + position_embedding(positions + types[0]), rounded
// once, of the weights' copies in `dtype` where the tables have such. `order`, where defined, is that of `ids` and
// saves the gradient its sort. With `touched`, too, the gradient of `words` is written in the rows that the order
// picks and nowhere else, and *touched is set to order.touched when it is: for a parameter with a gradient buffer
// whose reader knows. Where the table has a gradient from another use already (a tied head's, which comes first in
// backward), all of this one is added to it and *touched is left alone. With an order of several ranks (RowOrder::own)
// the gradient of `words` is that of all ranks: what travels are each rank's sums of the rows that its tokens have, in `gathered`; with
// `later` when whoever has it asks, and the gradient is written behind that.
//     words [V, H], positions [P, H], types [K, H], ids int32 [T] (−1 in the tail) → [T, H]
struct EmbeddingTables {
  Var words, positions, types;
  DType gathered = DType::kFloat32;
};
Var input_embedding(const EmbeddingTables& tables, const Tensor& ids, const Sequences& sequences, DType dtype,
                    const RowOrder& order = {}, Tensor* touched = nullptr, RowsLater* later = nullptr);
Var input_embedding_reference(const EmbeddingTables& tables, const Tensor& ids, const Sequences& sequences,
                              DType dtype);

}  // namespace glia
