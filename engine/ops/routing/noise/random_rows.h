// A router's random numbers, a row for each token: jitter, noise on logits, a hash of token ids. Constants: nothing
// flows back.
#pragma once
#include "engine/core/random/rng.h"
#include "engine/tensor.h"

namespace glia {

enum class RandomKind { kUniform, kNormal };  // [0, 1) with 24 bits; N(0, 1)

// Row t of a micro-batch draws what it draws in the whole batch (RandomKey::first_row).     → [rows, columns]
Tensor random_rows(Context& context, int64_t rows, int64_t columns, DType dtype, RandomKind kind,
                   const RandomKey& key);
// Row t is a function of ids[t] and the key alone.     ids int32 [T] → [T, columns]
Tensor random_rows_of(const Tensor& ids, int64_t columns, DType dtype, RandomKind kind, const RandomKey& key);

}  // namespace glia
