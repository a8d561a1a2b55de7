// A model on a split: what its task measures, and for every MoE layer which topics use which experts.
#pragma once
#include "experiments/records/results.h"
#include "experiments/tasks/task.h"
#include "experiments/training/feed/batch_buffer.h"
#include "experiments/training/options.h"

namespace glia {

struct Measured {
  int64_t rows = 0;
  results::NamedValues values;                         // of the task's meter
  std::vector<double> class_accuracy;                  // [C], or empty
  std::optional<int64_t> near_copies;                  // of the rows; where the evaluator was to tell them apart
  std::vector<results::LayerUtilisation> utilisation;  // [L]; empty for dense
  std::vector<results::LayerMetrics> layers;           // [L]; empty for dense
};

// The split's batches lie on the device from the constructor on; one evaluation waits once, at its end.
class Evaluator {
 public:
  // `rows`: a shuffled part of the split of that size, the same for every run; 0: all. `apart`: a classifier's accuracy
  // is told without the near copies too, for one more count a batch.
  Evaluator(Model& model, const TokenSplit& split, const Options& options, const Vocabulary& vocabulary,
            int64_t rows = 0, bool apart = false);

  Measured measure();
  const TaskRow& task() const { return task_; }

 private:
  struct Part {
    BatchBuffer buffer;
    int64_t tokens, sequences;
    Tensor labels_apart = {};  // int32 [B], −1 for near copies; undefined: not told apart
  };
  Model& model_;
  const TaskRow& task_;
  int64_t classes_, rows_;
  std::optional<int64_t> near_copies_;
  std::vector<Part> parts_;
};

}  // namespace glia
