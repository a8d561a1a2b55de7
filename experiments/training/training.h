// Training steps. The same code runs everywhere: a batch goes into fixed device memory, then forward, backward and
// optimiser run, eagerly or as a replayed CUDA graph, and nothing waits for the device. Losses stay there until
// read_losses().
#pragma once
#include <deque>
#include <span>

#include "engine/device/graph_cache.h"
#include "experiments/studies/configurations.h"
#include "experiments/tasks/task.h"
#include "experiments/training/feed/batch_buffer.h"
#include "experiments/training/feed/batch_feed.h"
#include "experiments/training/options.h"
#include "experiments/training/step.h"
#include "moe/warm_start.h"
#include "nn/optimizer.h"

namespace glia {

// What of the options makes the model: a configuration with the overrides of ./experiments/train.
struct RunModel {
  std::string name;  // of the run's folder
  MoeConfig moe;
  bool random_ffn = false;
};
RunModel run_model(const Options& options, const Configuration& configuration);
// Before anything is read or computed: a causal task with a router that looks ahead, a router that reads prompts of text
// that has none, and a router that its mixture cannot weigh by, are errors that name them.
void check_model(const Options& options, const RunModel& run);
ModelConfig model_config(const Options& options, const RunModel& run, const Dataset& data);
ModelConfig model_config(const Options& options, const RunModel& run, int64_t vocabulary, int64_t classes);
AdamWOptions optimiser_options(const Options& options, int64_t total_steps);

// Of the task: no masking but for one that masks words. A vocabulary without [MASK] is an error then.
Masking masking_of(const Options& options, const Vocabulary& vocabulary, uint64_t seed);
// Plans of all epochs, in the order that the seed gives.
std::vector<BatchPlan> training_plans(const Options& options, const Dataset& data, uint64_t seed);
// Of the whole run: all epochs, or --max-steps. Fewer training rows than a batch are an error.
int64_t total_steps(const Options& options, const Dataset& data);
int64_t longest_sequence(const TokenSplit& split);

// What is trained, how, on what, and for how long.
struct TrainingPlan {
  ModelConfig model;
  AdamWOptions optimiser;
  BatchFeed feed;
  StepParts parts;
  int64_t steps = 0;
};
// Of a data set's rows. The data must outlive the feed.
TrainingPlan training_plan(const Options& options, const Dataset& data, const RunModel& run, uint64_t seed);

struct StepLosses {
  double loss = 0;            // total
  std::vector<double> parts;  // unweighted, in the order of Trainer::part_names()
};

// Ends a run in which a token wanted more experts than --max-k; `where`: "evaluation", "steps 1 to 50".
[[noreturn]] void refuse_overflow(const std::string& router, const std::string& where);

// Over the steps, of which there is one at least.
StepLosses mean_of(const std::vector<StepLosses>& steps);
// The loss and its parts under their names; a part that counts overflow and is above 0 ends the run.
results::NamedValues named_losses(const StepLosses& mean, const std::vector<std::string>& names,
                                  const std::string& router, int64_t first_step, int64_t last_step);

class Trainer {
 public:
  // The data must outlive the trainer. Loads --init.
  Trainer(Context& context, const Dataset& data, const Options& options, const RunModel& run, uint64_t seed);
  // Of the options it reads where and how to run, --init and --log-every; the plan says the rest.
  Trainer(Context& context, const TrainingPlan& plan, const Options& options, const RunModel& run, uint64_t seed,
          const std::vector<std::string>& class_names);
  ~Trainer();
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  Context& context() { return context_; }
  Model& model() { return model_; }
  AdamW& optimiser() { return optimiser_; }
  const WarmStartReport& warm_start_report() const { return warm_start_; }  // empty without --init
  int64_t total() const { return total_; }
  int64_t steps_per_epoch() const { return feed_.batches_a_epoch / parts_.all; }
  int64_t done() const { return done_; }
  // By batches: the steps of a ramp do not have all of theirs.
  double epochs_done() const {
    return static_cast<double>(parts_.before(done_)) /
           static_cast<double>(std::max<int64_t>(1, feed_.batches_a_epoch));
  }
  // Rows of the word table's gradient that each rank of several has sent in the last step.
  int64_t words_sent() const { return words_; }
  int64_t tokens_done() const { return tokens_done_; }  // real ones of all ranks, by this object
  const std::vector<std::string>& part_names() const { return step_.part_names(); }  // known after the first step

  // The next step() is step number `step` (from 0).
  void seek(int64_t step);
  // One step. Only every kRunAhead steps it waits for the device, so that host memory of batches can be used again.
  void step();
  // Calls save() in the first rank if that one finds it due. For moments that ranks share out all must call it, and wait: they
  // are whole in save().
  void checkpoint(bool due, const std::function<void()>& save);
  // All of the model's weights in every rank, where experts are each rank's own: before anybody reads them outside of step(). To be
  // called by all.
  void gather_weights() { optimiser_.gather_weights(); }
  // The losses of the steps since the last call (at most log_every of them). Waits for the device.
  std::vector<StepLosses> read_losses();

  // Milliseconds of each of `count` further steps, as the device sees them; for estimates and tools/bench.
  std::vector<double> timed_steps(int64_t count);
  // Off: eager steps from here on, whatever was captured. The bits are the same.
  void use_graphs(bool on) { options_.graphs = on; }

 private:
  static constexpr int64_t kRunAhead = 32;
  int64_t slot_count() const { return kRunAhead + std::max(kRunAhead, parts_.all); }

  // A step's rows are in several batches, one after the other or of several ranks.
  bool divided() const { return parts_.all > 1 || context_.communicator().size() > 1; }
  // Says in each part's slot which of the step's rows it holds.
  void set_parts(std::span<const Prefetcher::Ready> ready);
  // Uploads a part's batch and runs it, eagerly or as a graph.
  void run_part(const Prefetcher::Ready& ready, StepPart part);

  Context& context_;
  Options options_;
  StepParts parts_;
  int64_t total_;
  Model model_;
  WarmStartReport warm_start_;
  AdamW optimiser_;
  TrainingStep step_;
  BatchFeed feed_;  // of this rank
  BatchBuffer buffer_;
  int32_t* slots_ = nullptr;  // pinned, slot_count() of the buffer's size
  std::unique_ptr<Prefetcher> prefetcher_;
  std::vector<int64_t> in_flight_;  // slots whose copies may not be done
  int64_t done_ = 0, tokens_done_ = 0;
  int64_t words_ = 0;

  // By tokens, sequences, rows that are read and words that are sent, and by whether the part is its step's first one, its last.
  GraphCache graphs_;
  Tensor ring_;  // float32 [log_every, 1 + P]
  int64_t unread_ = 0;
};

}  // namespace glia
