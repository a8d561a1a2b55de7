#include "experiments/report/warnings.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "experiments/report/of_runs/analysis_values.h"
#include "experiments/report/pictures/fonts.h"

namespace glia::results {
namespace {

std::string seed_list(const std::vector<int>& seeds) {
  std::string text;
  for (int seed : seeds) text += fmt::format("{}{}", text.empty() ? "" : ", ", seed);
  return text;
}

std::string name_list(const std::set<std::string>& names) {
  std::string text;
  for (const auto& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

// What more seeds would give, from the spread of those that are there.
void warn_of_few_seeds(Summary& s) {
  if (int(s.seeds.size()) >= kLeastSeeds) return;
  std::string text = fmt::format("{} seed{} only: no intervals and no tests (n/a), differences may be chance.",
                                 s.seeds.size() == 1 ? "One" : "Two", s.seeds.size() == 1 ? "" : "s");
  double variance = 0;
  int configurations = 0;
  for (const ConfigSummary& c : s.configs)
    if (const Metric* m = c.find("accuracy"); m && m->estimate.sd)
      variance += *m->estimate.sd * *m->estimate.sd, ++configurations;
  if (variance > 0) {  // seeds that all say the same tell nothing of what others would
    // Of a difference of two means of n seeds each, with the pooled spread seen here.
    const double sd = std::sqrt(variance / configurations), n = 5;
    text +=
        fmt::format(" Five would tell accuracies apart that differ by about {:.2f} points (--seeds 5 adds them).",
                    100 * statistics::t_quantile(0.95, 2 * n - 2) * sd * std::sqrt(2 / n));
  } else {
    text += " --seeds 5 adds what they need.";
  }
  s.warnings.push_back(text);
}

// A run that never left a plateau makes its configuration's mean mean nothing.
void warn_of_stuck_runs(Summary& s) {
  constexpr double kBelowOwn = 0.05, kBelowAll = 0.10;
  double best = 0;
  for (const RunLine& run : s.runs) best = std::max(best, run.accuracy.value_or(0));
  const double classes = std::max<double>(2, double(s.common.data.class_names.size()));
  const bool names_topics = s.common.task() == "classification";  // of words nobody knows what guessing would reach
  for (const RunLine& run : s.runs) {
    if (!run.accuracy) continue;
    double own = 0;
    for (const RunLine& other : s.runs)
      if (other.config == run.config) own = std::max(own, other.accuracy.value_or(0));
    // Three standard errors above guessing.
    const double chance = 1 / classes, rows = double(std::max<int64_t>(s.common.data.test_rows, 1));
    const bool guesses = names_topics && *run.accuracy <= chance + 3 * std::sqrt(chance * (1 - chance) / rows);
    const std::string name = fmt::format("{} of seed{}", run.config, run.seed_index);
    if (guesses)
      s.warnings.push_back(fmt::format("At chance: {} has accuracy {:.4f} with {} topics; it learned nothing.",
                                       name, *run.accuracy, s.common.data.class_names.size()));
    else if (*run.accuracy < own - kBelowOwn)
      s.warnings.push_back(
          fmt::format("Stuck: {} has accuracy {:.4f}, the best seed of that configuration {:.4f}; "
                      "more epochs may free it.",
                      name, *run.accuracy, own));
    else if (*run.accuracy < best - kBelowAll)
      s.warnings.push_back(
          fmt::format("Far below: {} has accuracy {:.4f}, the best run {:.4f}.", name, *run.accuracy, best));
  }
}

// A topic that no test row has is n/a wherever topics are compared.
void warn_of_unseen_topics(Summary& s, const Listing& listing) {
  for (const Run& run : listing.runs) {
    if (!run.evaluation) continue;
    for (size_t c = 0; c < run.evaluation->class_accuracy.size() && c < run.config.data.class_names.size(); ++c)
      if (std::isnan(run.evaluation->class_accuracy[c]))
        s.warnings.push_back(fmt::format("The test rows have none of the topic {}: it is n/a and in no mean.",
                                         run.config.data.class_names[c]));
    return;  // all runs have the same test rows
  }
}

}  // namespace

void add_warnings(Summary& s, const Listing& listing) {
  const auto add = [&](std::string text) { s.warnings.push_back(std::move(text)); };
  const RunConfig& c = s.common;
  if (c.data.synthetic)
    add(fmt::format("Synthetic data ({}): these numbers say how the programs behave, nothing about real news{}.",
                    c.data.name,
                    c.data.bayes_accuracy && c.task() == "classification"
                        ? fmt::format("; the best possible accuracy is {:.4f}", *c.data.bayes_accuracy)
                        : ""));
  warn_of_unseen_topics(s, listing);
  if (const std::string note = drawing::missing_font_note(c.data.class_names); !note.empty()) add(note);
  for (const Problem& problem : listing.problems) add("Not readable: " + problem.message);
  for (const RunLine& run : s.runs)
    if (run.state == RunState::failed)
      add(fmt::format("Failed: {} of seed{}: {}", run.config, run.seed_index, run.reason));
  for (const ConfigSummary& config : s.configs) {
    if (!config.unfinished.empty())
      add(fmt::format("Not finished: {} of seed {}", config.config, seed_list(config.unfinished)));
    std::vector<int> missing;
    for (int seed : s.seeds)
      if (std::ranges::find(config.seeds, seed) == config.seeds.end() &&
          std::ranges::find(config.failed, seed) == config.failed.end() &&
          std::ranges::find(config.unfinished, seed) == config.unfinished.end())
        missing.push_back(seed);
    if (!missing.empty()) add(fmt::format("Missing: {} has no run of seed {}", config.config, seed_list(missing)));
  }
  warn_of_few_seeds(s);
  warn_of_stuck_runs(s);
  for (const std::string& baseline : s.study.accuracy_baselines)
    if (!s.find(baseline)) add(fmt::format("No {} runs: the accuracies are not compared with it.", baseline));
  for (const std::string& baseline : s.study.routing_baselines)
    if (s.layers > 0 && !s.find(baseline))
      add(fmt::format("No {} runs: the specialisations are not compared with it.", baseline));
  std::set<double> analysed;
  for (const ConfigSummary& config : s.configs)
    if (const Metric* tokens = config.find(kAnalysedTokens))
      analysed.insert(tokens->values.begin(), tokens->values.end());
  if (analysed.size() > 1)
    add(fmt::format(
        "The runs were analysed on {} to {} tokens: values of all rows and of a part of them (--rows) stand beside "
        "each other.",
        *analysed.begin(), *analysed.rbegin()));
  std::set<std::string> precisions, commits, devices;
  for (const Run& run : listing.runs) {
    precisions.insert(run.config.precision);
    commits.insert(run.config.commit);
    devices.insert(run.config.device);
  }
  if (precisions.size() > 1) add("The runs differ in precision: " + name_list(precisions));
  if (commits.size() > 1) add("The runs come from different commits: " + name_list(commits));
  if (devices.size() > 1) add("The runs come from different devices: " + name_list(devices));
  if (c.protocol == "paper")
    add("Protocol \"paper\": the model is selected on the test set and padding is routed, as the published code "
        "does.");
  else if (s.layers > 0 && c.options.value("padding", "packed") == "padded")
    add("Padded batches: padding is routed and counts in the losses on routing (balance, energy), which are not those of "
        "packed batches.");
}

}  // namespace glia::results
