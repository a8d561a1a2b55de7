// ./tools/heatmap results/seed3 — utilisation matrices as CSV, in the terminal, as SVG and PNG.
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <map>

#include "engine/core/check.h"
#include "engine/core/file.h"
#include "experiments/records/recompute.h"
#include "experiments/records/results.h"
#include "experiments/records/routing/routing_shares.h"
#include "experiments/report/pictures/fonts.h"
#include "experiments/report/pictures/heatmap.h"
#include "experiments/report/tables.h"
#include "tools/tool.h"

namespace {

namespace fs = std::filesystem;
using namespace glia;
using namespace glia::results;

struct Arguments {
  std::string path, out;
  bool cls = false, recompute = false;
  std::string data, vocabulary, cache = "data/cache", device = "cpu";
  int layer = 0;  // 0: all
  std::vector<std::string> formats = {"text", "csv", "svg", "png"};
};

bool wants(const Arguments& a, const char* format) {
  return std::find(a.formats.begin(), a.formats.end(), format) != a.formats.end();
}

// Beside the seed folders, never inside one: results/heatmaps for results, results/seed3 and
// results/seed3/astrocyte.
std::string default_out(const std::string& path) {
  fs::path p = fs::absolute(path).lexically_normal();
  if (p.filename().empty()) p = p.parent_path();
  if (is_run_folder(p.string())) p = p.parent_path();
  if (p.filename().string().starts_with("seed")) p = p.parent_path();
  return fs::relative(p / "heatmaps").string();
}

// From the checkpoint and the data instead of the run's own files; says how far those are from it.
Heatmap recomputed(const Run& run, const Arguments& a, std::optional<int> layer) {
  if (!run.config.moe()) fail_input("{}: has no experts ({}), so no utilisation", run.folder, run.config.router);
  const Options options = saved_options(run, {a.data, a.cache, a.vocabulary});
  Measured measured = recompute(run, options, Device::parse(a.device));
  RunUtilisation u{run.config.data.class_names, {}};
  for (LayerUtilisation& l : measured.utilisation) u.layers.push_back(std::move(a.cls ? l.cls : l.all));
  fmt::print("{}: recomputed on {} rows, accuracy {:.4f}", run.folder, measured.rows,
             measured.values.get("accuracy"));
  if (run.state == RunState::done) {
    const RunUtilisation stored = read_run_utilisation(run, a.cls);
    double largest = 0;
    for (size_t l = 0; l < u.layers.size(); ++l)
      for (size_t i = 0; i < u.layers[l].values.size(); ++i)
        largest = std::max(largest, std::abs(u.layers[l].values[i] - stored.layers[l].values[i]));
    fmt::print("; from the run's own files: accuracy {:.4f}, shares differ by at most {:.2g}",
               run.evaluation->accuracy(), largest);
  }
  fmt::print("\n");
  return heatmap_of(run, std::move(u), a.cls, layer);
}

// What tokens chose beside the experts, in columns of its own. The matrices above are of experts alone.
void show_choices(const Run& run, const Arguments& a) {
  if (!wants(a, "text")) return;
  const auto [columns, layers] = read_choices(run, a.cls);
  if (columns.empty()) return;
  for (size_t l = 0; l < layers.size(); ++l) {
    if (a.layer && int(l) + 1 != a.layer) continue;
    const Matrix& m = layers[l];
    Table t;
    t.title = fmt::format("{}, seed{}: layer {}: whose the {} choices are (percent)", run.config.config,
                          run.config.seed_index, l + 1, a.cls ? "CLS rows'" : "tokens'");
    t.header = {"topic"};
    for (size_t e = 0; e + columns.size() < size_t(m.cols); ++e) t.header.push_back(fmt::format("e{}", e));
    t.header.insert(t.header.end(), columns.begin(), columns.end());
    for (int c = 0; c < m.rows; ++c) {
      auto& row = t.rows.emplace_back(std::vector{run.config.data.class_names[size_t(c)]});
      for (int e = 0; e < m.cols; ++e) row.push_back(seen(m, c) ? fmt::format("{:.1f}", 100 * m(c, e)) : "n/a");
    }
    fmt::print("{}\n", as_text(t));
  }
}

void show(const Heatmap& map, const Arguments& a, const std::string& folder, const std::string& name) {
  const std::string stem = fmt::format("{}/{}{}", folder, name, a.cls ? "_cls" : "");
  if (wants(a, "text")) fmt::print("{}\n", as_text(map, isatty(STDOUT_FILENO) && !std::getenv("NO_COLOR")));
  if (wants(a, "csv"))
    for (size_t l = 0; l < map.layers.size(); ++l)
      write_utilisation(fmt::format("{}_layer{}.csv", stem, map.layer_numbers[l]), map.layers[l], map.topics);
  const std::string picture = a.layer ? fmt::format("{}_layer{}", stem, a.layer) : stem;
  if (wants(a, "svg")) draw(map).write_svg(picture + ".svg");
  if (wants(a, "png")) draw(map).write_png(picture + ".png");
}

// 0, or 1 when any run could not be shown; the others are shown all the same.
int run(const Arguments& a) {
  const Listing listing = list_runs(a.path);
  const std::string out = a.out.empty() ? default_out(a.path) : a.out;
  const std::optional<int> layer = a.layer ? std::optional(a.layer) : std::nullopt;
  const bool writes = wants(a, "csv") || wants(a, "svg") || wants(a, "png");
  if (writes) make_folder(out);
  int status = 0;
  const auto complain = [&](const std::string& message) {
    fmt::print(stderr, "heatmap: {}\n", message);
    status = 1;
  };
  for (const Problem& problem : listing.problems) complain(problem.message);
  std::map<std::string, std::vector<Run>> by_config;
  size_t shown = 0;
  const bool one = is_run_folder(a.path);
  for (const Run& run : listing.runs) {
    if (!run.config.moe() && !one) continue;  // dense among others: nothing to show, and nothing wrong
    try {
      show(a.recompute ? recomputed(run, a, layer) : heatmap_of(run, a.cls, layer), a,
           fmt::format("{}/seed{}", out, run.config.seed_index), run.config.config);
      if (!a.recompute) show_choices(run, a);
      by_config[run.config.config].push_back(run);
      ++shown;
    } catch (const Error& error) {
      complain(error.what());
    }
  }
  for (const auto& [config, runs] : by_config)
    if (runs.size() > 1 && !a.recompute) try {
        require_comparable(runs);
        show(heatmap_of_mean(runs, a.cls, layer), a, out + "/mean", config);
      } catch (const Error& error) {
        complain(error.what());
      }
  if (shown > 0 && (wants(a, "svg") || wants(a, "png")))
    if (const std::string note = drawing::missing_font_note(listing.runs[0].config.data.class_names); !note.empty())
      fmt::print(stderr, "heatmap: {}\n", note);
  if (shown == 0 && status == 0) complain(fmt::format("{}: has no run with experts", a.path));
  if (shown > 0 && writes) fmt::print("{} run{} written to {}\n", shown, shown == 1 ? "" : "s", out);
  return status;
}

}  // namespace

