// ./tools/route results/seed0/astrocyte-hierarchical "Stocks fell on Monday" — which experts each token of a text
// goes to, and what of it the token decided and what the sequence's context.
#include <unistd.h>

#include <sstream>

#include "engine/core/file.h"
#include "experiments/records/saved_model.h"
#include "tools/tool.h"

namespace {

using namespace glia;

struct Arguments {
  std::string run, text, file, vocabulary, device = "cpu", precision;
  bool json = false;
};

// One text a line; empty lines are left out.
std::vector<std::string> texts_of(const Arguments& a) {
  const bool given = !a.text.empty(), standard = a.file.empty() || a.file == "-";
  std::istringstream lines(given ? a.text : read_file(standard ? "/dev/stdin" : a.file));
  std::vector<std::string> texts;
  for (std::string line; std::getline(lines, line);)
    if (line.find_first_not_of(" \t\r") != std::string::npos) texts.push_back(line);
  if (texts.empty()) fail_input("no text; give a sentence, --file FILE, or lines on standard input");
  return texts;
}

int run(const Arguments& a) {
  const std::vector<std::string> texts = texts_of(a);
  const results::Run saved = results::read_run(a.run);
  const WordPiece tokenizer = saved_tokenizer(saved, a.vocabulary);
  Context context(Device::parse(a.device));
  const std::string precision = !a.precision.empty()         ? a.precision
                                : context.device().is_cuda() ? saved.config.precision
                                                             : "float32";
  const auto model = load_saved_model(context, saved, precision == "bfloat16" ? DType::kBFloat16 : DType::kFloat32);
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
  app.add_flag("--json", a.json, "JSON with all logits instead of text");
  return run_tool("route", app, argc, argv, [&] { return run(a); });
}
