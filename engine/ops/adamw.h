// One AdamW step over flat buffers, with clipping by the global norm; nothing waits for the device.
#pragma once
#include "engine/ops/adamw_kernels.h"
#include "engine/tensor.h"

namespace glia {

struct AdamWBuffers {
  Tensor p, m, v;       // [n], float32 or float64, n a multiple of 64
  Tensor low;           // [s] bfloat16, or undefined (s = 0): gradients of elements [0, s), s a multiple of 64
  Tensor g;             // [n − s] gradients of the others, p's dtype
  Tensor copy;          // [n] bfloat16, or undefined
  int64_t decayed = 0;  // elements [0, decayed) decay; a multiple of 64
  Tensor partial;       // float64 [norm_chunks(s) + norm_chunks(n − s)], scratch
  Tensor factors;       // float64 [adamw_factor::kCount], zero before the first step
};

inline int64_t norm_chunks(int64_t n) { return (n + kNormChunk - 1) / kNormChunk; }

// Reads the step number from Context::step_pointer(), so a replayed CUDA graph advances its own schedule. A
// gradient whose norm is not finite leaves p, m and v alone and is counted in factors[kSkipped].
void adamw_step(const AdamWBuffers& b, const AdamWOptions& options);

}  // namespace glia
