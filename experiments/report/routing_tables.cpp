// Tables of what routers do and what they cost: by layer, from eval.json and from analysis.json, and for a token.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "experiments/records/routing/routing_shares.h"
#include "experiments/report/of_runs/analysis_values.h"
#include "experiments/report/tables.h"

namespace glia::results {
namespace {

bool any(const Summary& s, const std::string& metric) {
  return std::ranges::any_of(s.configs, [&](const ConfigSummary& c) { return c.find(metric); });
}

std::string mean(const Metric* m, int digits, const char* none) {
  return m ? number(m->estimate.mean, digits) : std::string(none);
}

// The mean with half a 95 % t interval behind it, where there is one.
std::string mean_and_interval(const Metric* m, int digits) {
  const std::string text = mean(m, digits, kNotAvailable);
  if (!m || !m->estimate.ci_low) return text;
  return text + fmt::format(" ±{:.{}f}", statistics::half_interval(m->estimate), digits);
}

// Each metric of the rows, with what chance would give in a column behind it where that is known.
void append_heading(Table& t, const Summary& s, const std::vector<const MetricRow*>& rows) {
  for (const MetricRow* row : rows) {
    t.header.push_back(row->label);
    if (any(s, chance_of(row->name))) t.header.push_back(fmt::format("{}, chance", row->label));
    t.note += std::string(row->help) + (row == rows.back() ? "." : "; ");
  }
}

void append_cells(std::vector<std::string>& line, const Summary& s, const ConfigSummary& c,
                  const std::vector<const MetricRow*>& rows, const std::string& layer) {
  for (const MetricRow* row : rows) {
    line.push_back(mean_and_interval(c.find(row->name + layer), row->digits));
    if (any(s, chance_of(row->name)))
      line.push_back(mean(c.find(chance_of(row->name + layer)), row->digits, kAbsent));
  }
}

constexpr const char* kAnalysed =
    "runs that ./tools/analyse has been at; means over so many seeds, from three on ± half a 95 % t interval. Chance: ";

const Metric* analysed(const ConfigSummary& c) { return c.find(kAnalysedTokens); }

}  // namespace

Table routing_table(const Summary& s) {
  Table t;
  t.title = "Routing by layer";
  t.note = "means over seeds; in the first rows the values of experts that are all used alike. ";
  t.header = {"configuration", "layer"};
  std::vector<const MetricRow*> rows;
  for (const MetricRow* row : metric_rows(Stage::routing))
    if (row->form == Form::scalar && !row->analysed && any(s, layer_metric(row->name, 1))) rows.push_back(row);
  for (const MetricRow* row : rows) {
    t.header.push_back(row->label);
    t.note += std::string(row->help) + (row == rows.back() ? "." : "; ");
  }
  std::set<int> numbers;  // of experts: what even use would give depends on it
  for (const ConfigSummary& c : s.configs)
    if (c.experts > 0) numbers.insert(c.experts);
  for (const int experts : numbers) {
    t.rows.push_back({numbers.size() == 1 ? "(even use)" : fmt::format("(even use, E = {})", experts), kAbsent});
    for (const MetricRow* row : rows)
      t.rows.back().push_back(row->even ? number(row->even(experts), row->digits) : kAbsent);
  }
  for (const ConfigSummary& c : s.configs)
    for (int l = 1; c.moe && l <= s.layers; ++l) {
      t.rows.push_back({c.config, std::to_string(l)});
      for (const MetricRow* row : rows)
        t.rows.back().push_back(mean(c.find(layer_metric(row->name, l)), row->digits, kNotAvailable));
    }
  return t;
}

Table analysed_layers_table(const Summary& s) {
  Table t;
  t.title = "Analysis by layer";
  t.header = {"configuration", "seeds", "layer"};
  t.note = std::string(kAnalysed) + "what even use of the experts, whatever the token, would give. ";
  std::vector<const MetricRow*> rows;
  for (const MetricRow* row : metric_rows(Stage::routing))
    if (row->analysed && any(s, row->name)) rows.push_back(row);
  if (rows.empty()) return t;
  append_heading(t, s, rows);
  for (const ConfigSummary& c : s.configs)
    for (int l = 1; analysed(c) && l <= s.layers; ++l) {
      t.rows.push_back({c.config, std::to_string(analysed(c)->estimate.n), std::to_string(l)});
      append_cells(t.rows.back(), s, c, rows, fmt::format(".{}", l));
    }
  return t;
}

Table analysed_runs_table(const Summary& s) {
  Table t;
  t.title = "Analysis over layers, seeds and training";
  t.header = {"configuration", "seeds"};
  t.note =
      std::string(kAnalysed) +
      "of choices that agree, what permuted tokens give; of the probe, the most frequent topic; of saturation, even use. ";
  std::vector<const MetricRow*> rows = metric_rows(Stage::analysis);
  std::erase_if(rows, [&](const MetricRow* row) { return !any(s, row->name); });
  if (rows.empty()) return t;
  append_heading(t, s, rows);
  for (const ConfigSummary& c : s.configs) {
    if (!analysed(c)) continue;
    t.rows.push_back({c.config, std::to_string(analysed(c)->estimate.n)});
    append_cells(t.rows.back(), s, c, rows, "");
  }
  return t;
}

std::vector<Table> analysis_tables(const Summary& s) {
  std::vector<Table> tables = {analysed_layers_table(s), analysed_runs_table(s)};
  std::erase_if(tables, [](const Table& t) { return t.rows.empty(); });
  return tables;
}

Table cost_table(const Summary& s, bool times) {
  // Of the configuration's finished runs, over those whose timing.json has it; none where no run's does.
  const auto of_runs = [&](const ConfigSummary& c, std::optional<double> RunLine::*value) {
    statistics::Sample values;
    for (const RunLine& run : s.runs)
      if (run.config == c.config && run.state == RunState::done && (run.*value).value_or(0) > 0)
        values.push_back(*(run.*value));
    return statistics::estimate(values).mean;
  };
  const auto text = [](const std::optional<double>& value, double scale, int digits) {
    return value ? fmt::format("{:.{}f}", scale * *value, digits) : kAbsent;
  };
  const auto of_metric = [](const ConfigSummary& c, const char* name) {
    const Metric* m = c.find(name);
    return m ? m->estimate.mean : std::nullopt;
  };
  Table t;
  t.title = "Cost";
  t.header = {"configuration", "parameters, M", "active, M", "MFLOP a token"};
  t.note =
      "means over seeds. Parameters: all, in millions; active: those that a token meets, embedding tables aside, of experts those "
      "that it has on the mean over the test rows; MFLOP a token: of a forward pass, 2 a weight of every product, attention's own "
      "products aside.";
  if (times) {
    t.header.insert(t.header.end(), {"ms a step", "s a run"});
    t.note +=
        " Milliseconds a training step, seconds a run with loading, evaluation and files: of runs side by side, which share a "
        "device, they say little.";
  }
  bool known = false;
  for (const ConfigSummary& c : s.configs) {
    const auto parameters = of_runs(c, &RunLine::parameters), active = of_metric(c, kActiveParameters),
               flops = of_metric(c, kFlops);
    known = known || parameters || active || flops;
    t.rows.push_back({c.config, text(parameters, 1e-6, 3), text(active, 1e-6, 3), text(flops, 1e-6, 3)});
    if (!times) continue;
    const auto step = of_runs(c, &RunLine::step_ms), seconds = of_runs(c, &RunLine::seconds);
    known = known || step;
    t.rows.back().push_back(text(step, 1, 2));
    t.rows.back().push_back(text(seconds, 1, 1));
  }
  if (!known) t.rows.clear();
  return t;
}

}  // namespace glia::results
