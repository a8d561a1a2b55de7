#include "experiments/training/schedule.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <thread>

#include "engine/core/build_info.h"
#include "engine/core/clock.h"
#include "engine/core/command_line/program.h"
#include "engine/core/file.h"
#include "experiments/report/grid.h"
#include "experiments/report/report.h"
#include "experiments/report/summary.h"
#include "experiments/report/tables.h"
#include "experiments/training/balance.h"
#include "experiments/training/estimate.h"
#include "experiments/training/feed/data_source.h"
#include "experiments/training/grid_run.h"
#include "experiments/training/pretrained.h"

namespace fs = std::filesystem;

namespace glia {
namespace {

std::string checkpoint_of(const RunSpec& spec) { return spec.folder + "/checkpoint.safetensors"; }

// What a program leaves that is killed between the last two acts of a run.
void remove_leftovers(const RunSpec& spec) {
  RunLock lock(spec.options.out, spec.title());
  if (lock.try_lock() && results::is_done(spec.folder)) fs::remove(checkpoint_of(spec));
}

// summary.json and summary.csv, and the report where it is wanted. Under the summary's lock, so that what a killed
// program left half-written is nobody's.
results::Summary write_outputs(const Options& options) {  // of options.out
  for (const auto& entry : fs::directory_iterator(options.out)) {
    const std::string name = entry.path().filename().string();
    const bool ours = name.starts_with("summary.") || name.starts_with("report.html.") ||
                      name.starts_with("timing.") || name.starts_with("study.");
    if (name.ends_with(".tmp") && ours) fs::remove(entry.path());
  }
  if (options.report) return results::write_report(options.out);
  const results::Summary summary = results::summarise(options.out);
  results::write_summary(options.out, summary);
  return summary;
}

// The runs and who takes which; one object a call of run_experiment.
class Schedule {
 public:
  Schedule(std::vector<RunSpec> specs, const Dataset& data, uint64_t fingerprint, std::string command,
           const StepTimes& times, Progress& progress, const Ranks& ranks, std::vector<Device> devices)
      : data_(data),
        fingerprint_(fingerprint),
        command_(std::move(command)),
        progress_(progress),
        ranks_(ranks),
        devices_(std::move(devices)) {
    double work = 0;
    for (RunSpec& spec : specs) {
      const double seconds = times.run_seconds(spec);
      work += seconds;
      items_.push_back({std::move(spec), seconds, Item::State::kOpen});
    }
    progress_.plan(static_cast<int>(items_.size()), work);
  }

  // One worker of devices[device]: takes open runs until none is left. Runs that another program has locked wait till
  // the end, and so do those that start from a run that somebody is still at.
  void work(size_t device) {
    for (bool waiting = false;;) {
      Item* item = take(waiting, device);
      if (!item && waiting && !settled()) {
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
        continue;
      }
      if (!item && waiting) return;
      if (!item) {
        waiting = true;
        continue;
      }
      try {
        run(*item);
      } catch (const std::exception& error) {  // the lock or the disk
        const std::lock_guard guard(mutex_);
        item->state = Item::State::kClosed;
        failures_.push_back(fmt::format("{:<29} FAILED: {}", item->spec.title(), error.what()));
        progress_.say(failures_.back());
      }
    }
  }
  const std::vector<std::string>& failures() const { return failures_; }

 private:
  struct Item {
    enum class State { kOpen, kTaken, kElsewhere, kClosed };
    RunSpec spec;
    double seconds;
    State state;
    bool elsewhere = false;  // found locked by another program
    size_t device = 0;       // where kTaken
    int progress = -1;       // its number there, once it has begun
  };

  // No item is open that could still become ready. The caller holds nothing.
  bool settled() {
    const std::lock_guard guard(mutex_);
    return std::ranges::none_of(items_, [](const Item& item) { return item.state == Item::State::kOpen; });
  }

  // Whether the run that this one starts from has come to its end, one way or the other.
  bool ready(const Item& item) const {
    return item.spec.starts_from.empty() || std::ranges::none_of(items_, [&](const Item& other) {
             return other.spec.folder == item.spec.starts_from && other.state != Item::State::kClosed;
           });
  }

  // The caller holds the mutex.
  bool leave_to_another_device(const Item& next, size_t device) const {
    std::vector<double> left(devices_.size());
    double waiting = 0;
    for (const Item& item : items_) {
      if (item.state == Item::State::kOpen) waiting += item.seconds;
      if (item.state == Item::State::kTaken)
        left[item.device] += item.progress < 0 ? item.seconds : progress_.remaining(item.progress);
    }
    return !is_turn_of(device, left, next.seconds, waiting);
  }

