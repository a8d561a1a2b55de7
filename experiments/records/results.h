// The result folder: the one place that knows its layout. The training loop writes through it, everything that
// people look at reads through it.
//
//   <out>/seed<i>/<config>/config.json               what was run: deterministic, written first
//                          metrics.jsonl             a line a logged step or evaluation
//                          utilization_layer<l>.csv  topics × experts, l from 1; …_cls_layer<l>.csv: CLS rows
//                          timing.json               all that differs from run to run
//                          model.safetensors         (nn/weights/checkpoint writes it)
//                          failed.json               {reason, step} of a run that failed
//                          eval.json                 the test evaluation; written last: a run that has it is done
//   <out>/study.txt                                  "# study NAME", then the study's text: order, baselines, colours
//   <out>/vocab.txt                                  the word pieces of all its runs: a checkpoint wants it
//   <out>/summary.json, summary.csv, report.html     of all runs (summary.h, report.h); timing.json beside them
//
// Every file is written to a temporary name and renamed, so a reader sees all of it or nothing. Errors are
// glia::Error with the path (and line) in front.
#pragma once
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <vector>

#include "experiments/records/metrics.h"
#include "experiments/studies/study.h"

namespace glia::results {

struct DataInfo {
  std::string name;
  bool synthetic = false;
  int64_t train_rows = 0, validation_rows = 0, test_rows = 0;
  std::vector<std::string> class_names;  // [C]
  std::optional<double> bayes_accuracy;  // of synthetic data whose best possible accuracy is known
  Json options = Json::object();         // the flags it was loaded with: enough to load it again
};

struct RunConfig {
  std::string config;              // a name of docs/science.md 2, or of one's own
  int seed_index = 0;              // the i of seed<i>
  uint64_t seed = 42;              // 42 + i
  std::string protocol;            // "clean", "paper"
  std::string preset;              // "published", "small", …
  std::string precision;           // "float32", "bfloat16"
  std::string router;              // name in the registry; "none" for a dense model
  double balance = 0, energy = 0;  // α and β
  Json model = Json::object();     // at least {"layers", "experts" (0: dense), "top_k", "classes"}
  Json train = Json::object();     // {epochs, batch, lr, warmup, weight_decay, clip, …}
  Json options = Json::object();   // each protocol difference of docs/science.md 6
  DataInfo data;
  std::string commit, device, command;
  std::string study = kDefaultStudy;  // whose row it is; no part of what is computed
  std::vector<std::string> sets;      // JSON keys that the study sets for this configuration and not for all

  // What was trained for; runs from before there was a choice are classifiers.
  std::string task() const { return train.value("task", "classification"); }
  bool moe() const { return model.value("experts", 0) > 0; }
  int layers() const { return model.value("layers", 0); }
  int experts() const { return model.value("experts", 0); }
};

struct TrainPoint {  // a logged step: means over the steps since the last one
  int64_t step = 0;
  double epoch = 0;
  NamedValues values;  // loss, its named parts (unweighted), lr, grad_norm
};

struct EvalPoint {    // one evaluation during training
  std::string split;  // "validation", "test"
  int64_t step = 0;
  NamedValues values;                // accuracy, loss, …: the task's metrics
  std::vector<LayerMetrics> layers;  // [L], empty for dense; the file keeps the rows of the table that are logged

  double accuracy() const { return values.get("accuracy"); }
};

struct Evaluation {  // eval.json: the model that counts, on the test set
  int64_t step = 0;
  std::string split = "test";
  int64_t rows = 0;
  NamedValues values;                         // accuracy, loss, …: the task's metrics
  std::vector<double> class_accuracy;         // [C]; NaN: no row of the class
  std::optional<double> validation_accuracy;  // of the chosen model, where a validation split exists
  // Of the rows, those that nearly stand among the training rows; runs from before anybody looked have none.
  std::optional<int64_t> near_copies;
  std::vector<LayerMetrics> layers;  // [L]; empty for dense

  double accuracy() const { return values.get("accuracy"); }
};

struct LayerUtilisation {
  Matrix all, cls;  // [C, E] each
};

struct Failure {
  std::string reason;
  int64_t step = 0;
};

// --- writing -------------------------------------------------------------------------------------

std::string run_folder(const std::string& out, int seed_index, const std::string& config);  // out/seed<i>/<config>

// Makes the folder and writes config.json. Without `resume` all files of an earlier attempt go (a checkpoint is the
// caller's); with it only eval.json and failed.json do, metrics.jsonl stays for MetricsLog to cut, and it throws
// when the old config.json differs in anything but commit, device and command.
void begin_run(const std::string& folder, const RunConfig& config, bool resume);

// metrics.jsonl, line by line, flushed on every line. Opening it keeps the lines with step <= resume_step (0: none)
// and drops the rest and a half-written last line, so that a run killed and resumed from the checkpoint of
// resume_step leaves the same bytes as one that was never stopped. (Log all of a step before saving that step's
// checkpoint.)
class MetricsLog {
 public:
  MetricsLog(const std::string& folder, int64_t resume_step);
  ~MetricsLog();
  MetricsLog(const MetricsLog&) = delete;
  MetricsLog& operator=(const MetricsLog&) = delete;
  void add(const TrainPoint& point);
  void add(const EvalPoint& point);