int main(int argc, char** argv) {
  Arguments a;
  CLI::App app("Utilisation matrices (topics × experts) of finished runs: CSV, terminal, SVG and PNG.");
  app.add_option("path", a.path, "a result folder, a seed<i> folder in it, or one run")->required();
  app.add_flag("--cls", a.cls, "CLS rows only: in the last layer only these can change the prediction");
  app.add_option("--layer", a.layer, "this layer only, from 1")->check(CLI::Range(1, 1000));
  app.add_option("--format", a.formats, "any of text, csv, svg, png")
      ->delimiter(',')
      ->check(CLI::IsMember({"text", "csv", "svg", "png"}));
  app.add_option("--out", a.out, "folder for the files (default: heatmaps/ beside the seed folders)");
  CLI::Option* recompute = app.add_flag(
      "--recompute", a.recompute, "from model.safetensors and the data, not from the run's utilisation files");
  // Who names data and did not ask for it to be read would take the run's own matrices for those of this data.
  app.add_option("--data", a.data, "--recompute: folder of the data set")->needs(recompute);
  app.add_option("--vocab", a.vocabulary, "--recompute: the vocabulary")->needs(recompute);
  app.add_option("--cache", a.cache, "--recompute: folder for token ids")->needs(recompute);
  app.add_option("--device", a.device, "--recompute: cpu, cuda or cuda:N")->needs(recompute);
  return run_tool("heatmap", app, argc, argv, [&] { return run(a); });
}
