// A rank's part of every batch. Each rank prepares the whole batch on its host and keeps its part: it then knows, without a
// word to anyone, what precedes its rows, what share of the loss is its, and how many rows and sequences the largest parts
// have, so that all ranks launch the same kernels and capture the same steps.
#pragma once
#include "experiments/training/feed/batch_feed.h"

namespace glia {

// Where a batch is cut: before sequence B r / R; before the first sequence that begins at token T r / R or behind; or before
// the one that begins nearest to it, each part having a sequence at least where there are as many as ranks.
enum class CutParts { kSequences, kFirstTokens, kTokens };

// By tokens, so that parts cost the same: the largest one sets what all launch. Exact sums, whose bits are those of their parts, cut
// batches of a fixed number of sequences by sequences, others (masked words) by first tokens. More ranks than sequences are an
// error.
// `ranks_order`: the order is that of the distinct ids of all parts, each filled up to what the largest one's number of them is rounded
// to (feed.order_parts; engine/ops/rows: input_embedding).
BatchFeed part_of(const BatchFeed& whole, int rank, int ranks, int64_t bucket, bool exact = false,
                  bool ranks_order = false);

// How many sequences all ranks launch for where this part is one of theirs, of which there can be `most`. In steps, with a captured
// step for each: of hundreds with a label the largest parts differ by a few, of thousands in which words are masked by tens.
int64_t launched_sequences(const BatchView& part, int64_t most);

}  // namespace glia
