// Batches of a split: packed (no padding token exists) or padded to one length, in an order that depends only
// on (seed, epoch). All about a batch but its contents is known when the plan is made, so buffers are sized once.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "data/batches/masking.h"
#include "data/datasets/dataset.h"
#include "engine/core/row_order.h"

namespace glia {

enum class BatchLayout {
  kPacked,  // T = the sum of the real lengths
  kPadded   // T = B · padded_length; the pads are [PAD] tokens, real to everything but the keys of attention
};

// Where a rank's part stands in the whole batch, and the largest of the parts; zeros where a batch is whole.
struct PartOfBatch {
  int64_t tokens_before = 0, read_before = 0;  // rows, and those that are read: masked ones, or sequences
  int64_t all_tokens = 0, all_read = 0;
  int64_t most_tokens = 0, most_read = 0;  // of a part
  int64_t most_sequences = 0;              // likewise; 0: each part has as many as there is room for
  int64_t most_words = 0;  // distinct ids, of this batch's or an earlier one's; 0: the order is the part's own
};

// A batch in memory of the caller's (pinned, say). fill() sets `tokens` and `sequences`.
struct BatchView {
  int32_t* ids = nullptr;      // [T]
  int32_t* offsets = nullptr;  // [B+1]  sequence b is tokens offsets[b] … offsets[b+1]−1
  int32_t* lengths =
      nullptr;  // [B]    its real tokens; attention's keys end there. Packed: offsets[b+1] − offsets[b]
  int32_t* labels = nullptr;   // [B]
  int32_t* borders = nullptr;  // [B] filled where there is room: a sequence's tokens before its border, 0 without
  // With masking: the first read_rows of masked_room(T) entries are filled (Masking says with what); the ids are masked.
  int32_t *read = nullptr, *targets = nullptr;
  int64_t read_rows = 0;
  RowOrderView order;  // of the ids, with room for token_capacity of them; filled where `vocabulary` is given
  RowOrderView
      own_order;  // where there is room: RowOrder::own of a rank's part, and `order` is then of all parts' distinct ids
  int64_t vocabulary = 0;  // all ids are below it
  int64_t token_capacity = 0, sequence_capacity = 0;
  int64_t tokens = 0, sequences = 0;  // T, B
  PartOfBatch part = {};
};

// What the masking asks of a batch whose first `sequences` are filled: read and targets, and of masked words the ids.
void fill_targets(const Masking& masking, uint32_t epoch, uint32_t batch, int64_t sequences, const int32_t* spans,
                  BatchView& view);

// The same with memory of its own.
struct PackedBatch {
  std::vector<int32_t> ids, offsets, lengths, labels;  // shapes as in BatchView
  int64_t tokens = 0, sequences = 0;
};

struct BatchOptions {
  int64_t batch_size = 192;
  bool shuffle = true;         // else the order of the rows (evaluation)
  bool drop_last = true;       // leaves out the rows that do not fill a batch, or as many batches as make a step
  int64_t batches_a_step = 1;  // micro-batches: those of a step have the rows of one batch of their size together
  uint64_t seed = 0;
  int64_t epoch = 0;
  BatchLayout layout = BatchLayout::kPacked;
  int64_t padded_length = 128;  // kPadded only; CHECKs that no sequence is longer
  int32_t pad_id = 0;           // kPadded only
  Masking masking = {};
};

// One epoch. `split` must outlive the plan. Const members are thread-safe.
class BatchPlan {
 public:
  BatchPlan(const TokenSplit& split, const BatchOptions& options);

  int64_t batches() const { return static_cast<int64_t>(tokens_.size()); }
  int64_t tokens(int64_t batch) const;

  int64_t sequences(int64_t batch) const { return static_cast<int64_t>(rows(batch).size()); }
  int64_t max_tokens() const;
  int64_t total_tokens() const;
  std::span<const int32_t> rows(int64_t batch) const;  // the rows of the split, in the batch's order
  const BatchOptions& options() const { return options_; }

  // Writes one batch; pure and deterministic. CHECKs the capacities.
  void fill(int64_t batch, BatchView& out) const;
  PackedBatch make(int64_t batch) const;

 private:
  const TokenSplit& split_;
  BatchOptions options_;
  std::vector<int32_t> order_;  // [rows used]
  std::vector<int64_t> tokens_;
};

// The plans of a whole run, one an epoch; `options.epoch` is set here.
std::vector<BatchPlan> plan_run(const TokenSplit& split, BatchOptions options, int64_t epochs);
int64_t max_tokens(const std::vector<BatchPlan>& plans);

// Writes the next batch; false when there is none left.
using FillBatch = std::function<bool(BatchView&)>;
// Of the plans one after the other, from batch `first_batch` of plans[0]; the plans must outlive it.
FillBatch fill_from(std::span<const BatchPlan> plans, int64_t first_batch = 0);

// Prepares batches on a thread of its own while the caller works on earlier ones. The slots are the caller's memory
// (two are enough); a slot is refilled only after release(). An error in the thread is thrown by next().
class Prefetcher {
 public:
  // From batch `first_batch` of plans[0]; the plans must outlive the prefetcher.
  Prefetcher(std::span<const BatchPlan> plans, std::vector<BatchView> slots, int64_t first_batch = 0);
  Prefetcher(FillBatch fill, std::vector<BatchView> slots);  // `fill` is called by the thread alone
  ~Prefetcher();
  Prefetcher(const Prefetcher&) = delete;
  Prefetcher& operator=(const Prefetcher&) = delete;

  struct Ready {
    int64_t batch, slot;  // batch: counted from the first one
    BatchView view;
  };
  // The next batch, in order; none after the last. Waits for it.
  std::optional<Ready> next();
  // The slot may be overwritten (its copy to the device is done).
  void release(int64_t slot);

 private:
  void work();
  FillBatch fill_;
  std::vector<BatchView> slots_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<int64_t> free_;
  std::vector<Ready> ready_;  // in order
  bool finished_ = false, stop_ = false;
  std::exception_ptr error_;
  std::thread thread_;
};

}  // namespace glia
