// One AdamW step over flat buffers, with clipping by the global norm; nothing waits for the device.
#pragma once
#include <span>
#include <vector>

#include "engine/ops/optimiser/adamw_kernels.h"
#include "engine/ops/rows/rows.h"

namespace glia {

// A long table of which a step touches few rows: the others wait, and are brought up to date before somebody reads
// them and every kRowPeriod steps. The bits are those of updating every row in every step.
struct AdamWRows {
  int64_t count = 0, width = 0;  // [V, H], elements [s, s + V·H) of p; H a multiple of 8; 0: there is none
  Tensor stamps;                 // int32 [V], zero before the first step
  Tensor history;                // p's dtype [kRowPeriod, 4]
  Tensor clock;                  // int32 [1], zero before the first step
  Tensor numbers;                // int32 [kRowPeriod] where moments are bfloat16, else undefined
};

// Elements [begin, end) with a rate and a decay of their own; those below `decayed` decay. All multiples of 64.
struct AdamWGroup {
  int64_t begin = 0, decayed = 0, end = 0;
  double rate_scale = 1, weight_decay = 0;
};

// Elements [begin, end), whose moments are elements [at, at + end − begin) of m and v. All multiples of 64.
struct AdamWSpan {
  int64_t begin = 0, end = 0, at = 0;
};

struct AdamWBuffers {
  Tensor p;             // [n], float32 or float64, n a multiple of 64
  Tensor m, v;          // [n], or as long as the spans where there are such; p's dtype, or bfloat16 beside float32
  Tensor low;           // [s] bfloat16, or undefined (s = 0): gradients of elements [0, s), s a multiple of 64
  Tensor g;             // [n − s] gradients of the others, p's dtype
  Tensor copy;          // [n] bfloat16, or undefined
  int64_t decayed = 0;  // elements [0, decayed) decay; a multiple of 64
  Tensor partial;       // float64 [norm_chunks(s) + norm_chunks(n − s)], scratch
  Tensor factors;       // float64 [adamw_factor::kCount], zero before the first step
  Tensor ticket;        // int32 [1], zero before the first step
  AdamWRows rows;
  // Behind the elements that the options are for, without gaps up to n; the norm is that of all. One launch more for each.
  std::vector<AdamWGroup> groups;
  // What is updated here, where several ranks share it out: one behind the other; where rows wait one has their whole table. Empty:
  // everything. The norm is that of all gradients either way, so that a span has the bits that it has among the whole.
  std::vector<AdamWSpan> spans;
  // float64 [1], or undefined: the squared norm where whoever divides the gradients has taken it, with adamw_squares().
  Tensor squares;
};

inline int64_t norm_chunks(int64_t n) { return (n + kNormChunk - 1) / kNormChunk; }

// Reads the step number from Context::step_pointer(), so a replayed CUDA graph advances its own schedule. A
// gradient whose norm is not finite leaves p, m and v alone and is counted in factors[kSkipped].
// `touched` (RowOrder): the rows of the table that have a gradient; those of the others count as 0 and are not
// read. A touched row's gradient must stay where it is until the row is up to date. Undefined: all rows have one,
// and none waits.
void adamw_step(const AdamWBuffers& b, const AdamWOptions& options, const Tensor& touched = {});
// b.squares += the squares of the gradients of elements [begin, end) of each range, multiples of 64.
void adamw_squares(const AdamWBuffers& b, std::span<const AdamWSpan> ranges);
// Brings the rows of `order` up to date, or all rows where it is undefined.
void adamw_catch_up(const AdamWBuffers& b, const AdamWOptions& options, const RowOrder& order);

}  // namespace glia
