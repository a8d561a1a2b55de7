// Counting on the device, for evaluation: nothing here waits, and nothing has a gradient.
#pragma once
#include "engine/ops/sequences/sequences.h"

namespace glia {

// How much of each expert each class uses. Adds to sums, float64 [2, C, E + 1]: first over all rows that belong to
// a sequence (only its first key_lengths rows where given), then over the sequences' first rows;
//     sums[., c, e] += Σ gates of expert e,   sums[., c, E] += number of rows,   of the sequences labelled c.
// Gates are rounded to 2^-24, which makes the sums exact and so independent of order and device.
//     gates [T, K] float32 or float64, experts int32 [T, K] (−1: nobody), labels int32 [B] (outside [0, C): skipped)
void accumulate_utilisation(const Tensor& gates, const Tensor& experts, const Tensor& labels,
                            const Sequences& sequences, const Tensor& sums);

// counts[label, argmax of the row] += 1; the first of equal logits wins.     logits [B, C], labels int32 [B],
// counts float64 [C, C]
void accumulate_confusion(const Tensor& logits, const Tensor& labels, const Tensor& counts);

// y[m] = table[index[m]], −1 where index[m] = −1.     table int32 [N, K], index int32 [M] → int32 [M, K]
Tensor gather_index_rows(const Tensor& table, const Tensor& index);

}  // namespace glia
