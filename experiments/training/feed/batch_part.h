// A rank's part of every batch. Each rank prepares the whole batch on its host and keeps its part: it then knows, without a
// word to anyone, what precedes its rows, what share of the loss is its, and how many rows the largest part has, so that all
// ranks launch the same kernels and capture the same steps.
#pragma once
#include "experiments/training/feed/batch_feed.h"

namespace glia {

// Batches of a fixed number of sequences are divided by sequences, [B r / R, B (r + 1) / R); those whose sequences vary (masked
// words) by tokens: a sequence belongs to the part in which its first token lies, and a part is filled up with sequences
// without a token. More ranks than sequences are an error.
// `ranks_order`: the order of the ids is that of all parts, each filled up to what the largest one's tokens are rounded to
// (feed.order_parts; engine/ops/rows: input_embedding).
BatchFeed part_of(const BatchFeed& whole, int rank, int ranks, int64_t bucket, bool ranks_order = false);

}  // namespace glia
