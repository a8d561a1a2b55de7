// What a training step has to do, by counting: the floor that a measured time stands beside.
#pragma once
#include "moe/model.h"

namespace glia {

struct StepWork {
  double tokens = 0;     // T, that every layer but the last sees
  double pairs = 0;      // Σ n² over sequences of n tokens, for attention
  double read = 0;       // rows that the head reads: B first rows, or masked ones
  double sequences = 0;  // B
};

// Floating-point operations of one training step's matrix products (a multiply and an add are 2; backward is twice
// forward). Only what has to be computed: real tokens, top-K experts, and in the last layer the rows that are read behind
// the attention, where `read_rows_only`. `outputs`: of the head for each of them, classes or words.
double step_flops(const ModelConfig& model, const StepWork& work, int64_t outputs, bool read_rows_only);

// Bytes that AdamW has to move in a step: weight, two moments and gradient in, the first three out, and the bfloat16 copy
// where there is one. The word table counts by the rows that T tokens can touch: the others wait.
// `moment`: bytes of one, 4, or 2 with --adam-state bfloat16.
double optimiser_bytes(const Model& model, double tokens, double moment);

// The largest copy's rate, read and write together, in GB/s.
double copy_ceiling_gb(Context& context);

}  // namespace glia
