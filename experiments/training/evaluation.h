// A model on a split: what its task measures, and for every MoE layer which topics use which experts.
#pragma once
#include <functional>

#include "experiments/records/results.h"
#include "experiments/records/routing/routing_shares.h"
#include "experiments/tasks/task.h"
#include "experiments/training/feed/batch_buffer.h"
#include "experiments/training/options.h"
#include "moe/utilisation.h"

namespace glia {

struct Measured {
  int64_t rows = 0;
  results::NamedValues values;                         // of the task's meter
  std::vector<double> class_accuracy;                  // [C], or empty
  std::optional<int64_t> near_copies;                  // of the rows; where the evaluator was to tell them apart
  std::vector<results::LayerUtilisation> utilisation;  // [L]; empty for dense
  std::vector<results::LayerShares> shares;            // [L]; empty where gates sum to 1 and all have K experts
  double experts_a_token = 0;                          // mean over tokens and layers; 0 for dense
  std::vector<results::LayerMetrics> layers;           // [L]; empty for dense
};

// A shuffled part of the split of that size, the same for every run; 0: all of it, in its order.
TokenSplit part_of(const TokenSplit& split, int64_t rows);

// The split's batches lie on the device from the constructor on; one evaluation waits once, at its end. Ranks take turns at the
// batches, and all have the whole result: but for what experts' gate masses are added up to, with the bits of one rank.
class Evaluator {
 public:
  // `rows`: of part_of(). `apart`: a classifier's accuracy is told without the near copies too, for one more count a
  // batch.
  Evaluator(Model& model, const TokenSplit& split, const Options& options, const Vocabulary& vocabulary,
            int64_t rows = 0, bool apart = false);

  Measured measure();
  // Of a model whose router reads prompts, which own values it has: how much more each loss is where routers are told what
  // stands in another sequence's prompt (experiments/tasks/other_prompts.h). Attention reads the own one.
  results::NamedValues cost_of_other_prompts(const results::NamedValues& own) const;
  // This rank's batches in their order, for whoever wants to know more of them than measure() counts.
  void for_each_batch(const std::function<void(const Batch&)>& f) const;
  const TaskRow& task() const { return task_; }

 private:
  struct Part {
    BatchBuffer buffer;
    int64_t tokens, sequences;
    Tensor labels_apart = {};  // int32 [B], −1 for near copies; undefined: not told apart
  };
  bool is_mine(size_t batch) const { return batch % static_cast<size_t>(ranks_) == static_cast<size_t>(rank_); }
  // This rank's batches through model and meter: `change` sees each before, `read` what came out; either may be empty.
  void run(TaskMeter& meter, const std::function<void(Batch&)>& change,
           const std::function<void(const Part&, const Model::Output&, const Batch&)>& read) const;
  std::unique_ptr<TaskMeter> make_meter() const;
  results::NamedValues values_of(results::NamedValues read) const;  // with losses a word
  // Of all ranks' batches.
  void reduce(TaskMeter& meter, std::optional<Utilisation>& utilisation, std::span<const Tensor> sums) const;

  Model& model_;
  const TaskRow& task_;
  int64_t classes_, rows_;
  int rank_, ranks_;
  std::optional<int64_t> near_copies_;
  std::vector<int64_t> sequences_;  // of every batch
  // Of next words, in all ranks' batches: how many are asked for, and how many of them begin a word.
  int64_t asked_ = 0, words_ = 0;
  std::vector<Part> parts_;  // this rank's, in order
};

}  // namespace glia
