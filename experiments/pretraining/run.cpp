#include "experiments/pretraining/run.h"

#include <omp.h>

#include <cmath>
#include <filesystem>
#include <optional>

#include "engine/core/build_info.h"
#include "engine/core/clock.h"
#include "engine/core/command_line/phase.h"
#include "engine/core/command_line/program.h"
#include "engine/core/file.h"
#include "engine/core/json.h"
#include "experiments/pretraining/pages.h"
#include "experiments/pretraining/text_feed.h"
#include "experiments/records/export.h"
#include "experiments/report/statistics.h"
#include "experiments/training/pretrained.h"
#include "experiments/training/run.h"
#include "nn/heads/joint_head.h"
#include "nn/weights/checkpoint.h"

namespace fs = std::filesystem;

namespace glia {
namespace {

using results::Json;

// Behind what is said of the words; nothing where no topic was asked for.
std::string topics_told(const HeldOut::Measured& m) {
  if (!m.values.contains("task_accuracy")) return "";
  return fmt::format(", {:.4f} of the topics right", m.values.get("task_accuracy"));
}

StepParts parts_of(const PretrainOptions& o, int64_t steps) {
  return {o.micro_batches, static_cast<int64_t>(o.ramp * static_cast<double>(steps))};
}

// A few steps and one evaluation of a model that is thrown away.
ClockPlan measured_plan(const PretrainOptions& o, const Corpus& corpus, const RunModel& model, Context& context) {
  constexpr int64_t kEndless = 1 << 30;
  PretrainOptions unramped = o;
  unramped.ramp = 0, unramped.init.clear();
  Trainer trainer(context, pretraining_plan(unramped, corpus, model, kEndless), unramped, model,
                  static_cast<uint64_t>(o.seed), {});
  const int64_t count = context.device().is_cuda() ? 40 : 3;
  trainer.timed_steps(count);  // plans, graphs, caches
  ClockPlan plan{0, o.minutes, statistics::median(trainer.timed_steps(count)), 0};
  const HeldOut held_out(context, o, corpus);
  held_out.measure(trainer.model());
  const auto begin = Clock::now();
  held_out.measure(trainer.model());
  plan.evaluation_ms = 1e3 * seconds_since(begin);
  plan.steps = steps_in(o.minutes, o, plan.step_ms, plan.evaluation_ms);
  return plan;
}

class Pretraining {
 public:
  Pretraining(const PretrainOptions& o, const Corpus& corpus, const RunModel& model, const ClockPlan& plan,
              const std::string& identity, const Ranks& ranks, Context& context, Progress& progress)
      : options_(o),
        ranks_(ranks),
        writes_(context.communicator().rank() == 0),
        context_(context),
        progress_(progress),
        identity_(identity),
        trainer_(context, pretraining_plan(o, corpus, model, plan.steps), o, model, static_cast<uint64_t>(o.seed),
                 corpus.class_names),
        held_out_(context, o, corpus),
        every_(evaluation_interval(o, plan.steps)) {}

  void run();
  Trainer& trainer() { return trainer_; }
  const HeldOut::Measured& measured() const { return last_; }
  Json timing() const;

 private:
  std::string checkpoint_path() const { return options_.out + "/checkpoint.safetensors"; }
  bool resume();
  void save();
  void log_losses(results::MetricsLog& log);
  void evaluate(results::MetricsLog* log);
  void show(bool evaluated);

