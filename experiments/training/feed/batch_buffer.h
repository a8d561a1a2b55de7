// A batch on its way to the device: everything that a step reads lies in one int32 buffer at fixed places, so that
// one copy moves it and a captured graph finds it.
#pragma once
#include "data/batches/batching.h"
#include "moe/model.h"

namespace glia {

class BatchBuffer {
 public:
  // Room for `tokens` rows (the tail included) and `sequences`; no sequence is longer than max_length. `padded`:
  // the batches hold padding tokens, and attention's keys end at the real lengths. With a vocabulary's size the
  // order of the ids comes along, which is for training. `masking`: of the plans that fill it; with a rate above 0 there
  // is room for the masked rows and their targets. `parts`: the batches are parts of larger ones. `borders`: sequences
  // have a border. `order_parts`: above 1, the order is that of the distinct ids of so many parts, and there is one of the own ids.
  BatchBuffer(Context& context, int64_t tokens, int64_t sequences, int64_t max_length, bool padded,
              int64_t vocabulary = 0, const Masking& masking = {}, bool parts = false, bool borders = false,
              int64_t order_parts = 1);

  int64_t ints() const { return ints_; }  // of the buffer and of a slot in host memory
  // A slot's view for BatchPlan::fill.
  BatchView view(int32_t* slot) const;
  // Of a buffer for parts: what precedes this one in the whole batch, and its share of the whole's loss.
  void set_part(int32_t* slot, int64_t tokens_before, int64_t read_before, double share);
  // Completes a filled slot (rows from view.tokens to `tokens` belong to no sequence) and copies it to the device,
  // in the stream's order. The slot may be written to again when the copy is done: after synchronize().
  // `read`: the room for masked rows; below 0: what the masking wants for so many tokens. `sequences`: those behind the
  // view's have no rows and the label −1; below 0: there are none.
  void upload(int32_t* slot, const BatchView& view, int64_t tokens, int64_t read = -1, int64_t sequences = -1);
  // Views of the buffer: T = tokens, B = sequences.
  // `words`: the room of each part for its distinct ids, where the order is of several.
  Batch batch(int64_t tokens, int64_t sequences, int64_t read = -1, int64_t words = 0) const;

 private:
  static constexpr int64_t kShares = 32;  // more than a loss has parts (engine/ops/loss/loss_sum.h)
  Tensor part(int64_t begin, int64_t count) const { return device_.rows(begin, begin + count); }

  Context& context_;
  int64_t tokens_, sequences_, max_length_, vocabulary_, order_parts_;
  bool padded_, parts_, borders_;
  Masking masking_;
  // Where each part begins. The last one has room for many more pieces than there are, and only these are copied.
  int64_t rows_before_, share_, labels_, border_, offsets_, lengths_, first_, read_, targets_, ids_, sequence_of_,
      entries_, own_entries_, touched_, count_, own_count_, own_pieces_, pieces_, ints_;
  Tensor device_;  // int32 [ints_]
  Tensor shares_;  // float32 [kShares], the same number in all, where batches are parts
};

// Room for masked rows of a rank's part grows in such steps: a captured step for each.
constexpr int64_t kReadBucket = 64;
// Likewise for the distinct ids of a rank's part.
constexpr int64_t kWordBucket = 256;

inline int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// The room that each part has for its distinct ids where the largest has `most`; 0: the order is the part's own.
inline int64_t word_room(int64_t most) { return round_up(most, kWordBucket); }

}  // namespace glia
