#include "experiments/report/grid.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <set>

#include "engine/core/check.h"
#include "engine/core/command_line/options.h"
#include "engine/core/file.h"
#include "experiments/report/grid_choice.h"

namespace fs = std::filesystem;

namespace glia::results {
namespace {

constexpr const char* kNotRun = "not run";
constexpr double kSignificant = 0.05;

// What stands where a number is missing: runs that failed are not runs that nobody began.
const char* no_number(const GridCell& cell, const std::string& config) {
  const ConfigSummary* c = find_config(cell, config);
  return !c ? kNotRun : !c->failed.empty() ? "failed" : !c->unfinished.empty() ? "not finished" : kNotRun;
}

std::vector<std::string> header(const GridSummary& g, const char* first) {
  std::vector<std::string> cells{first};
  for (size_t i = 0; i < g.cells.size(); ++i) cells.push_back(cell_heading(g, i));
  return cells;
}

// "0.9401 ±0.0012", half a 95 % interval behind the mean; one or two seeds have none, and say how many they are.
std::string mean_and_interval(const Metric* m, const char* none = kNotRun) {
  if (!m || !m->estimate.mean) return none;
  if (m->estimate.n < kLeastSeeds) return fmt::format("{:.4f} (n = {})", *m->estimate.mean, m->estimate.n);
  return fmt::format("{:.4f} ±{:.4f}", *m->estimate.mean, statistics::half_interval(m->estimate));
}

struct Verdict {
  std::optional<double> difference, p, holm;  // ours − theirs
  int seeds = 0;                              // of the configuration that has fewer; 0: not run, or failed
  const char* none = kNotRun;                 // which of the two
  const char* word() const {
    if (seeds == 0) return none;
    if (!holm || *holm >= kSignificant) return "undecided";
    return above ? "holds" : "reversed";
  }
  bool above = false;  // of theirs less the margin
};

Verdict verdict_of(const Claim& claim, const GridCell& cell) {
  const Metric *ours = find_metric(cell, claim.ours, claim.metric),
               *theirs = find_metric(cell, claim.theirs, claim.metric);
  Verdict v;
  if (!ours || !theirs) {
    for (const auto& [metric, name] : {std::pair{theirs, claim.theirs}, {ours, claim.ours}})
      if (!metric && std::string_view(no_number(cell, name)) != kNotRun) v.none = no_number(cell, name);
    return v;
  }
  v.seeds = std::min(ours->estimate.n, theirs->estimate.n);
  v.difference = *ours->estimate.mean - *theirs->estimate.mean;
  statistics::Sample shifted = ours->values;
  for (double& x : shifted) x += claim.margin;
  v.above = *v.difference + claim.margin > 0;
  if (const auto test = statistics::welch(shifted, theirs->values); test && v.seeds >= kLeastSeeds) v.p = test->p;
  return v;
}

// One claim in all cells: one Holm family.
std::vector<Verdict> verdicts_of(const Claim& claim, const GridSummary& g) {
  std::vector<Verdict> verdicts;
  std::vector<std::optional<double>> p;
  for (const GridCell& cell : g.cells) {
    verdicts.push_back(verdict_of(claim, cell));
    p.push_back(verdicts.back().p);
  }
  p = statistics::holm(p);
  for (size_t i = 0; i < p.size(); ++i) verdicts[i].holm = p[i];
  return verdicts;
}

// What the step to an axis' second value does to the first configuration of a claim, to the second one and to their
// difference, over all values of the other axes. Absent where a cell lacks seeds.
using Effects = std::array<std::optional<statistics::TTest>, 3>;
std::optional<Effects> effects_of(const Claim& claim, const GridSummary& g, const std::string& flag,
                                  const std::string& second) {
  std::vector<statistics::Term> ours, theirs, difference;
  for (const GridCell& cell : g.cells) {
    const Metric *a = find_metric(cell, claim.ours, claim.metric),
                 *b = find_metric(cell, claim.theirs, claim.metric);
    if (!a || !b || std::min(a->estimate.n, b->estimate.n) < kLeastSeeds) return {};
    const bool behind = std::ranges::count(cell.cell.settings, std::pair{flag, second}) > 0;
    const double weight = (behind ? 2.0 : -2.0) / static_cast<double>(g.cells.size());
    ours.push_back({weight, &a->values});
    theirs.push_back({weight, &b->values});
    difference.push_back({weight, &a->values});
    difference.push_back({-weight, &b->values});
  }
  return Effects{statistics::contrast(ours), statistics::contrast(theirs), statistics::contrast(difference)};
}

std::string cell_text(const Verdict& v) {
  if (v.seeds == 0) return v.none;
  return fmt::format("{} {:+.4f} ({})", v.word(), *v.difference,
                     v.holm ? "p " + format_p(v.holm) : fmt::format("n = {}", v.seeds));
}

Table metric_table(const GridSummary& g, const std::string& title, const std::string& metric, bool moe_only) {
  Table t;
  t.title = title;
  t.header = header(g, "configuration");
  for (const Configuration& c : g.study.configurations) {
    if (moe_only && c.router == "none") continue;
    t.rows.push_back({c.name});
    for (const GridCell& cell : g.cells)
      t.rows.back().push_back(mean_and_interval(find_metric(cell, c.name, metric), no_number(cell, c.name)));
  }
  return t;
}

// The cell that each configuration would choose for itself, and by how much of the choosing value.
Table choice_table(const GridSummary& g) {
  Table t;
  t.title = "The choice";
  t.header = header(g, "seed 0");
  const auto add = [&](const std::string& name, const auto& value_of) {
    std::vector<std::optional<double>> values;
    for (const GridCell& cell : g.cells) values.push_back(value_of(cell));
    const auto best = *std::ranges::max_element(values);
    t.rows.push_back({name});
    for (size_t i = 0; i < values.size(); ++i)
      t.rows.back().push_back(values[i] ? fmt::format("{:.4f}{}", *values[i], values[i] == best ? " *" : "")
                                        : no_number(g.cells[i], name));
  };
  for (const Configuration& c : g.study.configurations)
    add(c.name, [&](const GridCell& cell) { return of_first_seed(find_metric(cell, c.name, g.chosen_by)); });
  const bool means =
      std::ranges::any_of(g.cells, [&](const GridCell& c) { return choosing_value(g, c).has_value(); });
  if (means) add("mean", [&](const GridCell& cell) { return choosing_value(g, cell); });
  t.note = fmt::format(
      "{} of seed {} of every configuration{}{}{}; * the best of its row.",
      g.chosen_by == "accuracy" ? "Test accuracy (the protocol has no validation rows)" : "Validation accuracy",
      kFirstSeed, means ? ", and their mean" : "",
      g.study.grid.each ? ": each that has a run in every cell chooses for itself"
      : means           ? ", by which the recipe is chosen"
                        : ", by whose mean the recipe is chosen",
      g.study.grid.each || g.not_chosen_why.empty() ? "" : ": not yet, " + g.not_chosen_why);
  return t;
}

const Metric* chosen_metric(const GridSummary& g, const std::string& config, const std::string& metric) {
  const ConfigSummary* c = g.each ? g.each->find(config) : nullptr;
  return c ? c->find(metric) : nullptr;
}

std::optional<double> as_number(const std::string& text) {
  double value = 0;
  const char* end = text.data() + text.size();
  const auto read = std::from_chars(text.data(), end, value);
  return read.ec == std::errc() && read.ptr == end ? std::optional(value) : std::nullopt;
}

// Where nearly all choose an axis' smallest or largest number, with a space in front: a better one may lie beyond it.
std::string ends_of_the_grid(const GridSummary& g) {
  std::string text;
  for (size_t axis = 0; axis < g.study.grid.axes.size(); ++axis) {
    const auto& [flag, values] = g.study.grid.axes[axis];
    if (values.size() < 2 ||
        !std::ranges::all_of(values, [](const std::string& v) { return as_number(v).has_value(); }))
      continue;
    const auto by_size = [](const std::string& a, const std::string& b) { return *as_number(a) < *as_number(b); };
    const auto [least, most] = std::ranges::minmax_element(values, by_size);
    for (const auto& [end, word] : {std::pair{*least, "smallest"}, {*most, "largest"}}) {
      const auto there = std::ranges::count_if(g.chosen_of, [&](const auto& chosen) {
        return g.cells[chosen.second].cell.settings[axis].second == end;
      });
      if (4 * there >= 3 * std::ssize(g.chosen_of) && there >= kLeastSeeds)
        text += fmt::format(" {} of {} chose {} {}, the {} of the grid: what lies beyond it was not tried.", there,
                            g.chosen_of.size(), flag, end, word);
    }
  }
  return text;
}

// Whose cells the further seeds have chosen, with a space behind.
std::string means_that_chose(const GridSummary& g) {
  const auto all = g.chosen_of.size();
  if (g.chosen_by_means == 0 && g.study.grid.finalists < 2) return "";
  return fmt::format(
      "Where that cell and others have all {} seeds, the highest mean over them chooses instead: so it was with "
      "{} of {}. ",
      g.study.grid.chosen_seeds, g.chosen_by_means, all);
}

// What tuning is worth: each configuration at the first cell, its source's settings, and at the one that it chose.
Table chosen_table(const GridSummary& g) {
  Table t;
  t.title = "Chosen point";
  t.header = {"configuration",      "chosen",           "validation, first cell",
              "validation, chosen", "test, first cell", "test, chosen"};
  t.note = fmt::format(
      "Each configuration's cell is the one with the highest {} of seed {}, the same cells for all; the first cell is {}. "
      "{}The best of several is biased upwards on what chose it, not on the test rows.{}",
      g.chosen_by, kFirstSeed, cell_heading(g, 0), means_that_chose(g), ends_of_the_grid(g));
  const auto text = [](const std::optional<double>& value) {
    return value ? fmt::format("{:.4f}", *value) : kNotRun;
  };
  for (const Configuration& c : g.study.configurations) {
    const auto chosen = g.chosen_of.find(c.name);
    if (chosen == g.chosen_of.end()) continue;
    const auto value = [&](size_t cell) {
      return text(of_first_seed(find_metric(g.cells[cell], c.name, g.chosen_by)));
    };
    const Metric* validation = chosen_metric(g, c.name, g.chosen_by);
    t.rows.push_back(
        {c.name, cell_heading(g, chosen->second), value(0),
         validation && validation->estimate.n > 1 ? mean_and_interval(validation) : value(chosen->second),
         mean_and_interval(find_metric(g.cells[0], c.name, "accuracy")),
         mean_and_interval(chosen_metric(g, c.name, "accuracy"))});
  }
  return t;
}

// What a run costs: means over its seeds.
Table cost_table(const GridSummary& g) {
  Table t;
  t.title = "Time and memory of a run";
  t.note =
      "Seconds with loading, evaluation and files, and the most device memory held, GB; means over seeds. Runs side "
      "by side share a device.";
  t.header = header(g, "configuration");
  for (const Configuration& c : g.study.configurations) {
    t.rows.push_back({c.name});
    for (const GridCell& cell : g.cells) {
      double seconds = 0, bytes = 0;
      int runs = 0;
      if (cell.summary)
        for (const RunLine& run : cell.summary->runs)
          if (run.config == c.name && run.seconds && run.peak_bytes)
            seconds += *run.seconds, bytes += *run.peak_bytes, ++runs;
      t.rows.back().push_back(runs ? fmt::format("{:.1f} s, {:.2f}", seconds / runs, 1e-9 * bytes / runs)
                                   : no_number(cell, c.name));
    }
  }
  return t;
}

// Of a piece of a grid most columns and rows would say "not run" and nothing else: they are left out of its tables, and
// one line says which.
Table without_unbegun(const GridSummary& g, Table t) {
  if (!first_summary(g)) return t;
  std::set<std::string> names;
  for (const Configuration& c : g.study.configurations)
    if (!begun(g, c.name)) names.insert(c.name);
  for (const Claim& claim : g.study.claims)
    if (!begun(g, claim)) names.insert(claim.text);
  std::erase_if(t.rows, [&](const auto& row) { return names.contains(row[0]); });
  for (size_t i = g.cells.size(); i-- > 0;)
    if (!g.cells[i].summary) {
      t.header.erase(t.header.begin() + static_cast<std::ptrdiff_t>(i) + 1);
      for (auto& row : t.rows) row.erase(row.begin() + static_cast<std::ptrdiff_t>(i) + 1);
    }
  return t;
}

bool any_near_copies(const GridSummary& g) {
  return std::ranges::any_of(g.cells, [](const GridCell& c) { return c.summary && c.summary->near_copies > 0; });
}

}  // namespace

std::string cell_heading(const GridSummary& g, size_t cell) {
  std::string text;
  for (const auto& [flag, value] : g.cells[cell].cell.settings)
    text += (text.empty() ? "" : ", ") + flag + " " + value;
  return text + (g.chosen == cell ? " (chosen)" : "");
}

const Summary* first_summary(const GridSummary& g) {
  for (const GridCell& cell : g.cells)
    if (cell.summary) return &*cell.summary;
  return nullptr;
}

bool begun(const GridSummary& g, const std::string& config) {
  return std::ranges::any_of(g.cells, [&](const GridCell& c) { return find_config(c, config) != nullptr; });
}

bool begun(const GridSummary& g, const Claim& claim) { return begun(g, claim.ours) && begun(g, claim.theirs); }

std::string chosen_folder(const std::string& out) { return out + "/chosen"; }

std::string cell_folder(const std::string& out, const Cell& cell) { return out + "/" + cell.name; }

bool is_grid_folder(const std::string& out) {
  if (!fs::exists(out + "/study.txt")) return false;
  const Study study = read_study(out);
  return !study.grid.empty() && std::ranges::any_of(study.grid.cells(), [&](const Cell& cell) {
    return fs::is_directory(cell_folder(out, cell));
  });
}

void require_one_grid(const std::string& out, const Study& study, std::vector<Run> runs) {
  for (const Cell& cell : study.grid.cells()) try {
      if (const Listing listing = list_runs(cell_folder(out, cell)); !listing.runs.empty())
        runs.push_back(listing.runs[0]);
    } catch (const Error&) {  // nothing is there yet
    }
  std::vector<std::string> axes;
  for (const auto& [flag, values] : study.grid.axes) axes.push_back(option_key(flag));
  if (!runs.empty()) require_one_recipe(runs, axes);
}

GridSummary summarise_grid(const std::string& out) {
  GridSummary g;
  g.out = out;
  g.study = read_study(out);
  require_one_grid(out, g.study);
  for (const Cell& cell : g.study.grid.cells()) {
    g.cells.push_back({cell, {}});
    const std::string folder = cell_folder(out, cell);
    if (!fs::is_directory(folder)) continue;
    const Listing listing = list_runs(folder);
    if (!listing.runs.empty()) g.cells.back().summary = summarise(listing);
  }
  choose(g);
  if (g.study.grid.each && fs::is_directory(chosen_folder(out)))
    if (const Listing listing = list_runs(chosen_folder(out)); !listing.runs.empty()) g.each = summarise(listing);
  return g;
}

Table claim_table(const GridSummary& g) {
  Table t;
  t.title = "Which claims survive which recipe";
  t.header = header(g, "claim");
  t.note = fmt::format(
      "Difference of the means over seeds, and p by Welch's test, two-sided, Holm-corrected over the cells of a claim; "
      "it holds or is reversed below {}. A number behind a claim's second name is how much the first may fall behind. "
      "specialisation.last is that of the last layer over all tokens, specialisation_cls over CLS rows.",
      kSignificant);
  for (const Claim& claim : g.study.claims) {
    t.rows.push_back({claim.text});
    for (const Verdict& v : verdicts_of(claim, g)) t.rows.back().push_back(cell_text(v));
  }
  return t;
}

Table axis_table(const GridSummary& g) {
  Table t;
  t.title = "What an axis does to a claim";
  t.header = {"claim", "axis", "first name", "second name", "difference", "p"};
  t.note =
      "What the step from an axis' first value to its second one changes in either configuration of a claim and in their "
      "difference: the mean over the cells with the second value less that over the cells with the first, ± half a 95 % t "
      "interval; p of the difference, Welch's, Holm-corrected over the axes of a claim.";
  for (const Claim& claim : g.study.claims) {
    const size_t first = t.rows.size();
    std::vector<std::optional<double>> p;
    for (const auto& [flag, values] : g.study.grid.axes) {
      if (values.size() != 2) continue;
      const auto effects = effects_of(claim, g, flag, values[1]);
      if (!effects) continue;
      t.rows.push_back({claim.text, fmt::format("{} {} → {}", flag, values[0], values[1])});
      for (const auto& effect : *effects)
        t.rows.back().push_back(effect ? fmt::format("{:+.4f} ±{:.4f}", (effect->ci_low + effect->ci_high) / 2,
                                                     (effect->ci_high - effect->ci_low) / 2)
                                       : "n/a");
      p.push_back((*effects)[2] ? std::optional((*effects)[2]->p) : std::nullopt);
    }
    p = statistics::holm(p);
    for (size_t i = 0; i < p.size(); ++i) t.rows[first + i].push_back(format_p(p[i]));
  }
  return t;
}

std::vector<Table> grid_tables(const GridSummary& g) {
  std::vector<Table> tables;
  const auto add = [&](Table t) { tables.push_back(without_unbegun(g, std::move(t))); };
  if (std::ranges::any_of(g.study.claims, [&](const Claim& c) { return begun(g, c); })) add(claim_table(g));
  if (Table effects = axis_table(g); !effects.rows.empty()) tables.push_back(std::move(effects));
  if (!g.study.grid.chosen_seeds.empty()) add(choice_table(g));
  if (!g.chosen_of.empty()) tables.push_back(chosen_table(g));
  add(metric_table(g, "Test accuracy", "accuracy", false));
  tables.back().note = "Mean ± half a 95 % t interval over seeds; n: fewer than three seeds have none.";
  if (any_near_copies(g))
    add(metric_table(g, "Test accuracy without near copies", kAccuracyWithoutNearCopies, false));
  const Summary* s = first_summary(g);
  if (s && std::ranges::any_of(g.cells, [](const auto& c) { return c.summary && c.summary->layers > 0; }))
    for (const auto& [title, metric] :
         {std::pair{"Specialisation of the last layer, all tokens", "specialisation.last"},
          {"Specialisation of the last layer, CLS rows", "specialisation_cls.last"},
          {"Specialisation of the first layer, all tokens", "specialisation.1"}})
      add(metric_table(g, title, metric, true));
  add(cost_table(g));
  return tables;
}

Json to_json(const GridSummary& g) {
  Json json = {{"study", g.study.name}, {"chosen_by", g.chosen_by}};
  json["chosen"] = g.chosen ? Json(g.cells[*g.chosen].cell.name) : Json();
  for (const auto& [config, cell] : g.chosen_of) json["chosen_of"][config] = g.cells[cell].cell.name;
  json["cells"] = Json::array();
  for (const GridCell& cell : g.cells) {
    Json entry = {{"name", cell.cell.name}};
    for (const auto& [flag, value] : cell.cell.settings) entry["settings"][flag] = value;
    const auto value = choosing_value(g, cell);
    entry["value"] = value ? Json(*value) : Json();
    json["cells"].push_back(std::move(entry));
  }
  json["claims"] = Json::array();
  for (const Claim& claim : g.study.claims) {
    Json entry = {{"claim", claim.text}, {"cells", Json::array()}};
    for (const Verdict& v : verdicts_of(claim, g))
      entry["cells"].push_back({{"verdict", v.word()},
                                {"difference", v.difference ? Json(*v.difference) : Json()},
                                {"welch_p", v.p ? Json(*v.p) : Json()},
                                {"welch_p_holm", v.holm ? Json(*v.holm) : Json()}});
    json["claims"].push_back(std::move(entry));
  }
  return json;
}

}  // namespace glia::results