  const PretrainOptions& options_;
  const Ranks& ranks_;
  const bool writes_;
  Context& context_;
  Progress& progress_;
  const std::string identity_;
  Trainer trainer_;
  HeldOut held_out_;
  int64_t every_;
  HeldOut::Measured last_;
  RunProgress now_;
  int64_t first_step_ = 0;  // of this sitting
  double seconds_before_ = 0, evaluation_seconds_ = 0;
  Clock::time_point begin_ = Clock::now();
};

bool Pretraining::resume() {
  if (options_.fresh || !fs::exists(checkpoint_path())) return false;
  try {
    const CheckpointInfo info = checkpoint_info(SafetensorsFile(checkpoint_path()));
    if (info.config != identity_) return false;
    // All that may fail comes before the weights are changed.
    CHECK(info.step >= 0 && info.step <= trainer_.total(), "{}: step {} of {}", checkpoint_path(), info.step,
          trainer_.total());
    const auto seconds = Json::parse(info.progress).at("seconds").get<double>();
    load_checkpoint(checkpoint_path(), trainer_.model().parameters(), &trainer_.optimiser(),
                    trainer_.model().router_state());
    seconds_before_ = seconds;
    trainer_.seek(info.step);
    return true;
  } catch (const std::exception& error) {
    // A checkpoint that cannot be used costs time, not the run. Loading changes nothing unless everything fits.
    if (writes_) progress_.say(fmt::format("begins anew: {}", error.what()));
    return false;
  }
}

void Pretraining::save() {
  save_checkpoint(checkpoint_path(), trainer_.model().parameters(), &trainer_.optimiser(),
                  trainer_.model().router_state(),
                  {trainer_.done(), static_cast<uint64_t>(options_.seed), identity_,
                   Json{{"seconds", seconds_before_ + seconds_since(begin_)}}.dump()});
}

void Pretraining::log_losses(results::MetricsLog& log) {
  const std::vector<StepLosses> steps = trainer_.read_losses();
  const StepLosses mean = mean_of(steps);
  results::TrainPoint point;
  point.step = trainer_.done();
  point.epoch = trainer_.epochs_done();
  const AdamW::Report report = trainer_.optimiser().report();
  if (!std::isfinite(mean.loss) || !std::isfinite(report.gradient_norm))
    fail_input("the loss is {} and the gradient's norm {} at step {}: try a lower --lr than {}", mean.loss,
               report.gradient_norm, point.step, options_.lr);
  point.values = named_losses(mean, trainer_.part_names(), trainer_.model().config().moe.router,
                              point.step - static_cast<int64_t>(steps.size()) + 1, point.step);
  now_.losses = point.values;
  point.values.set("lr", report.learning_rate);
  point.values.set("grad_norm", report.gradient_norm);
  log.add(point);
}

void Pretraining::evaluate(results::MetricsLog* log) {
  const auto begin = Clock::now();
  trainer_.gather_weights();
  last_ = held_out_.measure(trainer_.model());
  if (!log) return;
  results::NamedValues values{{"accuracy", last_.accuracy}, {"loss", last_.loss}};
  if (find_task(options_.task).causal()) values = last_.values;
  for (const char* name : {"task_accuracy", "task_loss"})
    if (last_.values.contains(name)) values.set(name, last_.values.get(name));
  log->add(results::EvalPoint{"held_out", trainer_.done(), values, {}});
  now_.accuracy = last_.accuracy;
  evaluation_seconds_ += seconds_since(begin);
  if (options_.progress != "off")
    progress_.say(fmt::format("step {:>6}  held-out loss {:.4f}, {:.4f} of the words right{}", trainer_.done(),
                              last_.loss, last_.accuracy, topics_told(last_)));
}

void Pretraining::show(bool evaluated) {
  const double seconds = seconds_since(begin_), steps = static_cast<double>(trainer_.done() - first_step_);
  now_.step = trainer_.done();
  now_.total = trainer_.total();
  now_.epoch = trainer_.epochs_done();
  now_.tokens_per_second = static_cast<double>(trainer_.tokens_done()) / (seconds - evaluation_seconds_);
  now_.seconds_left = steps > 0 ? seconds / steps * static_cast<double>(now_.total - now_.step) : -1;
  now_.split = "held";
  progress_.update(0, now_, evaluated);
}

void Pretraining::run() {
  first_step_ = resume() ? trainer_.done() : 0;
  // Every rank has read the checkpoint before the first one writes.
  require_same_start(ranks_, context_, trainer_.model().parameters().values(), trainer_.done());
  std::optional<results::MetricsLog> log;
  if (writes_) {
    if (first_step_ == 0) fs::remove(checkpoint_path());
    else if (options_.progress != "off") progress_.say(fmt::format("goes on after step {}", first_step_));
    log.emplace(options_.out, first_step_);
    if (!options_.init.empty())
      write_file_atomic(options_.out + "/weights.txt", report_text(options_, trainer_.warm_start_report()));
  }
  begin_ = Clock::now();
  auto last_save = begin_;
  bool evaluated = false;
  while (trainer_.done() < trainer_.total()) {
    trainer_.step();
    const int64_t step = trainer_.done();
    const bool last = step == trainer_.total(), logs = step % options_.log_every == 0 || last;
    const bool evaluates = step % every_ == 0 || last;
    if (logs && log) log_losses(*log);
    if (evaluates) evaluate(log ? &*log : nullptr);
    evaluated = evaluated || evaluates;
    if (writes_ && (logs || evaluates)) show(false);
    const bool due = options_.checkpoint_every > 0 ? step % options_.checkpoint_every == 0
                                                   : seconds_since(last_save) >= options_.checkpoint_seconds;
    // Only where the log has a line: then nothing of a half-logged interval must be remembered.
    if (logs && !last)
      trainer_.checkpoint(due, [&] {
        save();
        last_save = Clock::now();
      });
  }
  trainer_.gather_weights();
  context_.synchronize();
  if (!evaluated) last_ = held_out_.measure(trainer_.model());
  context_.communicator().barrier();  // nobody leaves while another one's sums are under way
}

Json Pretraining::timing() const {
  const double seconds = seconds_since(begin_), training = seconds - evaluation_seconds_;
  const double steps = static_cast<double>(trainer_.done() - first_step_);
  Json json = {{"seconds", seconds_before_ + seconds},
               {"evaluation_seconds", evaluation_seconds_},
               {"ms_per_step", steps > 0 ? 1e3 * training / steps : 0.0},
               {"tokens_per_second", static_cast<double>(trainer_.tokens_done()) / training},
               {"peak_bytes", context_.allocator().stats().peak},
               {"parameters", const_cast<Trainer&>(trainer_).model().parameters().count()},
               {"resumed_at_step", first_step_},
               {"machine", context_.backend().description()},
               {"commit", build_commit()}};
  if (context_.communicator().size() > 1) {
    json["ranks"] = context_.communicator().description();
    json["moment_bytes"] = const_cast<Trainer&>(trainer_).optimiser().moment_bytes();  // of this rank
  }
  return json;
}

// The number of steps: asked for, recorded by an earlier sitting, or by the clock.
ClockPlan settle_plan(const PretrainOptions& o, const Corpus& corpus, const RunModel& model, Context& context,
                      const Json& before) {
  if (o.steps > 0) return {o.steps};
  if (const Json plan = before.value("plan", Json()); plan.is_object() && plan.value("minutes", 0.0) == o.minutes)
    return {plan.at("steps").get<int64_t>(), o.minutes, plan.at("step_ms").get<double>(),
            plan.at("evaluation_ms").get<double>()};
  return measured_plan(o, corpus, model, context);
}

Json whole_record(const PretrainOptions& o, const Corpus& corpus, const RunModel& model, const ClockPlan& plan,
                  uint64_t text, uint64_t weights) {
  Json json = {{"computed", identity_of(o)}};
  json["computed"]["steps"] = plan.steps;
  json["computed"]["router"] = model.moe.router;
  json["computed"]["vocabulary"] = fmt::format("{:016x}", corpus.vocabulary().hash());
  json["computed"]["text"] = fmt::format("{:016x}", text);
  if (!o.init.empty()) json["computed"]["weights_hash"] = fmt::format("{:016x}", weights);
  json["plan"] = {{"steps", plan.steps},
                  {"minutes", plan.minutes},
                  {"step_ms", plan.step_ms},
                  {"evaluation_ms", plan.evaluation_ms}};
  json["text"] = text_record(o, corpus);
  return json;
}

struct Begun {
  ClockPlan plan;
  std::string identity;
};

// A result folder's vocabulary is its runs': another one in its place would make them unreadable.
void require_own_folder(const std::string& out) {
  for (const char* file : {"study.txt", "summary.json", "seed0"})
    if (fs::exists(fs::path(out) / file))
      fail_input("{}: holds the results of a study ({}); choose another --out", out, file);
}

// "model.safetensors.4711.tmp": of what this program writes. The folder may be one that holds other things too.
bool is_half_written(const std::string& name) {
  for (const std::string file :
       {"pretraining.json", "config.json", "model.safetensors", "checkpoint.safetensors", "metrics.jsonl",
        "timing.json", "vocab.txt", "tokenizer_config.json", "README.md", "weights.txt"})
    if (name.starts_with(file + ".") && name.ends_with(".tmp")) return true;
  return false;
}

// Settles the plan and writes the record; nothing where the folder's model is finished. A folder with something else in it is an
// error, and so are other settings once there is a checkpoint or a model to lose.
std::optional<Begun> begin_folder(const PretrainOptions& o, const Corpus& corpus, const RunModel& model,
                                  uint64_t text, uint64_t weights, Context& context) {
  require_own_folder(o.out);
  for (const auto& entry : fs::directory_iterator(o.out))  // what a killed program left half-written
    if (is_half_written(entry.path().filename().string())) fs::remove(entry.path());
  const std::string path = o.out + "/pretraining.json", config = o.out + "/config.json";
  const bool done = fs::exists(config) && !o.fresh, recorded = fs::exists(path) && !o.fresh;
  if (done && !recorded)
    fail_input("{}: holds another model; choose another --out, or --fresh on to replace it", o.out);
  Json before = Json::object();
  if (recorded && (done || fs::exists(o.out + "/checkpoint.safetensors"))) before = read_json_object(path);
  Begun begun{settle_plan(o, corpus, model, context, before), ""};
  const Json record = whole_record(o, corpus, model, begun.plan, text, weights);
  if (const std::string difference =
          before.empty() ? "" : changed_setting(before.value("computed", Json::object()), record["computed"]);
      !difference.empty())
    fail_input("{}: was made with other settings: its {}; choose another --out, or --fresh on to begin anew", o.out,
               difference);
  if (done) return std::nullopt;
  fs::remove(config);
  fs::remove(o.out + "/weights.txt");  // of a run before this one
  write_file_atomic(path, record.dump(2) + "\n");
  begun.identity = record["computed"].dump();
  return begun;
}

// From the plan to the folder that others read.
void pretrain_on(Context& context, const PretrainOptions& o, const Corpus& corpus, const RunModel& model,
                 const Begun& begun, const Ranks& ranks, Progress& progress) {
  if (o.kernels != "auto") context.set_kernels(parse_kernels(o.kernels));
  context.check_finite = o.check_finite;
  Pretraining pretraining(o, corpus, model, begun.plan, begun.identity, ranks, context, progress);
  pretraining.run();
  if (context.communicator().rank() > 0) return;
  const HeldOut::Measured measured = pretraining.measured();
  const std::string result = fmt::format("held-out loss {:.4f}, accuracy {:.4f}{}", measured.loss,
                                         measured.accuracy, topics_told(measured));
  results::write_timing(o.out, pretraining.timing());
  write_pages(o, corpus, model, begun.plan, result, o.out);
  export_model(saved_config(o, corpus, model), pretraining.trainer().model(), *corpus.tokenizer, o.max_length,
               result, o.out);
  fs::remove(o.out + "/checkpoint.safetensors");
  progress.finish(
      0, fmt::format("{:<29} {}  {:.1f} s", model.name, result, pretraining.timing()["seconds"].get<double>()));
}

// What a process that is not the first takes part in: the first one settles whether anything is left to do.
std::optional<Begun> follow_folder(const PretrainOptions& o, const Corpus& corpus, const RunModel& model,
                                   uint64_t text, uint64_t weights, const Ranks& ranks) {
  if (ranks.follow() < 0) return std::nullopt;
  const ClockPlan plan{o.steps};
  return Begun{plan, whole_record(o, corpus, model, plan, text, weights)["computed"].dump()};
}

// What the options alone do not say.
void check_joint(const RunModel& model, bool divides) {
  if (divides) fail_input("--joint: expected one rank, got several that share the run");
  if (!model.moe.dense() && router_row(model.moe.router).traits.needs_labels)
    fail_input("--joint: expected a router that asks no text for its topic, since not all have one; got {}",
               model.moe.router);
}

}  // namespace

TrainingPlan pretraining_plan(const PretrainOptions& o, const Corpus& corpus, const RunModel& model,
                              int64_t steps) {
  TrainingPlan plan;
  plan.model = model_config(o, model, corpus.vocabulary().size(), corpus.classes());
  if (o.joint > 0) plan.model.head = make_joint_head(o.joint);
  plan.steps = steps;
  plan.parts = parts_of(o, steps);
  plan.feed = text_feed(o, corpus);
  AdamWOptions& a = plan.optimiser;
  a.learning_rate = o.lr, a.weight_decay = o.weight_decay, a.clip = o.clip;
  a.beta1 = o.beta1, a.beta2 = o.beta2, a.eps = o.eps;
  a.warmup_steps = std::llround(o.warmup * static_cast<double>(steps));
  a.warmup_from = o.schedule == "one-cycle" ? 0.25 : 0;
  a.total_steps = steps;
  a.bfloat16_moments = o.adam_state == "bfloat16";
  return plan;
}

int64_t evaluation_interval(const PretrainOptions& o, int64_t steps) {
  return o.eval_every > 0 ? o.eval_every : std::max<int64_t>(1, (steps + 9) / 10);
}

int64_t steps_in(double minutes, const PretrainOptions& o, double step_ms, double evaluation_ms) {
  CHECK(step_ms > 0 && evaluation_ms >= 0, "steps_in: wants times, got {} and {} ms", step_ms, evaluation_ms);
  const auto cost = [&](int64_t steps) {
    const double batches = static_cast<double>(parts_of(o, steps).before(steps));
    const int64_t every = evaluation_interval(o, steps);
    return batches * step_ms / static_cast<double>(o.micro_batches) +
           static_cast<double>((steps + every - 1) / every) * evaluation_ms;
  };
  int64_t low = 1, high = 2;
  const double budget = 60e3 * minutes;
  while (cost(high) <= budget) low = high, high *= 2;
  while (low + 1 < high) {
    const int64_t middle = low + (high - low) / 2;
    (cost(middle) <= budget ? low : high) = middle;
  }
  return low;
}

int run_pretraining(const PretrainOptions& o, const std::string& command, std::FILE* out, const Ranks& ranks) {
  const bool divides = ranks.divides(o);
  if (o.threads > 0) omp_set_num_threads(static_cast<int>(o.threads));
  const Study study = find_study(o.study);
  const RunModel model = run_model(o, configuration_of(study, o.config));
  check_model(o, model);
  for (const auto& [name, why] : idle_options(model.moe)) fail_input("{}", why);
  ranks.check(o);
  ranks.agree({{"the flags", echo_own(o)}});
  if (o.joint > 0) check_joint(model, divides);
  if (std::error_code none; !o.init.empty() && fs::equivalent(o.init, o.out, none))
    fail_input("--init {}: is --out too; expected another folder, since this one's weights are replaced", o.init);
  const CheckedWeights weights = o.init.empty() ? CheckedWeights{} : check_weights(o);
  if (divides && o.steps == 0) fail_input("--minutes: expected --steps where ranks share a run, got {}", o.minutes);
  std::optional<RunLock> lock;
  if (ranks.first_process()) {
    make_folder(o.out);
    lock.emplace(o.out, "pretraining");
    if (!lock->try_lock()) fail_input("{}: another program works on it", o.out);
  }
  Context context(Device::parse(o.device), static_cast<uint64_t>(o.seed));
  if (o.kernels != "auto") context.set_kernels(parse_kernels(o.kernels));
  context.check_finite = o.check_finite;
  fmt::print(out, "command    {}\ncommit     {} ({})\ndevice     {}, {}\n", command, build_commit(),
             build_variant(), context.backend().description(), o.precision);
  if (divides) fmt::print(out, "ranks      {}\n", ranks.described(o));
  std::fflush(out);

  const auto begin = Clock::now();
  Corpus corpus;
  ranks.after_first([&] {
    PhaseDisplay display(o.progress != "off" && ranks.first_process());
    corpus = load_corpus(corpus_options(o), &display);
  });
  print_text(corpus, seconds_since(begin), out);
  if (!o.init.empty()) fmt::print(out, "weights    {}\n", describe_weights(weights, corpus.vocabulary()));
  training_pieces(o, corpus);  // a vocabulary that will not do is found out before anything is written
  const uint64_t text = text_fingerprint(corpus);
  ranks.agree({{"the text", fmt::format("{:016x}", text)}});
  if (!o.dump.empty() && ranks.first_process()) dump_text(o, corpus, o.dump, out);

  const std::optional<Begun> begun = ranks.first_process()
                                         ? begin_folder(o, corpus, model, text, weights.hash, context)
                                         : follow_folder(o, corpus, model, text, weights.hash, ranks);
  if (ranks.first_process()) ranks.lead(begun ? 0 : -1);
  if (!begun) {
    fmt::print(out, "done       {}: nothing is left to do; --fresh on begins anew\n", o.out);
    return 0;
  }
  const ClockPlan& plan = begun->plan;
  if (plan.minutes > 0)
    fmt::print(out, "plan       {} steps in {:.2f} minutes: {:.2f} ms a step, {:.0f} ms an evaluation\n",
               plan.steps, plan.minutes, plan.step_ms, plan.evaluation_ms);
  std::fflush(out);

  Progress progress(ranks.first_process() ? Progress::mode_of(o.progress, out) : Progress::Mode::kOff, out);
  progress.plan(1, 1);
  progress.start(model.name, 1);
  const auto body = [&](Context& own) { pretrain_on(own, o, corpus, model, *begun, ranks, progress); };
  // One rank goes on where the plan was measured: its kernels' plans and memory are there.
  if (divides) ranks.run(o, Device::parse(o.device), static_cast<uint64_t>(o.seed), body);
  else body(context);
  const std::string next =
      find_task(o.task).causal()
          ? fmt::format("{} {} \"a prompt\"", program("tools/generate"), quoted_word(o.out))
          : fmt::format("{} --config {} --init {}", program("experiments/train"), o.config, quoted_word(o.out));
  fmt::print(out, "\nweights    {}\nnext       {}\n", o.out, next);
  return 0;
}

}  // namespace glia
