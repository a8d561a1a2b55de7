// ./tools/route results/seed0/astrocyte-hierarchical "Stocks fell on Monday" — which experts each token of a text
// goes to, and what of it the token decided and what the sequence's context.
#include <unistd.h>

#include <sstream>

#include "engine/core/file.h"
#include "engine/core/file_kind.h"
#include "experiments/analysis/run_trace.h"
#include "experiments/records/recompute.h"
#include "experiments/records/saved_model.h"
#include "tools/tool.h"

namespace {

using namespace glia;

struct Arguments {
  std::string run, text, file, vocabulary, device = "cpu", precision;
  std::string trace, data, cache = "data/cache";
  int64_t rows = 0;
  bool json = false, first_rows = false;
};

// --trace: the test rows instead of a text.
int write_run_trace(const Arguments& a, const results::Run& run) {
  Options options = saved_options(run, {a.data, a.cache, a.vocabulary});
  options.utilisation_rows = a.rows;
  const results::TraceContent trace = trace_run(run, options, Device::parse(a.device), a.first_rows);
  write_trace(a.trace, trace);
  fmt::print("{}: {} tokens of {} sequences, {} layers of {} experts, at most {} a token\n", a.trace, trace.tokens,
             trace.labels.size(), trace.layers, trace.n_experts, trace.slots);
  return 0;
}

// One text a line; empty lines are left out.
std::vector<std::string> texts_of(const Arguments& a) {
  const bool given = !a.text.empty(), standard = a.file.empty() || a.file == "-";
  const std::string content = given ? a.text : read_file(standard ? "/dev/stdin" : a.file);
  if (!given) refuse_foreign(content, standard ? "standard input" : a.file, "a text a line");
  std::istringstream lines(content);
  std::vector<std::string> texts;
  for (std::string line; std::getline(lines, line);) {
    if (line.ends_with('\r')) line.pop_back();  // of CR LF
    if (line.find_first_not_of(" \t\r") != std::string::npos) texts.push_back(line);
  }
  if (texts.empty()) fail_input("no text; give a sentence, --file FILE, or lines on standard input");
  return texts;
}

int run(const Arguments& a) {
  const results::Run saved = results::read_run(a.run);
  if (!a.text.empty() && !a.file.empty())
    fail_input("--file {}: expected one of a sentence and a file, got both", a.file);
  if (a.trace.empty() && (a.rows > 0 || a.first_rows || !a.data.empty()))
    fail_input("--rows, --first-rows, --data: expected --trace with them, got none");
  if (!a.trace.empty() && !(a.text.empty() && a.file.empty()))
    fail_input("--trace {}: is of the run's test rows; expected no text beside it", a.trace);
  if (!a.trace.empty()) return write_run_trace(a, saved);
  const std::vector<std::string> texts = texts_of(a);
  const WordPiece tokenizer = saved_tokenizer(saved, a.vocabulary);
  Context context(Device::parse(a.device));
  const auto model = load_saved_model(context, saved, saved_precision(saved, context.device(), a.precision));
  const bool color = isatty(STDOUT_FILENO) && !std::getenv("NO_COLOR");
  results::Json all = results::Json::array();
  for (const std::string& text : texts) {
    const results::RoutingTrace trace = trace_text(*model, saved, tokenizer, text);
    if (a.json) all.push_back(results::as_json(trace));
    else fmt::print("{}\n", results::as_text(trace, color));
  }
  // Bytes that are no UTF-8 are shown as U+FFFD: JSON has no way to hold them.
  if (a.json)
    fmt::print("{}\n",
               (all.size() == 1 ? all[0] : all).dump(1, ' ', false, results::Json::error_handler_t::replace));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Arguments a;
  CLI::App app("Shows how a trained model routes the tokens of a text, and which topic it predicts.");
  app.add_option("run", a.run, "folder of a finished run, such as results/seed0/astrocyte-hierarchical")
      ->required();
  app.add_option("text", a.text, "the sentence; without it --file or standard input, one text a line");
  app.add_option("--file", a.file, "a file with one text a line; - is standard input");
  app.add_option("--vocab", a.vocabulary, "the vocabulary (default: vocab.txt of the result folder)");
  app.add_option("--device", a.device, "cpu (default), cuda or cuda:N");
  app.add_option("--precision", a.precision, "default: float32 on a CPU, the run's own on a GPU")
      ->check(CLI::IsMember({"float32", "bfloat16"}));
  app.add_flag("--json", a.json, "JSON with all logits or scores instead of text");
  app.add_option("--trace", a.trace,
                 "a safetensors file for tools/analyse: how the run's test rows are routed, instead of a text");
  app.add_option("--rows", a.rows, "--trace: so many test rows, the same for every run (default: all)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40));
  app.add_flag("--first-rows", a.first_rows, "--trace: each row's first token alone");
  app.add_option("--data", a.data, "--trace: folder of the data set");
  app.add_option("--cache", a.cache, "--trace: folder for token ids");
  return run_tool("route", app, argc, argv, [&] { return run(a); });
}
