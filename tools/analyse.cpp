// ./tools/analyse TRACE — what the routing of any model is like: metrics with their chance levels, pictures, a page.
#include <filesystem>

#include "engine/core/command_line/program.h"
#include "engine/core/file.h"
#include "experiments/analysis/report/analysis_report.h"
#include "experiments/analysis/run_analysis.h"
#include "experiments/analysis/token_names.h"
#include "experiments/analysis/trace_file.h"
#include "experiments/records/recompute.h"
#include "tools/tool.h"

namespace {

namespace fs = std::filesystem;
using namespace glia;
using namespace glia::results;

struct Arguments {
  std::string path, against, out, vocabulary, data, cache = "data/cache", device = "cpu";
  bool knock_out = false;
  int64_t rows = 0;
  int permutations = 20, words = 10;
  std::vector<std::string> of_runs;  // typed flags that a trace does not read
  std::vector<std::string> formats = {"text", "json", "csv", "svg", "png", "html"};
};

bool wants(const Arguments& a, const char* format) {
  return std::ranges::find(a.formats, format) != a.formats.end();
}

// Beside the trace: probe-analysis for probe.safetensors.
std::string default_out(const std::string& path) {
  const fs::path p(path);
  return (p.parent_path() / (p.stem().string() + "-analysis")).string();
}

// What is shown and written, whatever it was made from.
struct Result {
  TraceAnalysis routing;
  std::vector<Table> tables;
  std::vector<NamedPicture> pictures;
  Json json;
  std::string out, json_path;
};

void write(const Arguments& a, const Result& r) {
  make_folder(r.out);
  if (wants(a, "json"))  // a word that is no UTF-8 has no other way into JSON
    write_file_atomic(r.json_path, r.json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n");
  if (wants(a, "html")) write_file_atomic(r.out + "/analysis.html", analysis_html(r.routing, r.tables, r.pictures));
  for (const Table& table : r.tables)
    if (wants(a, "csv")) write_file_atomic(r.out + "/" + file_name(table) + ".csv", as_csv(table));
  for (const NamedPicture& picture : r.pictures) {
    if (wants(a, "svg")) picture.picture.write_svg(fmt::format("{}/{}.svg", r.out, picture.name));
    if (wants(a, "png")) picture.picture.write_png(fmt::format("{}/{}.png", r.out, picture.name));
  }
  fmt::print("written to {}\n", r.out);
}

// A trace, or the one that a run's folder has.
std::string trace_of(const std::string& path) {
  if (!is_run_folder(path)) return path;
  const std::string trace = path + "/trace.safetensors";
  if (!fs::exists(trace))
    fail_input("{}: has no trace.safetensors; --trace-rows keeps one in training, {} {} --trace {} writes one",
               path, program("tools/route"), path, trace);
  return trace;
}

// Names of another model would be worse than numbers, and mostly show by being too few.
void note_unnamed(const Arguments& a, const TraceFile& trace, const std::vector<std::string>& names) {
  if (trace.word_ids().empty()) {
    fmt::print(stderr, "analyse: --vocab {}: {} has no 'ids' to be named\n", a.vocabulary, a.path);
    return;
  }
  const auto unnamed = [&](int32_t id) { return size_t(id) >= names.size() || names[size_t(id)].empty(); };
  const std::vector<int32_t>& ids = trace.word_ids();
  if (const auto count = std::ranges::count_if(ids, unnamed); count > 0)
    fmt::print(stderr, "analyse: {}: names {} of the {} different ids of {}; others are shown as #id, as #{}\n",
               a.vocabulary, int64_t(ids.size()) - count, ids.size(), a.path, *std::ranges::find_if(ids, unnamed));
}

Result of_trace(const Arguments& a) {
  if (a.knock_out)
    fail_input("--knock-out: wants a run's folder, whose model can be asked again; {} is a trace", a.path);
  if (!a.of_runs.empty()) fail_input("{}: wants a run's folder; {} is a trace", fmt::join(a.of_runs, ", "), a.path);
  std::vector<std::string> words;
  if (!a.vocabulary.empty()) words = token_names(a.vocabulary);
  const TraceFile trace(a.path);
  if (!a.vocabulary.empty()) note_unnamed(a, trace, words);
  Result r{analyse(trace, a.words), {}, {}, {}, a.out.empty() ? default_out(a.path) : a.out, ""};
  r.json_path = r.out + "/analysis.json";
  r.tables = all_tables(r.routing, words), r.pictures = pictures(r.routing), r.json = to_json(r.routing, words);
  return r;
}

// Of a run's folder: analysis.json beside its eval.json, the rest in a folder of their own.
Result of_run(const Arguments& a) {
  const Run run = read_run(a.path);
  Options options = saved_options(run, {a.data, a.cache, a.vocabulary});
  options.utilisation_rows = a.rows;
  const RunAnalysis analysis = analyse_run(run, options, Device::parse(a.device), a.knock_out, a.words);
  Result r{analysis.routing, {}, {}, {}, a.out.empty() ? a.path + "/analysis" : a.out, ""};
  r.json_path = a.out.empty() ? a.path + "/analysis.json" : a.out + "/analysis.json";
  r.tables = all_tables(analysis), r.pictures = pictures(analysis), r.json = to_json(analysis);
  return r;
}

// Of a run without experts there is nothing to say but which test rows it gets right: the report pairs them with others'.
int of_run_without_experts(const Arguments& a, const Run& run) {
  for (const auto& [flag, given] : {std::pair{"--knock-out", a.knock_out},
                                    {"--against", !a.against.empty()},
                                    {"--rows", a.rows > 0},
                                    {"--out", !a.out.empty()}})
    if (given) fail_input("{}: {} has no experts ({})", flag, a.path, run.config.router);
  const Predictions p =
      predict_run(run, saved_options(run, {a.data, a.cache, a.vocabulary}), Device::parse(a.device));
  fmt::print("{}: has no experts; what it says of {} test rows ({:.2f} % right) is written to {}/predictions.csv\n",
             a.path, p.labels.size(), 100 * p.accuracy(), a.path);
  return 0;
}

int run(const Arguments& a) {
  const bool saved_run = is_run_folder(a.path);
  if (saved_run)
    if (const Run saved = read_run(a.path); !saved.config.moe()) return of_run_without_experts(a, saved);
  Result r = saved_run ? of_run(a) : of_trace(a);
  if (!a.against.empty()) {
    const TraceFile trace(trace_of(a.path)), other(trace_of(a.against));
    const auto layers = agreement(trace, other, a.permutations);
    r.tables.push_back(agreement_table(layers, other.title()));
    r.json["agreement"] = {{"trace", a.against}, {"layers", to_json(layers)}};
  }
  if (wants(a, "text")) {
    fmt::print("{}: {} tokens, {} layers of {} experts, at most {} a token\n\n", r.routing.title, r.routing.tokens,
               r.routing.layers.size(), r.routing.n_experts, r.routing.slots);
    for (const Table& table : r.tables) fmt::print("{}\n", as_text(table));
    if (const std::string sentence = probe_sentence(r.routing); !sentence.empty()) fmt::print("{}\n\n", sentence);
  }
  if (a.formats != std::vector<std::string>{"text"}) write(a, r);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Arguments a;
  CLI::App app("What the routing of any model is like: metrics with their chance levels, pictures, a page.");
  app.add_option("path", a.path,
                 "a safetensors file of a model's choices (docs/analysis.md), or a finished run's folder")
      ->required();
  app.add_option("--against", a.against,
                 "another trace of the same tokens (a seed, a checkpoint): agreement and router saturation");
  app.add_option("--permutations", a.permutations, "of the tokens, for the chance level of --against (default 20)")
      ->check(CLI::Range(1, 10000));
  app.add_flag(
      "--knock-out", a.knock_out,
      "of a run: what is lost without each expert, with a topic's busiest alone, without first choices; and what "
      "random routers make of the same states");
  app.add_option("--rows", a.rows, "of a run: so many test rows, the same for every run (default: all)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40));
  app.add_option(
      "--vocab", a.vocabulary,
      "names of the ids, of any model: one token a line, a tokenizer.json or a vocab.json; of a run: its vocabulary");
  app.add_option("--data", a.data, "of a run: folder of the data set");
  app.add_option("--cache", a.cache, "of a run: folder for token ids");
  app.add_option("--device", a.device, "of a run: cpu (default), cuda or cuda:N");
  app.add_option("--words", a.words, "an expert's words that are listed (default 10)")->check(CLI::Range(1, 1000));
  app.add_option("--format", a.formats, "any of text, json, csv, svg, png, html (default: all)")
      ->delimiter(',')
      ->check(CLI::IsMember({"text", "json", "csv", "svg", "png", "html"}));
  app.add_option("--out", a.out,
                 "folder for the files (default: TRACE-analysis beside a trace, analysis/ in a run)");
  return run_tool("analyse", app, argc, argv, [&] {
    for (const char* flag : {"--rows", "--data", "--cache", "--device"})
      if (app.count(flag) > 0) a.of_runs.push_back(flag);
    return run(a);
  });
}
