// A task: what is predicted, from which rows, with which head and loss, and how a model is measured and chosen. To add one: a file here and a row in
// registry.cpp.
#pragma once
#include <memory>
#include <span>
#include <string_view>

#include "experiments/records/metrics.h"
#include "moe/model.h"

namespace glia {

// What one evaluation adds up, on the device; read() waits for it.
class TaskMeter {
 public:
  virtual ~TaskMeter() = default;
  virtual void add(const Model::Output& out, const Batch& batch) = 0;
  // Of ranks that divide a split each passes over the batches of the others, and at the end all have the sums of all.
  virtual void pass_over(int64_t sequences) = 0;
  virtual void reduce(Communicator& communicator) = 0;
  struct Reading {
    results::NamedValues values;  // "accuracy", "loss" (cross-entropy alone), and what else the task has
    std::vector<double>
        class_accuracy;  // [C], NaN for a class without rows; empty where the targets are no classes
  };
  virtual Reading read() const = 0;
};

struct TaskRow {
  const char* name;
  const char* description;
  std::unique_ptr<Head> (*make_head)(ParameterSet&, const BertConfig&, const Embeddings&);
  // Where the targets come from: each sequence's label, words that are masked in each batch, or each token's next one
  // (data/batches/masking.h).
  enum class Targets { kLabels, kMaskedWords, kNextWords } targets;
  const char* chosen_by;  // the value that chooses the best model
  bool higher_is_better;
  std::unique_ptr<TaskMeter> (*meter)(Context& context, const BertConfig& config, int64_t batches);

  bool causal() const { return targets == Targets::kNextWords; }  // a row may see no later one
  bool better(double value, double than) const { return higher_is_better ? value > than : value < than; }
};

// For masked words with a head that tells topics too (nn/heads/joint_head.h): "task_accuracy" and "task_loss" beside the words'.
std::unique_ptr<TaskMeter> make_joint_meter(Context& context, int64_t batches);

std::span<const TaskRow> task_registry();
const TaskRow& find_task(std::string_view name);  // an unknown name is an error that lists the known ones

}  // namespace glia
