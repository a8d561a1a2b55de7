#include "experiments/training/run.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "engine/core/build_info.h"
#include "engine/core/file.h"
#include "experiments/records/tensorboard.h"
#include "experiments/training/data_source.h"
#include "experiments/training/evaluation.h"
#include "nn/weights/checkpoint.h"

namespace fs = std::filesystem;

namespace glia {
namespace {

using results::Json;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// What of config.json says what is computed; the rest may differ between two sittings of one run.
Json identity(const Json& whole) {
  Json json = Json::object();
  for (const auto& [key, value] : whole.items())
    if (!results::is_incidental(key)) json[key] = value;
  if (json.contains("train"))
    json["train"].emplace("gradients", "float32");  // kept only where it is something else
  return json;
}

std::string first_difference(const Json& old_json, const Json& new_json, const std::string& where) {
  for (const auto& [key, value] : new_json.items()) {
    const std::string name = where.empty() ? key : where + "." + key;
    const Json before = old_json.value(key, Json());
    if (before == value) continue;
    if (before.is_object() && value.is_object()) {
      if (std::string deeper = first_difference(before, value, name); !deeper.empty()) return deeper;
    } else {
      return fmt::format("{} is {}, and {} is asked for", name, before.dump(), value.dump());
    }
  }
  return "";
}

// metrics.jsonl and, where wanted, TensorBoard's events; complete on the disk after every add(), since a checkpoint
// may follow.
class RunLog {
 public:
  RunLog(const std::string& folder, int64_t resume_step, bool tensorboard) : metrics_(folder, resume_step) {
    if (tensorboard) events_.emplace(folder, kTime, resume_step);
  }
  template <class Point> void add(const Point& point) {
    metrics_.add(point);
    if (!events_) return;
    events_->set_wall_time(kTime + static_cast<double>(point.step));
    events_->add(point);
    events_->flush();
  }

 private:
  // Events want a date; a real one would make each attempt's bytes differ. A second a step from here on.
  static constexpr double kTime = 1735689600;  // 2025-01-01
  results::MetricsLog metrics_;
  std::optional<results::TensorBoardWriter> events_;
};

// One run under way.
class Sitting {
 public:
  Sitting(const RunSpec& spec, const Dataset& data, const results::RunConfig& config, Context& context,
          Progress& progress, int progress_id)
      : spec_(spec),
        options_(spec.options),
        data_(data),
        config_(config),
        context_(context),
        progress_(progress),
        progress_id_(progress_id),
        trainer_(context, data, training_options(spec), spec.model, spec.seed()),
        config_text_(identity(results::to_json(config)).dump()) {}

  int64_t done() const { return trainer_.done(); }
  RunOutcome run();

 private:
  std::string checkpoint_path() const { return spec_.folder + "/checkpoint.safetensors"; }
  bool resume();
  void save();
  void log_losses(RunLog& log);
  void evaluate(RunLog& log, Evaluator& evaluator, const char* split);
  void restore_best();
  void show(bool evaluated);
  std::vector<Statistic> state() { return trainer_.model().router_state(); }

