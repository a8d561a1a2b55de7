#include "experiments/training/run.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>

#include "engine/core/build_info.h"
#include "engine/core/clock.h"
#include "engine/core/file.h"
#include "experiments/analysis/saturation.h"
#include "experiments/records/tensorboard.h"
#include "experiments/tasks/other_prompts.h"
#include "experiments/training/evaluation.h"
#include "experiments/training/feed/data_source.h"
#include "moe/cost.h"
#include "nn/weights/checkpoint.h"

namespace fs = std::filesystem;

namespace glia {
namespace {

using results::Json;

// metrics.jsonl and, where wanted, TensorBoard's events; complete on the disk after every add(), since a checkpoint
// may follow.
class RunLog {
 public:
  RunLog(const std::string& folder, int64_t resume_step, const Options& options, const results::RunConfig& config)
      : metrics_(folder, resume_step), real_times_(options.tensorboard_times == "real") {
    if (options.report) events_.emplace(folder, time_of(0), resume_step, results::hyperparameters(config));
  }
  template <class Point> void add(const Point& point) {
    metrics_.add(point);
    if (!events_) return;
    events_->set_wall_time(time_of(point.step));
    events_->add(point);
    events_->flush();
  }

 private:
  // Events want a date; a real one makes each attempt's bytes differ. Else a second a step from here on.
  static constexpr double kTime = 1735689600;  // 2025-01-01
  double time_of(int64_t step) const {
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    return real_times_ ? std::chrono::duration<double>(now).count() : kTime + static_cast<double>(step);
  }
  results::MetricsLog metrics_;
  bool real_times_;
  std::optional<results::TensorBoardWriter> events_;
};

// One run under way; of several ranks each has its own, with the same weights and the same choices, and one of them writes.
class Sitting {
 public:
  Sitting(const RunSpec& spec, const Dataset& data, const results::RunConfig& config, const Ranks& ranks,
          Context& context, Progress& progress, int progress_id)
      : spec_(spec),
        options_(spec.options),
        data_(data),
        config_(config),
        ranks_(ranks),
        writes_(context.communicator().rank() == 0),
        context_(context),
        progress_(progress),
        progress_id_(progress_id),
        trainer_(context, data, training_options(spec), spec.model, spec.seed()),
        config_text_(run_identity(results::to_json(config)).dump()) {}

  int64_t done() const { return trainer_.done(); }
  RunOutcome run();

 private:
  std::string checkpoint_path() const { return spec_.folder + "/checkpoint.safetensors"; }
  bool resume();
  void save();
  void begin_folder(bool resumed);
  void log_losses(RunLog& log);
  void evaluate(RunLog* log, Evaluator& evaluator, const char* split);
  Measured measure_test();
  RunOutcome finish(const Measured& test, double training_seconds);
  void restore_best();
  std::unique_ptr<RoutingProbe> make_probe();
  void show(bool evaluated);
  std::vector<Statistic> state() { return trainer_.model().router_state(); }

  const RunSpec& spec_;
  const Options& options_;
  const Dataset& data_;
  const results::RunConfig& config_;
  const Ranks& ranks_;
  const bool writes_;
  Context& context_;
  Progress& progress_;
  int progress_id_;
  Trainer trainer_;
  std::string config_text_;

  // The best evaluation so far and its model, on the device.
  int64_t best_step_ = 0;
  double best_score_ = 0;  // the task's choosing value at that step
  double best_accuracy_ = -1;
  std::vector<Statistic> best_;  // the flat weights, then the router state

