// One run from its first step to its files: begun, resumed from its checkpoint, or found finished.
//
// A checkpoint holds weights, moments, router state, the step and the best model so far; it is written now and then
// at a step whose log lines are already written, and removed after eval.json. Since every number of a run is a
// function of seed and step, a run that is killed and resumed writes the bytes that an undisturbed one writes.
#pragma once
#include "experiments/records/results.h"
#include "experiments/training/pretrained.h"
#include "experiments/training/progress.h"
#include "experiments/training/ranks.h"
#include "experiments/training/training.h"

namespace glia {

struct RunSpec {
  Options options;
  RunModel model;
  int seed_index = 0;
  std::string folder;
  std::string study = kDefaultStudy;   // whose configuration it is
  std::vector<std::string> sets = {};  // JSON keys of what that study sets for this configuration alone
  CheckedWeights weights = {};         // of --init, where that is no run
  std::string starts_from = {};  // --init run:NAME: the folder of the run whose model it starts from; "": none

  uint64_t seed() const { return 42 + static_cast<uint64_t>(seed_index); }
  std::string title() const { return fmt::format("seed{}/{}", seed_index, model.name); }
};

// One spec a seed and configuration, seeds first: after the first seed there is a first table. What no attempt could
// get past is an error here: a router that is not there or refuses K, --init with a file that cannot be used or a run
// that nobody will have made.
std::vector<RunSpec> plan_runs(const Options& options, const Study& study, const std::vector<std::string>& configs);
std::vector<RunSpec> plan_runs(const Options& options, const std::vector<std::string>& configs);  // of --study

// One of each result folder, in the order in which the folders first appear.
std::vector<const RunSpec*> first_of_each_folder(const std::vector<RunSpec>& specs);

// An error where a model that was trained in another folder reads other word pieces there: its vocabulary is not this one.
void require_same_words(const RunSpec& spec, const Dataset& data);
// An error where the router tells fewer labels apart than the data has: it would be trained on the rest as on labels that no
// expert is good at.
void require_labels_told(const RunSpec& spec, const Dataset& data);

// What the trainer gets: the options, with the model file of the run it starts from as --init.
Options training_options(const RunSpec& spec);

results::RunConfig run_config(const RunSpec& spec, const Dataset& data, uint64_t fingerprint,
                              const std::string& device, const std::string& command);

// What of config.json says what is computed; the rest may differ between two sittings of one run.
results::Json run_identity(const results::Json& config);

// The first setting of which two records of what is computed tell different things, in either: "train.lr is 0.003, and 0.5 is asked
// for". What one does not mention has its flag's usual value. "": none.
std::string changed_setting(const results::Json& before, const results::Json& now);

// Throws when the folder holds a run of other settings, naming the first difference: nothing of it is touched.
void require_same_run(const std::string& folder, const results::RunConfig& config);

// Between processes and threads: who holds it may write the run. Ends with the process, however that ends.
class RunLock {
 public:
  RunLock(const std::string& out, const std::string& title);  // opens, does not lock
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;
  bool try_lock();
  void wait();

 private:
  std::string path_;
  int fd_ = -1;
};

struct RunOutcome {
  bool ok = false;
  std::string line;     // for a person
  std::string failure;  // the reason, when not ok
  double seconds = 0;
};

// Everything that goes wrong inside becomes a failed run with its reason in failed.json; it does not throw.
// The caller holds the run's lock. Of several processes all call it; the first one's rank 0 writes and tells the outcome.
RunOutcome execute_run(const RunSpec& spec, const Dataset& data, uint64_t fingerprint, Device device,
                       const std::string& command, Progress& progress, int progress_id,
                       const Ranks& ranks = Ranks::alone());

}  // namespace glia