 private:
  void line(const Json& json);
  std::string path_;
  std::FILE* file_ = nullptr;
};

// The utilisation files, then eval.json. `utilisation` [L], empty for dense; `class_names` label the rows.
void write_evaluation(const std::string& folder, const Evaluation& evaluation,
                      const std::vector<LayerUtilisation>& utilisation,
                      const std::vector<std::string>& class_names);
void write_failure(const std::string& folder, const Failure& failure);  // failed.json; removes eval.json
void write_timing(const std::string& folder, const Json& timing);  // {seconds, tokens_per_second, machine, …}

// CSV of one utilisation matrix: `topic,expert0,expert1,…`, a row a topic, %.17g (reads back to the same bits); n/a
// where no token of the topic was seen.
std::string utilisation_csv(const Matrix& u, const std::vector<std::string>& topics);
void write_utilisation(const std::string& path, const Matrix& u, const std::vector<std::string>& topics);

// --- reading -------------------------------------------------------------------------------------

Study read_study(const std::string& out);  // of study.txt; without it ahr
void write_study(const std::string& out, const Study& study);
// Keys of config.json that say nothing about what was computed: two sittings of one run may differ in them.
bool is_incidental(const std::string& key);

bool is_run_folder(const std::string& folder);  // has a config.json
bool is_done(const std::string& folder);        // has an eval.json

enum class RunState { done, failed, unfinished };

struct Run {
  std::string folder;
  RunConfig config;
  RunState state = RunState::unfinished;
  std::optional<Evaluation> evaluation;  // when done
  std::optional<Failure> failure;        // when failed
  Json timing = Json::object();          // {} when there is none
};

// Reads and checks one run: folder name against config.json, number of layers, experts and classes against
// eval.json.
Run read_run(const std::string& folder);

struct UtilisationFile {
  std::vector<std::string> topics;  // [C]
  Matrix u;  // [C, E] >= 0; rows sum to 1 where the router normalises its gates, and are 0 where the file says n/a
};
UtilisationFile read_utilisation(const std::string& path);
UtilisationFile utilisation_from(const std::string& text,
                                 const std::string& from);  // of a file; `from` for messages

// All layers of a run; throws for a dense run ("has no experts") and for missing or mis-shaped files.
struct RunUtilisation {
  std::vector<std::string> topics;
  std::vector<Matrix> layers;  // [L] of [C, E]
};
RunUtilisation read_run_utilisation(const Run& run, bool cls);

struct Metrics {
  std::vector<TrainPoint> train;
  std::vector<EvalPoint> evals;
};
// At most about `max_train_points` training lines, evenly spread (0: all). A half-written last line is left out: a
// run may be writing it; any other malformed line throws with its number.
Metrics read_metrics(const std::string& folder, size_t max_train_points = 0);
Metrics metrics_from(const std::string& text, const std::string& path, size_t max_train_points = 0);

struct Problem {
  std::string path, message;
};

struct Listing {
  std::string out;
  Study study;                    // of the result folder
  std::vector<Run> runs;          // by seed, then in the study's order
  std::vector<Problem> problems;  // unreadable runs, foreign folders: named, never dropped in silence
};

// All runs under `path`: a result folder, one of its seed<i> folders, or one run. Throws when it is none of these;
// a broken run, or a folder without config.json where a run should be, becomes a problem. A seed folder without
// runs is fine.
Listing list_runs(const std::string& path);

// Throws, naming two runs and the field, when runs differ in protocol, preset, data, model size, training settings or a protocol
// option, or seeds of one configuration in router, losses or model: one summary never mixes them. (Precision, commit and device may
// differ: a warning.)
void require_comparable(const std::vector<Run>& runs);
// Settings that a record leaves out at their usual value: who has one differs from who has none. Any other that is missing is one
// that there was not yet.
bool left_out(const std::string& key);
// The first half of require_comparable(), but for the settings of these keys: of the cells of a grid.
void require_one_recipe(const std::vector<Run>& runs, std::vector<std::string> but_for);

// JSON forms (config.json, eval.json, one metrics line); `from` is the path for error messages.
Json to_json(const RunConfig& config);
Json to_json(const Evaluation& evaluation);
Json to_json(const TrainPoint& point);
Json to_json(const EvalPoint& point);
RunConfig run_config_from(const Json& json, const std::string& from);
Evaluation evaluation_from(const Json& json, const std::string& from);
TrainPoint train_point_from(const Json& json, const std::string& from);
EvalPoint eval_point_from(const Json& json, const std::string& from);

}  // namespace glia::results