  RunProgress now_;
  int64_t first_step_ = 0;         // of this sitting
  double seconds_before_ = 0;      // of earlier sittings
  double evaluation_seconds_ = 0;  // of this one
  Clock::time_point begin_ = Clock::now();
};

bool Sitting::resume() {
  if (options_.fresh || !fs::exists(checkpoint_path())) return false;
  try {
    const SafetensorsFile file(checkpoint_path());
    const CheckpointInfo info = checkpoint_info(file);
    const Json progress = Json::parse(info.progress);
    if (info.config != config_text_) return false;
    // All that may fail comes before the weights are changed.
    CHECK(info.step >= 0 && info.step <= trainer_.total(), "{}: step {} of {}", checkpoint_path(), info.step,
          trainer_.total());
    const auto best_step = progress.at("best_step").get<int64_t>();
    const auto best_accuracy = progress.at("best_accuracy").get<double>();
    // Runs from before there were tasks chose by the accuracy.
    const auto best_score = progress.value("best_score", best_accuracy);
    const auto seconds = progress.at("seconds").get<double>();
    std::optional<double> accuracy = now_.accuracy;
    if (progress.contains("accuracy")) accuracy = progress["accuracy"].get<double>();
    std::vector<Statistic> tensors = state();
    if (best_step > 0) {
      best_.push_back({"best.weights", empty_like(trainer_.model().parameters().values())});
      for (const Statistic& s : state()) best_.push_back({"best." + s.name, empty_like(s.value)});
      tensors.insert(tensors.end(), best_.begin(), best_.end());
    }
    load_checkpoint(checkpoint_path(), trainer_.model().parameters(), &trainer_.optimiser(), tensors);
    best_step_ = best_step, best_accuracy_ = best_accuracy, best_score_ = best_score;
    seconds_before_ = seconds, now_.accuracy = accuracy;
    trainer_.seek(info.step);
    return true;
  } catch (const std::exception& error) {
    // A checkpoint that cannot be used costs time, not the run. Loading changes nothing unless everything fits.
    if (writes_) progress_.say(fmt::format("{}: begins anew: {}", spec_.title(), error.what()));
    best_.clear();
    return false;
  }
}

void Sitting::save() {
  std::vector<Statistic> tensors = state();
  if (best_step_ > 0) tensors.insert(tensors.end(), best_.begin(), best_.end());
  Json progress = {{"best_step", best_step_},
                   {"best_accuracy", best_accuracy_},
                   {"best_score", best_score_},
                   {"seconds", seconds_before_ + seconds_since(begin_)}};
  if (now_.accuracy) progress["accuracy"] = *now_.accuracy;
  save_checkpoint(checkpoint_path(), trainer_.model().parameters(), &trainer_.optimiser(), tensors,
                  {trainer_.done(), spec_.seed(), config_text_, progress.dump()});
}

void Sitting::show(bool evaluated) {
  const double seconds = seconds_since(begin_), steps = static_cast<double>(trainer_.done() - first_step_);
  now_.step = trainer_.done();
  now_.total = trainer_.total();
  now_.epoch = static_cast<double>(now_.step) / static_cast<double>(trainer_.steps_per_epoch());
  now_.tokens_per_second = static_cast<double>(trainer_.tokens_done()) / seconds;
  now_.seconds_left = steps > 0 ? seconds / steps * static_cast<double>(now_.total - now_.step) : -1;
  progress_.update(progress_id_, now_, evaluated);
}

void Sitting::log_losses(RunLog& log) {
  const std::vector<StepLosses> steps = trainer_.read_losses();
  const int64_t first = trainer_.done() - static_cast<int64_t>(steps.size()) + 1;
  for (size_t i = 0; i < steps.size(); ++i)
    if (!std::isfinite(steps[i].loss))
      fail_input("the loss is {} at step {} (learning rate {})", steps[i].loss, first + static_cast<int64_t>(i),
                 options_.lr);
  results::TrainPoint point;
  point.step = trainer_.done();
  point.epoch = static_cast<double>(point.step) / static_cast<double>(trainer_.steps_per_epoch());
  point.values = named_losses(mean_of(steps), trainer_.part_names(), spec_.model.moe.router, first, point.step);
  now_.losses = point.values;
  const AdamW::Report report = trainer_.optimiser().report();
  point.values.set("lr", report.learning_rate);
  point.values.set("grad_norm", report.gradient_norm);
  if (!std::isfinite(report.gradient_norm))
    fail_input("the gradient's norm is {} at step {} (learning rate {})", report.gradient_norm, point.step,
               options_.lr);
  log.add(point);
}

void Sitting::evaluate(RunLog* log, Evaluator& evaluator, const char* split) {
  const auto begin = Clock::now();
  trainer_.gather_weights();
  const Measured m = evaluator.measure();
  if (log) log->add(results::EvalPoint{split, trainer_.done(), m.values, m.layers});
  now_.accuracy = m.values.get("accuracy");
  now_.split = split;
  const double score = m.values.get(evaluator.task().chosen_by);
  if (options_.select != "last" &&
      (best_step_ == 0 || evaluator.task().better(score, best_score_))) {  // of equals the first
    best_score_ = score;
    best_accuracy_ = m.values.get("accuracy");
    best_step_ = trainer_.done();
    const bool first = best_.empty();
    const Tensor& weights = trainer_.model().parameters().values();
    if (first) best_.push_back({"best.weights", empty_like(weights)});
    best_[0].value.copy_from(weights);
    const std::vector<Statistic> router = state();
    for (size_t i = 0; i < router.size(); ++i) {
      if (first) best_.push_back({"best." + router[i].name, empty_like(router[i].value)});
      best_[i + 1].value.copy_from(router[i].value);
    }
  }
  evaluation_seconds_ += seconds_since(begin);
}

void Sitting::restore_best() {
  if (best_step_ == 0) return;
  ParameterSet& parameters = trainer_.model().parameters();
  Tensor values = parameters.values();
  values.copy_from(best_[0].value);
  parameters.refresh_copy();
  std::vector<Statistic> router = state();
  for (size_t i = 0; i < router.size(); ++i) router[i].value.copy_from(best_[i + 1].value);
}

std::unique_ptr<RoutingProbe> Sitting::make_probe() {
  if (options_.trace_rows == 0 || spec_.model.moe.dense()) return nullptr;
  return std::make_unique<RoutingProbe>(trainer_.model(), data_, options_, spec_.folder, spec_.title());
}

void Sitting::begin_folder(bool resumed) {
  results::begin_run(spec_.folder, config_, resumed);
  if (!resumed) fs::remove(checkpoint_path());
  if (!options_.init.empty())
    write_file_atomic(spec_.folder + "/weights.txt", report_text(options_, trainer_.warm_start_report()));
}

RunOutcome Sitting::run() {
  const bool resumed = resume();
  // Every rank has read the checkpoint before the first one writes.
  require_same_start(ranks_, context_, trainer_.model().parameters().values(), trainer_.done());
  if (writes_) begin_folder(resumed);
  first_step_ = trainer_.done();
  std::optional<RunLog> log;
  if (writes_) log.emplace(spec_.folder, first_step_, options_, config_);
  now_.split = options_.select == "test" ? "test" : "validation";
  now_.step = first_step_;
  now_.total = trainer_.total();
  if (writes_) progress_.update(progress_id_, now_, false);

  std::optional<Evaluator> evaluator;
  const bool on_test = options_.select == "test";
  if (on_test || data_.validation.size() > 0)
    evaluator.emplace(trainer_.model(), on_test ? data_.test : data_.validation, options_, data_.vocabulary());
  const std::unique_ptr<RoutingProbe> probe = make_probe();
  const int64_t every = options_.eval_every > 0 ? options_.eval_every : trainer_.steps_per_epoch();
  auto last_save = Clock::now();
  while (trainer_.done() < trainer_.total()) {
    trainer_.step();
    const int64_t step = trainer_.done();
    const bool last = step == trainer_.total(), logs = step % options_.log_every == 0 || last;
    const bool evaluates = evaluator && (step % every == 0 || last);
    if (logs && log) log_losses(*log);
    if (evaluates) evaluate(log ? &*log : nullptr, *evaluator, on_test ? "test" : "validation");
    if (evaluates && probe) probe->keep(step);
    if (writes_ && (logs || evaluates)) show(evaluates);
    const bool due = options_.checkpoint_every > 0 ? step % options_.checkpoint_every == 0
                                                   : seconds_since(last_save) >= options_.checkpoint_seconds;
    // Only where the log has a line: then nothing of a half-logged interval must be remembered.
    if (logs && !last)
      trainer_.checkpoint(due, [&] {
        save();
        last_save = Clock::now();
      });
  }
  evaluator.reset();
  trainer_.gather_weights();
  const double training_seconds = seconds_since(begin_) - evaluation_seconds_;
  restore_best();
  const Measured test = measure_test();
  context_.communicator().barrier();  // nobody leaves while another one's sums are under way
  return writes_ ? finish(test, training_seconds) : RunOutcome{};
}

Measured Sitting::measure_test() {
  Evaluator evaluator(trainer_.model(), data_.test, options_, data_.vocabulary(), 0, true);
  Measured test = evaluator.measure();
  if (reads_prompts(trainer_.model().config()))
    for (const auto& [name, value] : evaluator.cost_of_other_prompts(test.values)) test.values.set(name, value);
  if (options_.utilisation_rows > 0 && options_.utilisation_rows < test.rows && !test.layers.empty()) {
    Measured part =
        Evaluator(trainer_.model(), data_.test, options_, data_.vocabulary(), options_.utilisation_rows).measure();
    test.utilisation = std::move(part.utilisation);
    test.shares = std::move(part.shares);
    test.layers = std::move(part.layers);
  }
  return test;
}

RunOutcome Sitting::finish(const Measured& test, double training_seconds) {
  results::Evaluation evaluation;
  evaluation.step = best_step_ > 0 ? best_step_ : trainer_.done();
  if (options_.select == "validation") evaluation.validation_accuracy = best_accuracy_;
  evaluation.rows = test.rows;
  evaluation.values = test.values;
  const TokenCost cost =
      token_cost(trainer_.model().config(), test.experts_a_token,
                 static_cast<double>(data_.test.tokens()) / static_cast<double>(data_.test.size()));
  evaluation.values.set(results::kActiveParameters, cost.parameters);
  evaluation.values.set(results::kFlops, cost.flops);
  evaluation.class_accuracy = test.class_accuracy;
  evaluation.near_copies = test.near_copies;
  evaluation.layers = test.layers;
  save_checkpoint(spec_.folder + "/model.safetensors", trainer_.model().parameters(), nullptr, state(),
                  {evaluation.step, spec_.seed(), config_text_, ""});

  RunOutcome outcome;
  outcome.ok = true;
  outcome.seconds = seconds_before_ + seconds_since(begin_);
  const double steps = static_cast<double>(trainer_.done() - first_step_);
  Json timing = {{"seconds", outcome.seconds},
                 {"ms_per_step", steps > 0 ? 1e3 * training_seconds / steps : 0.0},
                 {"tokens_per_second", static_cast<double>(trainer_.tokens_done()) / training_seconds},
                 {"sequences_per_second", steps * static_cast<double>(options_.batch) / training_seconds},
                 {"peak_bytes", context_.allocator().stats().peak},
                 {"parameters", trainer_.model().parameters().count()},
                 {"resumed_at_step", first_step_},
                 {"machine", context_.backend().description()},
                 {"commit", build_commit()}};
  if (context_.device().is_cuda()) timing["memory"] = context_.allocator().report();
  if (context_.communicator().size() > 1) {
    timing["ranks"] = context_.communicator().description();
    timing["moment_bytes"] = trainer_.optimiser().moment_bytes();  // of this rank
  }
  results::write_timing(spec_.folder, timing);
  results::write_shares(spec_.folder, test.shares, static_cast<int>(spec_.model.moe.n_experts),
                        columns_outside(spec_.model.moe), data_.class_names);
  results::write_evaluation(spec_.folder, evaluation, test.utilisation, data_.class_names);
  fs::remove(checkpoint_path());

  outcome.line = fmt::format("{:<29} test {:.4f}", spec_.title(), test.values.get("accuracy"));
  if (evaluation.validation_accuracy) outcome.line += fmt::format("  val {:.4f}", *evaluation.validation_accuracy);
  if (!test.layers.empty()) {
    const results::LayerMetrics &first = test.layers.front(), &last = test.layers.back();
    const auto text = [](const results::LayerMetrics& layer, const char* name) {
      return std::isnan(layer.scalar(name)) ? "n/a" : fmt::format("{:.4f}", layer.scalar(name));
    };
    outcome.line += fmt::format("  specialisation {} … {}, CLS {} … {}", text(first, "specialisation"),
                                text(last, "specialisation"), text(first, "specialisation_cls"),
                                text(last, "specialisation_cls"));
  }
  outcome.line += fmt::format("  {:.1f} s", outcome.seconds);
  return outcome;
}

}  // namespace

RunLock::RunLock(const std::string& out, const std::string& title) {
  std::string name = title;
  std::replace(name.begin(), name.end(), '/', '-');
  path_ = fmt::format("{}/.locks/{}", out, name);
  make_folder(out + "/.locks");
  fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd_ < 0) fail_input("{}: cannot open it for writing: {}", path_, std::strerror(errno));
}