  Item* take(bool waiting, size_t device) {
    const std::lock_guard guard(mutex_);
    const auto ready_in = [&](Item::State state) {
      return std::ranges::find_if(items_, [&](const Item& item) { return item.state == state && ready(item); });
    };
    auto item = ready_in(Item::State::kOpen);
    if (item != items_.end() && leave_to_another_device(*item, device)) return nullptr;
    if (item == items_.end() && waiting) item = ready_in(Item::State::kElsewhere);
    if (item == items_.end()) return nullptr;
    item->state = Item::State::kTaken;
    item->device = device;
    return &*item;
  }

  void close(Item& item, Item::State state) {
    const std::lock_guard guard(mutex_);
    item.state = state;
  }

  void run(Item& item) {
    RunLock lock(item.spec.options.out, item.spec.title());
    if (item.elsewhere) {
      progress_.say(fmt::format("{:<29} another program works on it: waiting", item.spec.title()));
      lock.wait();
    } else if (!lock.try_lock()) {
      item.elsewhere = true;
      close(item, Item::State::kElsewhere);
      return;
    }
    if (results::is_done(item.spec.folder) && (!item.spec.options.fresh || item.elsewhere)) {
      fs::remove(checkpoint_of(item.spec));
      progress_.skip(item.seconds,
                     item.elsewhere ? fmt::format("{:<29} done by another program", item.spec.title()) : "");
      close(item, Item::State::kClosed);
      return;
    }
    const int id = progress_.start(item.spec.title(), item.seconds);
    {
      const std::lock_guard guard(mutex_);
      item.progress = id;
    }
    ranks_.lead(&item - items_.data());
    const RunOutcome outcome =
        execute_run(item.spec, data_, fingerprint_, devices_[item.device], command_, progress_, id, ranks_);
    progress_.finish(id, outcome.line);
    if (!outcome.ok) ranks_.end_all("train", outcome.failure);
    try {  // the report grows with the runs; whoever writes it right now writes it for all
      RunLock summary(item.spec.options.out, "summary");
      if (summary.try_lock()) write_outputs(item.spec.options);
    } catch (const std::exception&) {  // a disk that is full, say: the end of the program says so
    }
    const std::lock_guard guard(mutex_);
    if (!outcome.ok) failures_.push_back(outcome.line);
    item.state = Item::State::kClosed;
  }

