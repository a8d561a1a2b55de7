#include "experiments/report/grid_choice.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace glia::results {
namespace {

// "specialisation.last" → that of layer 4
std::string metric_name(const std::string& metric, const Summary& s) {
  const size_t dot = metric.find('.');
  if (dot == std::string::npos) return metric;
  const std::string name = metric.substr(0, dot), layer = metric.substr(dot + 1);
  return fmt::format("{}.{}", name == "specialisation" ? kSpecialisation : name,
                     layer == "last" ? std::to_string(s.layers) : layer);
}

std::optional<double> of_seed(const Metric* m, int seed) {
  for (size_t i = 0; m && i < m->seeds.size(); ++i)
    if (m->seeds[i] == seed) return m->values[i];
  return {};
}

// Over these seeds; none where one is missing.
std::optional<double> mean_of(const Metric* m, const std::vector<int>& seeds) {
  double sum = 0;
  for (const int seed : seeds) {
    const auto value = of_seed(m, seed);
    if (!value) return {};
    sum += *value;
  }
  return sum / static_cast<double>(seeds.size());
}

// One run in two cells, where what they set does nothing to the configuration.
bool same_run(const GridSummary& g, const std::string& config, size_t a, size_t b) {
  return std::ranges::all_of(std::array{g.chosen_by.c_str(), "accuracy", "loss"}, [&](const char* metric) {
    return of_first_seed(find_metric(g.cells[a], config, metric)) ==
           of_first_seed(find_metric(g.cells[b], config, metric));
  });
}

// All cells by the first seed, the best first and of equals the first; empty where one lacks it.
std::vector<size_t> by_first_seed(GridSummary& g, const std::string& config) {
  std::vector<std::pair<double, size_t>> values;
  for (size_t i = 0; i < g.cells.size(); ++i) {
    const auto value = of_first_seed(find_metric(g.cells[i], config, g.chosen_by));
    if (!value) {
      if (g.not_chosen_why.empty())
        g.not_chosen_why = fmt::format("{} lacks {} of seed {}", g.cells[i].cell.name, config, kFirstSeed);
      return {};
    }
    values.emplace_back(-*value, i);
  }
  std::ranges::sort(values);
  std::vector<size_t> cells;
  for (const auto& [value, i] : values) cells.push_back(i);
  return cells;
}

// Each configuration by itself; one that lacks a run chooses nothing yet. One seed's best is the luckiest too: as soon as it
// has all chosen seeds, the mean over them decides between it and whatever other cell has them.
void choose_each(GridSummary& g) {
  const std::vector<int>& seeds = g.study.grid.chosen_seed_indices;
  for (const Configuration& c : g.study.configurations) {
    const std::vector<size_t> cells = by_first_seed(g, c.name);
    if (cells.empty()) continue;
    std::vector<size_t>& finalists = g.finalists_of[c.name];
    for (const size_t i : cells)
      if (std::ssize(finalists) < g.study.grid.finalists &&
          std::ranges::none_of(finalists, [&](size_t j) { return same_run(g, c.name, i, j); }))
        finalists.push_back(i);
    const auto mean = [&](size_t cell) { return mean_of(find_metric(g.cells[cell], c.name, g.chosen_by), seeds); };
    size_t chosen = cells[0];
    int others = 0;
    for (const size_t i : cells) {
      if (i == cells[0] || !mean(cells[0]) || !mean(i) || same_run(g, c.name, i, cells[0])) continue;
      ++others;
      if (*mean(i) > *mean(chosen)) chosen = i;
    }
    g.chosen_of[c.name] = chosen;
    g.chosen_by_means += others > 0;
  }
}

}  // namespace

const ConfigSummary* find_config(const GridCell& cell, const std::string& config) {
  return cell.summary ? cell.summary->find(config) : nullptr;
}

const Metric* find_metric(const GridCell& cell, const std::string& config, const std::string& metric) {
  const ConfigSummary* c = find_config(cell, config);
  return c ? c->find(metric_name(metric, *cell.summary)) : nullptr;
}

std::optional<double> of_first_seed(const Metric* metric) { return of_seed(metric, kFirstSeed); }

std::optional<double> choosing_value(const GridSummary& g, const GridCell& cell) {
  double sum = 0;
  for (const Configuration& c : g.study.configurations) {
    const auto value = of_first_seed(find_metric(cell, c.name, g.chosen_by));
    if (!value) return {};
    sum += *value;
  }
  return sum / static_cast<double>(g.study.configurations.size());
}

void choose(GridSummary& g) {
  const auto validates = [&](const GridCell& c) {
    return c.summary && c.summary->common.options.value("select", "validation") == "validation";
  };
  g.chosen_by = std::ranges::any_of(g.cells, validates) ? "validation_accuracy" : "accuracy";
  if (g.study.grid.chosen_seeds.empty()) {
    g.not_chosen_why = "the study chooses none";
    return;
  }
  if (g.study.grid.each) return choose_each(g);
  double best = 0;
  for (size_t i = 0; i < g.cells.size(); ++i) {
    const auto value = choosing_value(g, g.cells[i]);
    if (!value) {
      g.not_chosen_why = fmt::format("{} lacks a run of seed {}", g.cells[i].cell.name, kFirstSeed);
      g.chosen.reset();
      return;
    }
    if (!g.chosen || *value > best) best = *value, g.chosen = i;  // of equals the first
  }
}

}  // namespace glia::results