  const RunSpec& spec_;
  const Options& options_;
  const Dataset& data_;
  const results::RunConfig& config_;
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
    std::vector<Statistic> tensors = state();
    if (progress.at("best_step").get<int64_t>() > 0) {
      best_.push_back({"best.weights", empty_like(trainer_.model().parameters().values())});
      for (const Statistic& s : state()) best_.push_back({"best." + s.name, empty_like(s.value)});
      tensors.insert(tensors.end(), best_.begin(), best_.end());
    }
    load_checkpoint(checkpoint_path(), trainer_.model().parameters(), &trainer_.optimiser(), tensors);
    best_step_ = progress.at("best_step").get<int64_t>();
    best_accuracy_ = progress.at("best_accuracy").get<double>();
    best_score_ = progress.value("best_score", best_accuracy_);  // runs from before there were tasks chose by it
    seconds_before_ = progress.at("seconds").get<double>();
    if (progress.contains("accuracy")) now_.accuracy = progress["accuracy"].get<double>();
    trainer_.seek(info.step);
    return true;
  } catch (const std::exception& error) {
    // A checkpoint that cannot be used costs time, not the run. Loading changes nothing unless everything fits.
    progress_.say(fmt::format("{}: begins anew: {}", spec_.title(), error.what()));
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
  StepLosses mean{0, std::vector<double>(steps.front().parts.size(), 0.0)};
  for (size_t i = 0; i < steps.size(); ++i) {
    if (!std::isfinite(steps[i].loss))
      fail_input("the loss is {} at step {} (learning rate {})", steps[i].loss, first + static_cast<int64_t>(i),
                 options_.lr);
    mean.loss += steps[i].loss / static_cast<double>(steps.size());
    for (size_t p = 0; p < mean.parts.size(); ++p)
      mean.parts[p] += steps[i].parts[p] / static_cast<double>(steps.size());
  }
  results::TrainPoint point;
  point.step = trainer_.done();
  point.epoch = static_cast<double>(point.step) / static_cast<double>(trainer_.steps_per_epoch());
  point.values.set("loss", mean.loss);
  const std::vector<std::string>& names = trainer_.part_names();
  for (size_t p = 0; p < names.size(); ++p) {
    if (names[p] == kOverflow && mean.parts[p] > 0)
      fail_input("router {}: --max-k: a token wanted more experts than that (steps {} to {}); 0 allows all",
                 spec_.model.moe.router, first, point.step);
    point.values.set(names[p], mean.parts[p]);
  }
  now_.losses = point.values;
  const AdamW::Report report = trainer_.optimiser().report();
  point.values.set("lr", report.learning_rate);
  point.values.set("grad_norm", report.gradient_norm);
  if (!std::isfinite(report.gradient_norm))
    fail_input("the gradient's norm is {} at step {} (learning rate {})", report.gradient_norm, point.step,
               options_.lr);
  log.add(point);
}

void Sitting::evaluate(RunLog& log, Evaluator& evaluator, const char* split) {
  const auto begin = Clock::now();
  const Measured m = evaluator.measure();
  log.add(results::EvalPoint{split, trainer_.done(), m.values, m.layers});
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

RunOutcome Sitting::run() {
  const bool resumed = resume();
  results::begin_run(spec_.folder, config_, resumed);
  if (!resumed) fs::remove(checkpoint_path());
  if (!options_.init.empty())
    write_file_atomic(spec_.folder + "/weights.txt", report_text(options_, trainer_.warm_start_report()));
  first_step_ = trainer_.done();
  RunLog log(spec_.folder, first_step_, options_.report);
  now_.split = options_.select == "test" ? "test" : "validation";
  now_.step = first_step_;
  now_.total = trainer_.total();
  progress_.update(progress_id_, now_, false);

  std::optional<Evaluator> evaluator;
  const bool on_test = options_.select == "test";
  if (on_test || data_.validation.size() > 0)
    evaluator.emplace(trainer_.model(), on_test ? data_.test : data_.validation, options_, data_.vocabulary());
  const int64_t every = options_.eval_every > 0 ? options_.eval_every : trainer_.steps_per_epoch();
  auto last_save = Clock::now();
  while (trainer_.done() < trainer_.total()) {
    trainer_.step();
    const int64_t step = trainer_.done();
    const bool last = step == trainer_.total(), logs = step % options_.log_every == 0 || last;
    const bool evaluates = evaluator && (step % every == 0 || last);
    if (logs) log_losses(log);
    if (evaluates) evaluate(log, *evaluator, on_test ? "test" : "validation");
    if (logs || evaluates) show(evaluates);
    const bool due = options_.checkpoint_every > 0 ? step % options_.checkpoint_every == 0
                                                   : seconds_since(last_save) >= options_.checkpoint_seconds;
    // Only where the log has a line: then nothing of a half-logged interval must be remembered.
    if (logs && !last && due) {
      save();
      last_save = Clock::now();
    }
  }
  evaluator.reset();
  const double training_seconds = seconds_since(begin_) - evaluation_seconds_;

  restore_best();
  results::Evaluation evaluation;
  evaluation.step = best_step_ > 0 ? best_step_ : trainer_.done();
  if (!on_test && options_.select == "validation") evaluation.validation_accuracy = best_accuracy_;
  Measured test = Evaluator(trainer_.model(), data_.test, options_, data_.vocabulary()).measure();
  if (options_.utilisation_rows > 0 && options_.utilisation_rows < test.rows && !test.layers.empty()) {
    Measured part =
        Evaluator(trainer_.model(), data_.test, options_, data_.vocabulary(), options_.utilisation_rows).measure();
    test.utilisation = std::move(part.utilisation);
    test.layers = std::move(part.layers);
  }
  evaluation.rows = test.rows;
  evaluation.values = test.values;
  evaluation.class_accuracy = test.class_accuracy;
  evaluation.layers = test.layers;
  save_checkpoint(spec_.folder + "/model.safetensors", trainer_.model().parameters(), nullptr, state(),
                  {evaluation.step, spec_.seed(), config_text_, ""});

  RunOutcome outcome;
  outcome.ok = true;
  outcome.seconds = seconds_before_ + seconds_since(begin_);
  const double steps = static_cast<double>(trainer_.done() - first_step_);
  results::write_timing(spec_.folder,
                        {{"seconds", outcome.seconds},
                         {"ms_per_step", steps > 0 ? 1e3 * training_seconds / steps : 0.0},
                         {"tokens_per_second", static_cast<double>(trainer_.tokens_done()) / training_seconds},
                         {"sequences_per_second", steps * static_cast<double>(options_.batch) / training_seconds},
                         {"peak_bytes", context_.allocator().stats().peak},
                         {"parameters", trainer_.model().parameters().count()},
                         {"resumed_at_step", first_step_},
                         {"machine", context_.backend().description()},
                         {"commit", build_commit()}});
  results::write_evaluation(spec_.folder, evaluation, test.utilisation, data_.class_names);
  fs::remove(checkpoint_path());

  outcome.line = fmt::format("{:<29} test {:.4f}", spec_.title(), test.values.get("accuracy"));
  if (evaluation.validation_accuracy) outcome.line += fmt::format("  val {:.4f}", *evaluation.validation_accuracy);
  if (!test.layers.empty()) {
    const results::LayerMetrics &first = test.layers.front(), &last = test.layers.back();
    outcome.line += fmt::format("  specialisation {:.4f} … {:.4f}, CLS {:.4f} … {:.4f}",
                                first.scalar("specialisation"), last.scalar("specialisation"),
                                first.scalar("specialisation_cls"), last.scalar("specialisation_cls"));
  }
  outcome.line += fmt::format("  {:.1f} s", outcome.seconds);
  return outcome;
}

}  // namespace

namespace {

std::string routing_flags_of(const MoeConfig& moe) {
  if (moe.dense()) return "dense has none";
  std::string line = moe.router + " has";
  for (const OptionRow& row : routing_options(moe.router)) line += fmt::format(" --{}", row.name);
  return line;
}

[[noreturn]] void refuse_routing_flag(const std::string& name, const OptionValue& value, const std::string& known) {
  fail_input("--{}: expected an option of a router that is run ({}), got '{}'", name, known, option_text(value));
}

// A flag that no run of these takes is an error; where some do, it is theirs. What a configuration itself says must be
// its router's.
void check_routing_flags(const Options& options, const std::vector<RunSpec>& specs) {
  for (const RunSpec& spec : specs)
    for (const auto& [name, value] : spec.options.routing.all())
      if (!options.routing.contains(name) && !spec.model.moe.options.contains(name))
        refuse_routing_flag(name, value, routing_flags_of(spec.model.moe));
  for (const auto& [name, value] : options.routing.all()) {
    std::string known;
    bool taken = false;
    for (const RunSpec& spec : specs) {
      taken = taken || spec.model.moe.options.contains(name);
      const std::string line = routing_flags_of(spec.model.moe);
      if (known.find(line) == std::string::npos) known += (known.empty() ? "" : "; ") + line;
    }
    if (!taken) refuse_routing_flag(name, value, known);
  }
}

Json json_of(const OptionValue& value) {
  return std::visit([](const auto& v) { return Json(v); }, value);
}

}  // namespace

std::vector<RunSpec> plan_runs(const Options& options, const std::vector<std::string>& configs) {
  return plan_runs(options, find_study(options.study), configs);
}

std::vector<RunSpec> plan_runs(const Options& options, const Study& study,
                               const std::vector<std::string>& configs) {
  std::vector<RunSpec> specs;
  std::map<std::string, CheckedWeights> checked;  // by path and shape: nine runs from one file read it once here
  for (const int seed : parse_seeds(options.seeds))
    for (const std::string& config : configs) {
      const Configuration& row = configuration_of(study, config);
      RunSpec spec{options, {}, seed, ""};
      apply_settings(spec.options, row.settings);
      if (spec.options.init != options.init) {  // weights of its own
        std::set<std::string> given = options.typed;
        for (const auto& [key, value] : row.settings) given.insert(key);
        shape_by_weights(spec.options, given);
      }
      check_options(spec.options);
      const Options& o = spec.options;
      spec.model = run_model(o, row);
      spec.folder = results::run_folder(o.out, seed, spec.model.name);
      spec.study = study.name;
      for (const auto& [key, value] : row.settings)
        if (!o.typed.contains(key)) spec.sets.push_back(json_key(key));
      if (const std::string start = start_run(o.init); start.empty() && !o.init.empty()) {
        const std::string key = fmt::format("{} {} {} {} {}", o.init, o.init_layers, o.layers, o.hidden, o.ffn);
        if (!checked.contains(key)) checked[key] = check_weights(o);
        spec.weights = checked[key];
      } else if (!start.empty()) {
        spec.starts_from = results::run_folder(o.out, seed, start);
        const bool planned =
            std::ranges::any_of(specs, [&](const RunSpec& s) { return s.folder == spec.starts_from; });
        if (!planned && !results::is_done(spec.starts_from))
          fail_input("--init {}: {} wants the finished run {}, which is neither there nor planned before it",
                     o.init, spec.title(), spec.starts_from);
      }
      if (ParameterSet unused; !spec.model.moe.dense())
        make_router(spec.model.moe.router, unused, "router", router_options(spec.model.moe, o.hidden, 0));
      specs.push_back(std::move(spec));
    }
  check_routing_flags(options, specs);
  return specs;
}

Options training_options(const RunSpec& spec) {
  Options o = spec.options;
  if (!spec.starts_from.empty()) o.init = spec.starts_from;
  return o;
}

results::RunConfig run_config(const RunSpec& spec, const Dataset& data, uint64_t fingerprint,
                              const std::string& device, const std::string& command) {
  const Options& o = spec.options;
  results::RunConfig c;
  c.config = spec.model.name;
  c.seed_index = spec.seed_index;
  c.seed = spec.seed();
  c.protocol = o.protocol;
  c.preset = o.preset;
  c.precision = o.precision;
  c.router = spec.model.moe.router;
  c.balance = spec.model.moe.balance;
  c.energy = spec.model.moe.energy;
  c.model = to_json(o, Flag::Part::kModel);
  c.model["experts"] = spec.model.moe.dense() ? 0 : spec.model.moe.n_experts;
  c.model["top_k"] = spec.model.moe.dense() ? 0 : spec.model.moe.top_k;
  if (!spec.model.moe.dense()) {
    const OptionValues& set = spec.model.moe.options;
    for (const OptionRow& row : router_row(spec.model.moe.router).options)
      c.model[option_key(row.name)] = json_of(set.contains(row.name) ? set.all().at(row.name) : row.standard);
    for (const auto& [name, value] : set.all()) c.model[option_key(name)] = json_of(value);
  }
  c.model["classes"] = data.classes();
  c.model["vocabulary"] = data.vocabulary().size();
  // Kept only where weights say something else: older runs have none of them.
  if (const BertConfig usual;
      o.positions != usual.positions || o.types != usual.types || o.norm_eps != usual.layer_norm_eps) {
    c.model["positions"] = o.positions;
    c.model["types"] = o.types;
    c.model["norm_eps"] = o.norm_eps;
  }
  c.train = to_json(o, Flag::Part::kTrain);
  // Runs from before there was a choice have none of these.
  for (const char* key : {"freeze", "train"})
    if (c.train[key] == "") c.train.erase(key);
  if (o.task == "classification")
    for (const char* key : {"task", "mask_rate"}) c.train.erase(key);
  if (o.micro_batches == 1) c.train.erase("micro_batches");
  c.train["max_length"] = o.max_length;
  if (o.gradients != "float32")
    c.train["gradients"] = o.gradients;  // runs from before there was a choice have none
  c.train["data_hash"] = fmt::format("{:016x}", fingerprint);
  c.options = to_json(o, Flag::Part::kProtocol);
  c.data = data_info(data);
  c.data.options = to_json(o, Flag::Part::kData);
  // Runs from before there was a choice have neither.
  if (o.csv_separator == "auto") c.data.options.erase("csv_separator");
  if (!data.tokenizer->lowercase()) c.data.options["lowercase"] = false;
  c.commit = build_commit();
  c.device = device;
  c.command = command;
  c.study = spec.study;
  c.sets = spec.sets;
  return c;
}

void require_same_run(const std::string& folder, const results::RunConfig& config) {
  const std::string path = folder + "/config.json";
  if (!fs::exists(path)) return;
  const Json old_json = Json::parse(read_file(path), nullptr, false);
  if (!old_json.is_object()) fail_input("{}: expected a run's configuration, got something else", path);
  const std::string difference = first_difference(identity(old_json), identity(results::to_json(config)), "");
  if (!difference.empty())
    fail_input(
        "{}: this run was made with other settings: its {}; choose another --out, or --fresh on to begin it anew",
        folder, difference);
}

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
                       const std::string& command, Progress& progress, int progress_id) {
  RunOutcome outcome;
  int64_t step = 0;
  try {
    // What a killed program left half-written.
    if (fs::is_directory(spec.folder))
      for (const auto& entry : fs::directory_iterator(spec.folder))
        if (entry.path().extension() == ".tmp") fs::remove(entry.path());
    Context context(device, spec.seed());
    context.check_finite = spec.options.check_finite;
    const results::RunConfig config = run_config(spec, data, fingerprint, context.backend().description(), command);
    if (!results::is_run_folder(spec.folder))
      results::begin_run(spec.folder, config, false);  // also for a run that fails at once
    const auto attempt = [&] {
      Sitting sitting(spec, data, config, context, progress, progress_id);
      try {
        return sitting.run();
      } catch (...) {
        step = sitting.done();
        throw;
      }
    };
    return attempt();
  } catch (const std::bad_alloc&) {
    outcome.failure = "out of memory on the host";
  } catch (const std::exception& error) {
    outcome.failure = error.what();
  }
  outcome.line = fmt::format("{:<29} FAILED at step {}: {}", spec.title(), step, outcome.failure);
  try {
    results::write_failure(spec.folder, {outcome.failure, step});
  } catch (const std::exception& error) {
    outcome.line += fmt::format("; and failed.json could not be written: {}", error.what());
  }
  return outcome;
}

}  // namespace glia