  const Dataset& data_;
  const uint64_t fingerprint_;
  const std::string command_;
  Progress& progress_;
  const Ranks& ranks_;
  const std::vector<Device> devices_;  // each has a worker or more
  std::mutex mutex_;
  std::vector<Item> items_;
  std::vector<std::string> failures_;
};

// Throws when the result folder, or another cell of its grid, holds runs that could not stand in one table with these.
void require_one_summary(const Study& study, const std::vector<RunSpec>& specs, const std::string& out,
                         const std::function<results::RunConfig(const RunSpec&)>& config_of) {
  std::vector<results::Run> runs;  // one of each configuration that is planned, then the others that are there
  for (const RunSpec& spec : specs) {
    const auto is_its = [&](const results::Run& run) { return run.config.config == spec.model.name; };
    if (spec.options.out != out || std::ranges::any_of(runs, is_its)) continue;
    results::Run run;
    run.folder = spec.folder, run.config = config_of(spec);
    runs.push_back(std::move(run));
  }
  try {
    // A grid that is made anew is so cell by cell.
    if (!study.grid.empty() && !specs.front().options.fresh)
      results::require_one_grid(fs::path(out).parent_path().string(), study, {runs[0]});
    results::Listing listing;
    try {
      listing = results::list_runs(out);
    } catch (const Error&) {  // nothing is there yet
      return;
    }
    for (results::Run& run : listing.runs) {
      const auto is_it = [&](const RunSpec& s) {
        return s.options.out == out && s.seed_index == run.config.seed_index && s.model.name == run.config.config;
      };
      if (std::ranges::none_of(specs, is_it)) runs.push_back(std::move(run));
    }
    results::require_comparable(runs);
  } catch (const Error& error) {
    fail_input("{}; choose another --out", error.what());
  }
}

// What ./experiments/pretrain and ./tools/export write has a vocabulary where a result folder has its own.
void require_own_folder(const std::string& out) {
  for (const char* file : {"pretraining.json", "model.safetensors"})
    if (fs::exists(fs::path(out) / file))
      fail_input("{}: holds a model ({}), no results; choose another --out", out, file);
}

// A result folder is read by one study: its order, baselines and colours.
void require_one_study(const Options& options, const Study& study) {
  if (!fs::is_directory(options.out)) return;
  const Study there = results::read_study(options.out);
  const bool any = fs::exists(options.out + "/study.txt") || fs::exists(options.out + "/summary.json");
  if (any && there.name != study.name)
    fail_input("{}: holds the study {}, and {} is asked for; choose another --out", options.out, there.name,
               study.name);
}

void print_data(const Dataset& data, std::FILE* out) {
  const double mean = static_cast<double>(data.train.tokens()) / static_cast<double>(data.train.size());
  fmt::print(
      out,
      "data       {}{}: {} training, {} validation, {} test rows, {} classes, {:.1f} tokens a row, {} pieces\n",
      data.name, data.is_synthetic ? " (generated)" : "", data.train.size(), data.validation.size(),
      data.test.size(), data.classes(), mean, data.vocabulary().size());
  if (!data.source.empty()) fmt::print(out, "           {}\n", data.source);
  if (const int64_t copies = data.test.near_copy_count(); copies > 0)
    fmt::print(out, "           {} of the test rows are near copies of a training row\n", copies);
  if (data.bayes_accuracy)
    fmt::print(out, "           no classifier is better than {:.4f} on this test set\n", *data.bayes_accuracy);
  for (const std::string& note : data.notes) fmt::print(out, "           {}\n", note);
  if (!data.cache_note.empty()) fmt::print(out, "           {}\n", data.cache_note);
  if (data.bad_rows.count() > 0) fmt::print(out, "           {}\n", data.bad_rows.summary());
}

std::string titles_of(const std::vector<RunSpec>& specs) {
  std::string titles;
  for (const RunSpec& spec : specs) titles += spec.title() + " ";
  return titles;
}

void print_plan(const std::vector<RunSpec>& specs, size_t folders, size_t open, const Dataset& data,
                std::FILE* out) {
  std::set<std::string> names;
  std::set<int> seeds;
  std::set<int64_t> steps;
  for (const RunSpec& spec : specs) {
    names.insert(spec.model.name), seeds.insert(spec.seed_index);
    steps.insert(total_steps(spec.options, data));
  }
  const std::string steps_text = steps.size() == 1 ? fmt::format("{}", *steps.begin())
                                                   : fmt::format("{} to {}", *steps.begin(), *steps.rbegin());
  if (folders == 1)
    fmt::print(out, "runs       {} configuration{} × {} seed{} = {}", names.size(), names.size() == 1 ? "" : "s",
               seeds.size(), seeds.size() == 1 ? "" : "s", specs.size());
  else fmt::print(out, "runs       {} in {} cells of the grid", specs.size(), folders);
  fmt::print(out, ", {} of them finished before; {} steps each, batch {}\n", specs.size() - open, steps_text,
             specs[0].options.batch);
  std::string seed_text;
  for (const int seed : seeds)
    seed_text += fmt::format("{}seed{} is {}", seed_text.empty() ? "" : ", ", seed, 42 + seed);
  fmt::print(out, "seeds      {}\n", seed_text);
  std::set<std::string> notes;
  for (const RunSpec& spec : specs)
    for (const std::string& loss : losses_without_gradient(spec.model.moe))
      notes.insert(fmt::format("{}: {} changes nothing, since router {} gives it no gradient", spec.model.name,
                               loss, spec.model.moe.router));
  for (const std::string& note : notes) fmt::print(out, "note       {}\n", note);
  std::fflush(out);
}

// A process that is not the first: takes part in the runs that it names.
int follow_runs(const std::vector<RunSpec>& open, const Dataset& data, uint64_t fingerprint, Device device,
                const std::string& command, const Ranks& ranks) {
  Progress silent(Progress::Mode::kOff, stdout);
  for (int64_t run; (run = ranks.follow()) >= 0;) {
    CHECK(run < static_cast<int64_t>(open.size()), "ranks: wants a run below {}, got {}", open.size(), run);
    const RunOutcome outcome =
        execute_run(open[static_cast<size_t>(run)], data, fingerprint, device, command, silent, 0, ranks);
    if (!outcome.ok) ranks.end_all("train", outcome.failure);
  }
  return 0;
}

// How long a dry run may measure.
constexpr double kMeasuredSeconds = 40;

// In short: of what nothing is known, one dense and one MoE configuration stand for the others.
void print_estimate(StepTimes& times, const std::vector<RunSpec>& open, double parallel, std::FILE* out) try {
  std::string parts;
  double seconds = 0;
  for (const RunSpec& spec : open)
    if (times.measure(spec, true))
      parts += fmt::format("{}{} {}", parts.empty() ? "" : ", ", spec.model.moe.dense() ? "dense" : "MoE",
                           step_text(times.of(spec).ms));
  for (const RunSpec& spec : open) seconds += times.run_seconds(spec);
  fmt::print(out, "estimate   {}; about {} for {} run{}\n",
             parts.empty() ? "by finished runs" : parts + " a step here, measured on a few",
             clock_text(seconds / parallel), open.size(), open.size() == 1 ? "" : "s");
  std::fflush(out);
} catch (const Error& error) {  // each run says so itself
  // A flag that no model can take (--freeze of a name that none has) is every run's error: it is told once.
  if (std::string_view(error.what()).starts_with("--")) throw;
  fmt::print(out, "estimate   none: {}\n", error.what());
}

// Where to look, and what to try with what is there now. A report that was not written may be there from before.
void print_next(const Options& options, const std::vector<RunSpec>& specs, bool written, std::FILE* out) {
  if (written && options.report && fs::exists(options.out + "/report.html"))
    fmt::print(out, "\nreport     {}/report.html\n", options.out);
  const auto routed = std::ranges::find_if(
      specs, [](const RunSpec& s) { return !s.model.moe.dense() && results::is_done(s.folder); });
  if (routed == specs.end()) return;
  const std::string seed = fmt::format("{}/seed{}", options.out, routed->seed_index);
  fmt::print(out, "next       {} {}\n", program("tools/heatmap"), quoted_word(seed));
  fmt::print(out, "           {} {} \"a sentence\"\n", program("tools/route"), quoted_word(routed->folder));
  if (find_task(routed->options.task).causal())
    fmt::print(out, "           {} {} \"a prompt\"\n", program("tools/generate"), quoted_word(routed->folder));
}

}  // namespace

int run_experiment(const Options& options, const Study& study, const std::vector<std::string>& configs,
                   const std::string& command, const Ranks& ranks) {
  require_own_folder(options.out);
  if (study.grid.empty() && options.typed.contains("cells"))
    fail_input("--cells: expected a study with a grid, and {} has none", study.name);
  if (study.grid.empty()) return run_specs(options, study, plan_runs(options, study, configs), command, ranks);
  if (ranks.divides(options))
    fail_input("--study {}: expected a study without a grid where ranks share each run; run_all spreads whole runs",
               study.name);
  return run_grid(options, study, configs, command);
}

int run_specs(const Options& options, const Study& study, const std::vector<RunSpec>& specs,
              const std::string& command, const Ranks& ranks) {
  std::FILE* out = stdout;
  const std::vector<const RunSpec*> folders = first_of_each_folder(specs);
  for (const RunSpec* first : folders) require_one_study(first->options, study);
  const bool divides = ranks.divides(options);
  for (const RunSpec& spec : specs) {
    check_batch(spec.options, ranks.count(spec.options));
    ranks.check(spec.options);
    if (divides && spec.options.trace_rows > 0 && !spec.model.moe.dense())
      fail_input("--trace-rows: expected one rank, which sees all rows, got {}", ranks.count(spec.options));
  }
  const std::vector<Device> devices = devices_of(options);
  const int64_t jobs =
      divides ? 1 : std::min<int64_t>(jobs_of(options, devices.size()), static_cast<int64_t>(specs.size()));
  const int64_t cores = omp_get_num_procs();
  const int threads = static_cast<int>(
      options.threads > 0 ? options.threads : std::max<int64_t>(1, cores / std::max<int64_t>(1, jobs)));
  std::string device_text;
  {
    omp_set_num_threads(threads);  // the description tells it
    Context context(devices[0]);   // a device or kernels that are not there are an error before anything else
    if (options.kernels != "auto") context.set_kernels(parse_kernels(options.kernels));
    device_text = context.backend().description();
  }
  omp_set_num_threads(
      static_cast<int>(options.threads > 0 ? threads : cores));  // loading has the machine to itself
  fmt::print(out, "command    {}\n", command);
  fmt::print(out, "commit     {} ({})\n", build_commit(), build_variant());
  fmt::print(out, "device     {}{}, {}, {} run{} side by side\n", device_text,
             devices.size() > 1 ? fmt::format(" and {} more", devices.size() - 1) : "", options.precision, jobs,
             jobs == 1 ? "" : "s");
  if (divides) fmt::print(out, "ranks      {}\n", ranks.described(options));
  fmt::print(out, "study      {}: {}\n", study.name, study.title);
  fmt::print(out, "flags      {}\n", echo(options));
  std::fflush(out);

  const auto load_begin = Clock::now();
  Dataset data;
  ranks.after_first([&] { data = load_data(options); });  // the others find what the first one put into the cache
  const uint64_t fingerprint = data_fingerprint(data);
  ranks.agree({{"the data", fmt::format("{:016x}", fingerprint)}});
  print_data(data, out);
  std::set<std::string> weights;  // a study may start from several
  for (const RunSpec& spec : specs)
    if (spec.weights.words > 0) weights.insert(describe_weights(spec.weights, data.vocabulary()));
  for (const std::string& line : weights) fmt::print(out, "weights    {}\n", line);
  fmt::print(out, "           {} in {:.1f} s\n", data.from_cache ? "from the cache" : "made",
             seconds_since(load_begin));

  // Outputs before training: a folder that cannot be written to, or holds something else, is found out now.
  std::vector<RunSpec> open;
  for (const RunSpec& spec : specs) {
    require_same_words(spec, data);
    require_labels_told(spec, data);
    if (!options.dry_run && ranks.first_process()) RunLock(spec.options.out, spec.title());
    if (!options.fresh) require_same_run(spec.folder, run_config(spec, data, fingerprint, device_text, command));
    if (options.fresh || !results::is_done(spec.folder)) open.push_back(spec);
    else if (!options.dry_run && ranks.first_process()) remove_leftovers(spec);
  }
  ranks.agree({{"the runs that are left to do", titles_of(open)}});
  if (!ranks.first_process())
    return options.dry_run ? 0 : follow_runs(open, data, fingerprint, devices[0], command, ranks);
  for (const RunSpec* first : folders) {
    require_one_summary(study, specs, first->options.out, [&](const RunSpec& spec) {
      return run_config(spec, data, fingerprint, device_text, command);
    });
    if (options.dry_run) continue;
    const bool any_open =
        std::ranges::any_of(open, [&](const RunSpec& s) { return s.options.out == first->options.out; });
    // With it a checkpoint can be used without the data (tools/route).
    if (any_open) data.vocabulary().save(first->options.out + "/vocab.txt");
    results::write_study(first->options.out, study);
  }
  print_plan(specs, folders.size(), open.size(), data, out);
  // Before the threads and the libraries' pools are made.
  omp_set_num_threads(threads);
  StepTimes times(data, devices[0], device_text);
  for (const RunSpec& spec : specs)
    if (results::is_done(spec.folder)) times.add_finished(spec);
  const bool estimated = options.estimate && !divides;
  // Runs on one GPU share it; on a CPU each run was measured with the threads that it will have.
  const double parallel = static_cast<double>(
      devices[0].is_cpu() ? jobs : std::min<int64_t>(static_cast<int64_t>(devices.size()), jobs));
  if (options.dry_run) {
    print_costs(specs, open, data, estimated ? &times : nullptr, kMeasuredSeconds, parallel, out);
    return 0;
  }
  if (estimated && !open.empty()) print_estimate(times, open, parallel, out);

  std::vector<std::string> failures;
  {
    Progress progress(Progress::mode_of(options.progress, out), out);
    const std::vector<Device> used(devices.begin(),
                                   devices.begin() + std::clamp<int64_t>(jobs, 1, std::ssize(devices)));
    Schedule schedule(open, data, fingerprint, command, times, progress, ranks, used);
    const auto work = [&](int64_t job) {
      omp_set_num_threads(threads);
      schedule.work(static_cast<size_t>(job) % used.size());
    };
    if (jobs <= 1) {
      work(0);
    } else {
      std::vector<std::thread> workers;
      for (int64_t job = 0; job < jobs; ++job) workers.emplace_back(work, job);
      for (std::thread& worker : workers) worker.join();
    }
    failures = schedule.failures();
    ranks.lead(-1);
  }

  int status = failures.empty() ? 0 : 1;
  bool written = true;
  for (const RunSpec* first : folders) try {
      const Options& o = first->options;
      RunLock lock(o.out, "summary");
      lock.wait();
      const results::Summary summary = write_outputs(o);
      if (o.report) results::write_plots(o.out, summary, results::list_runs(o.out));
      if (folders.size() == 1) fmt::print(out, "\n{}", results::print_table(summary));
    } catch (const std::exception& error) {
      fmt::print(out, "\nno summary: {}\n", error.what());
      status = 1, written = false;
    }
  if (!failures.empty()) fmt::print(out, "\n{} run{} failed:\n", failures.size(), failures.size() == 1 ? "" : "s");
  for (const std::string& line : failures) fmt::print(out, "  {}\n", line);
  if ((status == 0 || options.report) && folders.size() == 1) print_next(folders[0]->options, specs, written, out);
  return status;
}

}  // namespace glia
