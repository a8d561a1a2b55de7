// A model on a split: accuracy, loss, and for every MoE layer which topics use which experts.
#pragma once
#include "experiments/records/results.h"
#include "experiments/training/batch_buffer.h"
#include "experiments/training/options.h"

namespace glia {

struct Measured {
  int64_t rows = 0;
  double accuracy = 0, loss = 0;                       // loss: cross-entropy alone
  std::vector<double> class_accuracy;                  // [C]
  std::vector<results::LayerUtilisation> utilisation;  // [L]; empty for dense
  std::vector<results::LayerMetrics> layers;           // [L]; empty for dense
};

// The split's batches lie on the device from the constructor on; one evaluation waits once, at its end.
class Evaluator {
 public:
  // `rows`: a shuffled part of the split of that size, the same for every run; 0: all.
  Evaluator(Model& model, const TokenSplit& split, const Options& options, int32_t pad_id, int64_t rows = 0);

  Measured measure();

 private:
  struct Part {
    BatchBuffer buffer;
    int64_t tokens, sequences;
  };
  Model& model_;
  int64_t classes_, rows_;
  std::vector<Part> parts_;
};

}  // namespace glia
