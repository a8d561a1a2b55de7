#include "experiments/training/grid_run.h"

#include <algorithm>
#include <filesystem>
#include <map>

#include "engine/core/check.h"
#include "engine/core/file.h"
#include "engine/core/json.h"
#include "experiments/report/grid.h"
#include "experiments/report/report.h"
#include "experiments/report/summary.h"
#include "experiments/training/run.h"
#include "experiments/training/schedule.h"

namespace glia {
namespace {

Options options_of(const Options& options, const Study& study, const Cell& cell) {
  Options o = options;
  o.out = results::cell_folder(options.out, cell);
  for (const auto& [flag, value] : cell.settings) {
    if (options.typed.contains(flag))
      fail_input("--{}: the grid of the study {} sets it; leave the flag out, or say --cells", flag, study.name);
    set_value(o, find_flag(flag), value);
  }
  return o;
}

bool same_data(const Options& a, const Options& b) {
  return to_json(a, Flag::Part::kData) == to_json(b, Flag::Part::kData);
}

// The runs of one cell, each configuration with the seeds that the grid gives it.
std::vector<RunSpec> cell_runs(const Options& options, const Study& study, const Cell& cell,
                               const std::vector<std::string>& configs) {
  std::map<std::string, std::vector<std::string>> by_seeds;
  for (const std::string& config : configs)
    by_seeds[options.typed.contains("seeds") ? options.seeds : study.grid.seeds_for(config)].push_back(config);
  std::vector<RunSpec> specs;
  Options o = options_of(options, study, cell);
  for (const auto& [seeds, names] : by_seeds) {
    o.seeds = seeds;
    const std::vector<RunSpec> planned = plan_runs(o, study, names);
    specs.insert(specs.end(), planned.begin(), planned.end());
  }
  return specs;
}

// Runs on different data one after another, the others side by side, lower seeds first.
int run_all_of(const Options& options, const Study& study, std::vector<RunSpec> specs, const std::string& command) {
  std::ranges::stable_sort(specs, {}, &RunSpec::seed_index);
  int status = 0;
  while (!specs.empty()) {
    const Options first = specs[0].options;
    const auto others =
        std::ranges::stable_partition(specs, [&](const RunSpec& spec) { return same_data(spec.options, first); });
    const std::vector<RunSpec> now(specs.begin(), others.begin());
    Options o = first;
    o.out = options.out;
    status = std::max(status, run_specs(o, study, now, command));
    specs.erase(specs.begin(), others.begin());
  }
  return status;
}

// The same with the seeds that the study gives a chosen cell, where none are typed.
Options with_chosen_seeds(Options options, const Study& study) {
  if (!options.typed.contains("seeds")) options.seeds = study.grid.chosen_seeds;
  return options;
}

// Which flags differ by design from the other runs of the folder where this one lies now.
void write_sets(const std::string& folder, const std::vector<std::string>& sets) {
  results::Json config = read_json_object(folder + "/config.json");
  if (sets.empty()) config.erase("sets");
  else config["sets"] = sets;
  write_file_atomic(folder + "/config.json", config.dump(1) + "\n");
}

// A finished run of a cell as one of the chosen folder, where its table is with runs of other cells: by design.
void take_over(const std::string& from, const RunSpec& spec) {
  if (!results::is_done(from) || results::is_done(spec.folder)) return;
  make_folder(spec.folder);
  std::filesystem::copy(
      from, spec.folder,
      std::filesystem::copy_options::recursive | std::filesystem::copy_options::overwrite_existing);
  write_sets(spec.folder, spec.sets);
}

// What a run computes, its seed aside.
results::Json recipe_of(const std::string& folder) {
  results::Json recipe = run_identity(read_json_object(folder + "/config.json"));
  for (const char* key : {"seed", "seed_index"}) recipe.erase(key);
  return recipe;
}

// The folder of the chosen runs to that of the cell which they are of, as a run of it. What the cell has itself stays.
void move_to_cell(const results::Run& run, const std::string& to, const RunSpec& spec) {
  namespace fs = std::filesystem;
  RunLock lock(fs::path(run.folder).parent_path().parent_path().string(), spec.title());
  if (!lock.try_lock()) fail_input("{}: another program works on it", run.folder);
  if (results::is_done(to) || (fs::exists(to) && !results::is_done(run.folder))) {
    fs::remove_all(run.folder);
    return;
  }
  fs::remove_all(to);
  make_folder(fs::path(to).parent_path().string());
  write_sets(run.folder, spec.sets);
  fs::rename(run.folder, to);
}

// A grid that has got more cells since may choose others. Runs at those of before are further seeds of theirs.
void put_back(const Options& options, const Study& study, const results::GridSummary& grid,
              const std::vector<std::string>& configs) {
  const std::string chosen = results::chosen_folder(options.out);
  if (!std::filesystem::is_directory(chosen)) return;
  std::map<std::pair<std::string, std::string>, int> moved;  // configuration and cell → runs
  for (const results::Run& run : results::list_runs(chosen).runs) {
    const std::string& config = run.config.config;
    const auto now = grid.chosen_of.find(config);
    if (now == grid.chosen_of.end() || std::ranges::find(configs, config) == configs.end()) continue;
    const results::Json recipe = recipe_of(run.folder);
    for (size_t i = 0; i < grid.cells.size(); ++i) {
      const Cell& cell = grid.cells[i].cell;
      const std::string out = results::cell_folder(options.out, cell);
      const std::string first = results::run_folder(out, 0, config);
      if (!results::is_done(first) || !changed_setting(recipe_of(first), recipe).empty()) continue;
      // Finalists have their further seeds where they are, and what is chosen has them from there.
      if (i == now->second &&
          (study.grid.finalists == 1 || results::is_done(results::run_folder(out, run.config.seed_index, config))))
        break;
      Options at_cell = options_of(options, study, cell);
      at_cell.seeds = fmt::format("{0}-{0}", run.config.seed_index);
      const RunSpec spec = plan_runs(at_cell, study, {config}).at(0);
      move_to_cell(run, spec.folder, spec);
      if (i != now->second) ++moved[{config, cell.name}];
      break;
    }
  }
  std::set<std::string> cells;
  for (const auto& [of, runs] : moved) {
    fmt::print("moved      {} run{} of {} from chosen to {}, since {} is chosen now\n", runs, runs == 1 ? "" : "s",
               of.first, of.second, grid.cells[grid.chosen_of.at(of.first)].cell.name);
    cells.insert(of.second);
  }
  for (const std::string& cell : cells) {
    const std::string out = options.out + "/" + cell;
    if (options.report) results::write_report(out);
    else results::write_summary(out, results::summarise(out));
  }
}

// The chosen seeds of each configuration's best cells by one seed, in those cells' folders.
std::vector<RunSpec> finalist_runs(const Options& options, const Study& study, const results::GridSummary& grid,
                                   const std::vector<std::string>& configs) {
  std::vector<RunSpec> specs;
  for (const std::string& config : configs) {
    const auto finalists = grid.finalists_of.find(config);
    if (finalists == grid.finalists_of.end()) continue;
    for (const size_t cell : finalists->second) {
      const Options o = with_chosen_seeds(options_of(options, study, grid.cells[cell].cell), study);
      const std::vector<RunSpec> planned = plan_runs(o, study, {config});
      specs.insert(specs.end(), planned.begin(), planned.end());
    }
  }
  return specs;
}

// Of each configuration the runs at the cell that it chose, in one folder; those that the cell has need not run again.
std::vector<RunSpec> runs_of_each(const Options& options, const Study& study, const results::GridSummary& grid,
                                  const std::vector<std::string>& configs) {
  std::vector<RunSpec> specs;
  for (const std::string& config : configs) {
    const auto chosen = grid.chosen_of.find(config);
    if (chosen == grid.chosen_of.end()) continue;
    const Options at_cell = with_chosen_seeds(options_of(options, study, grid.cells[chosen->second].cell), study);
    Options o = at_cell;
    o.out = results::chosen_folder(options.out);
    for (RunSpec& spec : plan_runs(o, study, {config})) {
      for (const auto& [flag, values] : study.grid.axes) spec.sets.push_back(json_key(flag));
      if (!options.dry_run) take_over(results::run_folder(at_cell.out, spec.seed_index, spec.model.name), spec);
      specs.push_back(std::move(spec));
    }
  }
  return specs;
}

void require_one_grid(const Options& options, const Study& study) {
  const std::string path = options.out + "/study.txt";
  const bool any = std::filesystem::exists(path);
  if (any && results::read_study(options.out).name != study.name)
    fail_input("{}: holds the study {}, and {} is asked for; choose another --out", options.out,
               results::read_study(options.out).name, study.name);
}

}  // namespace

int run_grid(const Options& options, const Study& study, const std::vector<std::string>& configs,
             const std::string& command) {
  require_one_grid(options, study);
  const bool only_chosen = options.cells == "chosen";
  std::vector<RunSpec> specs;
  if (!only_chosen)
    for (const Cell& cell : study.grid.pick(options.cells)) {
      std::vector<RunSpec> planned = cell_runs(options, study, cell, configs);
      specs.insert(specs.end(), planned.begin(), planned.end());
    }
  if (!options.dry_run) {
    make_folder(options.out);
    results::write_study(options.out, study);
  }
  int status = specs.empty() ? 0 : run_all_of(options, study, std::move(specs), command);
  if (options.dry_run) return status;
  results::GridSummary grid = results::summarise_grid(options.out);
  if (!grid.chosen_of.empty() && (only_chosen || options.cells == "all")) {
    if (study.grid.finalists > 1) {
      put_back(options, study, grid, configs);
      fmt::print("\nfinalists  the best {} cells of each configuration by {} of one seed, now with seeds {}\n",
                 study.grid.finalists, grid.chosen_by, with_chosen_seeds(options, study).seeds);
      status = std::max(status, run_all_of(options, study, finalist_runs(options, study, grid, configs), command));
      grid = results::summarise_grid(options.out);
    }
    fmt::print("\nchosen     each configuration its own cell, by {}\n", grid.chosen_by);
    put_back(options, study, grid, configs);
    status = std::max(status, run_all_of(options, study, runs_of_each(options, study, grid, configs), command));
    grid = results::summarise_grid(options.out);
  } else if (grid.chosen && (only_chosen || options.cells == "all")) {
    const Options o = with_chosen_seeds(options_of(options, study, grid.cells[*grid.chosen].cell), study);
    fmt::print("\nchosen     {} by {}\n", grid.cells[*grid.chosen].cell.name, grid.chosen_by);
    status = std::max(status, run_all_of(options, study, plan_runs(o, study, configs), command));
    grid = results::summarise_grid(options.out);
  } else if (only_chosen) {
    fail_input("--cells chosen: none is chosen yet: {}", grid.not_chosen_why);
  }
  write_file_atomic(options.out + "/grid.json", results::to_json(grid).dump(1) + "\n");
  fmt::print("\n{}", results::print_grid(grid));
  return status;
}

}  // namespace glia
