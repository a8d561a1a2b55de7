// One training step, whole or in parts (micro-batches, and the batches of ranks): forward and backward of each part, its
// gradients added to those of the parts before; then the gradients are completed, added over the ranks, the parameters
// updated, and routers with state told what the whole step routed.
//
// What is computed: a part's loss counts by its share of the rows that the whole batch's loss is a mean of, so that the
// task's gradient is the whole batch's. Of ranks, losses on routing are the whole batch's too: what they are functions of
// is summed over the ranks within forward (engine/ops/ranks). Micro-batches run one after another, so that nothing can be
// summed over them before backward: there it is Σ share · balance(part), and not balance(whole). Sums over parts are in
// another order than within one batch: the bits differ from those of another number of parts.
#pragma once
#include "engine/comm/aside.h"
#include "engine/ops/ranks/rows_later.h"
#include "experiments/training/feed/batch_buffer.h"
#include "nn/optimizer.h"

namespace glia {

// Which part of a step, and of how many.
struct StepPart {
  int index = 0, count = 1;
  bool first() const { return index == 0; }
  bool last() const { return index + 1 == count; }
};

// Bfloat16 gradients are summed over ranks in pieces. Piece l + 1 is layer l's feed-forward network and the attention of layer l + 1;
// piece 0 is the attention of the first layer; the last piece has what lies behind all layers too, the head's. A sum that leaves the
// multiprocessors alone begins as soon as its piece is complete; another one when backward has come to the kernel of layer l's attention,
// whose many small blocks share a device better than products do, which fill all multiprocessors once: with one of them taken they take
// twice as long. Where they all lie, but for experts that ranks divide, if nothing else lies between them; else empty. `complete`: and if all
// have a gradient now.
ElementRange low_range_of_piece(int piece, const ParameterSet& parameters, bool complete = true);

class TrainingStep {
 public:
  TrainingStep(Model& model, AdamW& optimiser) : model_(model), optimiser_(optimiser) {}

  // To be called for each part in order; the last one updates. Nothing waits for the device. `batch.share` is wanted where
  // there are several parts or ranks, and read where it is given; batch.sequences.max_length is the same on all ranks.
  void run(const Batch& batch, StepPart part);

  // float32 [1 + P] (float64 in float64): the loss and its parts of the last whole step, in fixed memory; undefined
  // before the first part.
  const Tensor& losses() const { return losses_; }
  const std::vector<std::string>& part_names() const { return part_names_; }

 private:
  void add_losses(const Model::Output& out, const Batch& batch, StepPart part);
  // A piece's gradients of products, while backward goes on; what is left is reduced at the end, in one group.
  void reduce_piece(int piece, AsideReducer& aside);
  void gather_divided();
  void reduce_rest(int64_t longest);
  // Nobody has a gradient of positions behind the longest sequence.
  void leave_out_positions(int64_t longest);
  Batch with_others_weights(Batch batch);
  Batch with_reduction(Batch batch);  // in whose backward pieces are summed, and words are left for the end

  Model& model_;
  AdamW& optimiser_;
  StepRoutings routings_;           // of the parts so far
  std::vector<ElementRange> done_;  // of the gradients: those that this step has summed over the ranks
  RowsLater words_;
  Tensor losses_;
  std::vector<std::string> part_names_;
};

}  // namespace glia
