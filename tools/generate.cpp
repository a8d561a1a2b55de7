// ./tools/generate results-causal/seed0/dense "Stocks fell on Monday" — what a language model says next, and through which
// experts each of its words went.
#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "experiments/language/generate.h"
#include "tools/tool.h"

namespace {

using namespace glia;

struct Arguments {
  std::string folder, prompt, vocabulary, device = "cpu", precision, routing = "off", cache = "on";
  int64_t tokens = 100;
  bool json = false;
  Sampling sampling;
};

void print_routing(const LanguageModel& model, const Generated& g) {
  for (size_t i = 0; i < g.routing.size(); ++i) {
    std::string line = fmt::format("{:<16}", model.tokenizer.vocabulary().token(g.words[i]));
    for (size_t l = 0; l < g.routing[i].size(); ++l) {
      line += fmt::format("  {}:", l + 1);
      const Generated::Choice& choice = g.routing[i][l];
      for (size_t k = 0; k < choice.experts.size(); ++k)
        line += fmt::format(" e{} {:.2f}", choice.experts[k], choice.gates[k]);
    }
    fmt::print("{}\n", line);
  }
}

results::Json as_json(const LanguageModel& model, const Generated& g) {
  results::Json json = {{"prompt", model.text_of(g.prompt)},
                        {"text", model.text_of(g.words)},
                        {"ids", g.words},
                        {"ended", g.ended},
                        {"tokens_per_second", g.words_per_second()}};
  for (const auto& layers : g.routing) {
    results::Json& word = json["routing"].emplace_back(results::Json::array());
    for (const Generated::Choice& choice : layers)
      word.push_back({{"experts", choice.experts}, {"gates", choice.gates}});
  }
  return json;
}

// What of the prompt the model did not read.
void warn_of_unread(const LanguageModel& model, const std::string& prompt, const Generated& g) {
  std::vector<int32_t> pieces;
  model.tokenizer.encode(prompt, pieces);
  if (const size_t read = g.prompt.size() - 1; pieces.size() > read)  // beside [CLS]
    fmt::print(stderr, "the first {} of the prompt's {} tokens were left out\n", pieces.size() - read,
               pieces.size());
  const int32_t unknown = model.tokenizer.vocabulary().unk();
  if (const auto n = std::count(g.prompt.begin(), g.prompt.end(), unknown); n > 0)
    fmt::print(stderr, "{} of the prompt's tokens {} [UNK]: the model's vocabulary has no pieces for {}\n", n,
               n == 1 ? "is" : "are", n == 1 ? "it" : "them");
}

int run(const Arguments& a) {
  Context context(Device::parse(a.device));
  const bool low = a.precision.empty() ? context.device().is_cuda() : a.precision == "bfloat16";
  const LanguageModel model =
      load_language_model(context, a.folder, low ? DType::kBFloat16 : DType::kFloat32, a.vocabulary);
  const Generated g = generate(model, a.prompt, a.tokens, a.sampling, a.cache == "on", a.routing == "on" || a.json);
  if (a.json) {
    warn_of_unread(model, a.prompt, g);
    fmt::print("{}\n", as_json(model, g).dump(1, ' ', false, results::Json::error_handler_t::replace));
    return 0;
  }
  std::vector<int32_t> all = g.prompt;
  all.insert(all.end(), g.words.begin(), g.words.end());
  fmt::print("{}\n", model.text_of(all));
  if (a.routing == "on") print_routing(model, g);
  fmt::print(stderr, "{} tokens of a prompt in {:.1f} ms; {} more, {:.0f} tokens/s; {}\n", g.prompt.size(),
             1e3 * g.prompt_seconds, g.words.size(), g.words_per_second(),
             g.ended ? "the text ended"
             : g.words.size() < size_t(a.tokens)
                 ? fmt::format("the model reads at most {} tokens", model.max_length)
                 : "it could go on");
  warn_of_unread(model, a.prompt, g);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Arguments a;
  CLI::App app("Lets a language model go on with a text.");
  app.add_option("folder", a.folder, "a finished run of --task causal_lm, or a folder of ./experiments/pretrain")
      ->required();
  app.add_option("prompt", a.prompt, "what the text begins with; without it, nothing");
  app.add_option("--tokens", a.tokens, "at most so many more (default 100)")->check(CLI::Range(0, 1 << 20));
  app.add_option("--temperature", a.sampling.temperature, "0: the likeliest token each time (default 1)")
      ->check(CLI::Range(0.0, 100.0));
  app.add_option("--top-k", a.sampling.top_k, "out of so many likeliest tokens (default 0: all)")
      ->check(CLI::Range(0, 1 << 24));
  app.add_option("--top-p", a.sampling.top_p,
                 "out of the likeliest that together reach this share, above 0 (default 1)")
      ->check([](const std::string& text) {
        char* end = nullptr;
        const double share = std::strtod(text.c_str(), &end);
        const bool number = end != text.c_str() && *end == '\0';
        const bool fits =
            number && ((share > 0 && share <= 1) || !std::isfinite(share));  // all flags are asked that
        return fits ? "" : fmt::format("expected a number above 0 and at most 1, got {}", text);
      });
  app.add_option("--seed", a.sampling.seed, "of the choices (default 0)");
  app.add_option("--routing", a.routing, "on: each generated token's experts and gates, layer by layer")
      ->check(CLI::IsMember({"on", "off"}));
  app.add_option("--cache", a.cache,
                 "off: compute the whole text anew for each token; the same bits in float32 on a CPU")
      ->check(CLI::IsMember({"on", "off"}));
  app.add_option("--vocab", a.vocabulary, "the vocabulary (default: the model's own)");
  app.add_option("--device", a.device, "cpu (default), cuda or cuda:N");
  app.add_option("--precision", a.precision, "default: float32 on a CPU, bfloat16 on a GPU")
      ->check(CLI::IsMember({"float32", "bfloat16"}));
  app.add_flag("--json", a.json, "JSON with ids and routing instead of text");
  return run_tool("generate", app, argc, argv, [&] { return run(a); });
}