RunLock::~RunLock() { ::close(fd_); }

bool RunLock::try_lock() {
  if (::flock(fd_, LOCK_EX | LOCK_NB) == 0) return true;
  if (errno != EWOULDBLOCK) fail_input("{}: cannot lock it: {}", path_, std::strerror(errno));
  return false;
}

void RunLock::wait() {
  while (::flock(fd_, LOCK_EX) != 0)
    if (errno != EINTR) fail_input("{}: cannot lock it: {}", path_, std::strerror(errno));
}

RunOutcome execute_run(const RunSpec& spec, const Dataset& data, uint64_t fingerprint, Device device,
                       const std::string& command, Progress& progress, int progress_id, const Ranks& ranks) {
  RunOutcome outcome;
  int64_t step = 0;
  try {
    // What a killed program left half-written.
    if (ranks.first_process() && fs::is_directory(spec.folder))
      for (const auto& entry : fs::directory_iterator(spec.folder))
        if (entry.path().extension() == ".tmp") fs::remove(entry.path());
    ranks.run(spec.options, device, spec.seed(), [&](Context& context) {
      context.check_finite = spec.options.check_finite;
      const bool writes = context.communicator().rank() == 0;
      const results::RunConfig config =
          run_config(spec, data, fingerprint, context.backend().description(), command);
      if (writes && !results::is_run_folder(spec.folder))
        results::begin_run(spec.folder, config, false);  // also for a run that fails at once
      Sitting sitting(spec, data, config, ranks, context, progress, progress_id);
      try {
        RunOutcome own = sitting.run();
        if (writes) outcome = std::move(own);
      } catch (...) {
        if (writes) step = sitting.done();
        throw;
      }
    });
    outcome.ok = true;
    return outcome;
  } catch (const std::bad_alloc&) {
    outcome.failure = "out of memory on the host";
  } catch (const std::exception& error) {
    outcome.failure = error.what();
  }
  outcome.ok = false;
  outcome.line = fmt::format("{:<29} FAILED at step {}: {}", spec.title(), step, outcome.failure);
  if (!ranks.first_process()) return outcome;
  try {
    results::write_failure(spec.folder, {outcome.failure, step});
  } catch (const std::exception& error) {
    outcome.line += fmt::format("; and failed.json could not be written: {}", error.what());
  }
  return outcome;
}

}  // namespace glia
