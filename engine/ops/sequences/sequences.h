// Packed sequences: B sequences of different lengths lie end to end in the rows of a [T, …] tensor. T is a
// capacity: rows from offsets[B] on belong to no sequence ("the tail"), so that batches of nearly equal size can
// share buffers and graphs.
#pragma once
#include <vector>

#include "engine/autograd.h"

namespace glia {

struct Sequences {
  Tensor offsets;      // int32 [B + 1]; sequence b is rows offsets[b] … offsets[b + 1] − 1
  Tensor sequence_of;  // int32 [T]; −1 in the tail
  Tensor first_rows;   // int32 [B]; the CLS rows, offsets[b], or −1 where a batch ends in sequences of no rows
  Tensor
      key_lengths;  // int32 [B], or undefined: the padded layout's number of real tokens; keys beyond it are masked
  int64_t count = 0;       // B
  int64_t tokens = 0;      // T
  int64_t max_length = 0;  // an upper bound, known on the host
};

// From lengths on the host; capacity 0 means exactly Σ lengths.
Sequences make_sequences(Context& context, const std::vector<int32_t>& lengths, int64_t capacity = 0,
                         const std::vector<int32_t>& key_lengths = {});

// Mean over the rows of each sequence, without its first row when skip_first (a sequence of one row then gives 0);
// only the first key_lengths rows count where given.     x [T, H] → [B, H]
Var sequence_mean(const Var& x, const Sequences& sequences, bool skip_first);
// y[t] = x[sequence_of[t]], 0 in the tail.      x [B, H] → [T, H]
Var sequence_broadcast(const Var& x, const Sequences& sequences);
// y[b] = x[first_rows[b]]: gather_rows with a gradient that needs no sort.     x [T, ..] → [B, ..]
Var first_rows(const Var& x, const Sequences& sequences);

}  // namespace glia
