// A corpus as a trainer and an evaluation read it.
#pragma once

#include "data/batches/pieces.h"
#include "experiments/pretraining/options.h"
#include "experiments/tasks/task.h"
#include "experiments/training/feed/batch_buffer.h"
#include "experiments/training/feed/batch_feed.h"
#include "moe/model.h"

namespace glia {

// How training text is packed: exactly `rows` masked words in each batch, a multiple of 64, so that a step is the same graph every
// time; or every token's next one. For masked words a vocabulary without [MASK] is an error.
PieceOptions training_pieces(const PretrainOptions& options, const Corpus& corpus);
// Held-out text: one epoch, fixed borders and masks, the same for every run and seed.
PieceOptions held_out_pieces(const PretrainOptions& options, const Corpus& corpus);

// The corpus must outlive the feed.
BatchFeed text_feed(const PretrainOptions& options, const Corpus& corpus);

// The task's loss and accuracy over all held-out words that are to be predicted; the batches stay on the device. Ranks take turns at them,
// and all have the whole result, with the bits of one rank.
class HeldOut {
 public:
  HeldOut(Context& context, const PretrainOptions& options, const Corpus& corpus);
  struct Measured {
    double loss = 0, accuracy = 0;
    results::NamedValues values;  // these two and what else the task's meter says
  };
  Measured measure(const Model& model) const;

 private:
  struct Part {
    BatchBuffer buffer;
    int64_t tokens;
  };
  const TaskRow& task_;
  bool joint_;               // topics beside the words
  std::vector<Part> parts_;  // this rank's
  int64_t sequences_ = 0, batches_ = 0, asked_ = 0,
          words_ = 0;  // of next words: tokens, and those that begin a word
};

}  // namespace glia
