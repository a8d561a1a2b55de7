#include "experiments/records/saved_model.h"

#include <array>
#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "engine/core/file.h"
#include "nn/weights/checkpoint.h"
#include "tests/records/saved_run.h"
#include "tests/test.h"

using namespace glia;
using namespace glia::results;
using namespace glia::test;
namespace fs = std::filesystem;

TEST_CASE("route: every router's choices are traced, and agree with the model's") {
  TemporaryFolder tmp("saved-model");
  for (const RouterRow& row : router_registry()) {
    INFO(std::string(row.name));
    const Run run = read_run(write_saved_run(tmp.path, row.name));
    Context context(Device::cpu());
    const auto model = load_saved_model(context, run, DType::kFloat32);
    const RoutingTrace t = trace_text(*model, run, saved_tokenizer(run, ""), "Stocks fell");
    EXPECT(t.tokens == std::vector<std::string>{"[CLS]", "stocks", "fell", "[SEP]"});
    double sum = 0;
    for (double p : t.probabilities) sum += p;
    EXPECT(sum == doctest::Approx(1));
    REQUIRE(t.layers.size() == 2);
    for (const LayerTrace& layer : t.layers)
      for (size_t s = 0; s < t.tokens.size(); ++s) {
        if (layer.logits.rows == 0) continue;  // not of the family: experts and gates only
        if (row.traits.fixed_k) REQUIRE(layer.experts[s].size() == 2);
        // A router's formula says what its gates are; of the others the oracles' test knows.
        if (contains(row.formula, "softmax over the K largest")) {
          const double a = layer.logits(int(s), layer.experts[s][0]), b = layer.logits(int(s), layer.experts[s][1]);
          EXPECT(layer.gates[s][0] == doctest::Approx(1 / (1 + std::exp(b - a))).epsilon(1e-5));
        }
        for (int e = 0; e < 4; ++e) {
          const double token = layer.token_logits(int(s), e),
                       context_value = layer.context.empty() ? 0 : layer.context[size_t(e)];
          const double expected = layer.kind == ContextKind::none    ? token
                                  : layer.kind == ContextKind::added ? token + context_value
                                                                     : token * context_value;
          EXPECT(layer.logits(int(s), e) == doctest::Approx(expected).epsilon(1e-5));
        }
      }
    const std::string text = as_text(t, false);
    const Json json = as_json(t);
    REQUIRE(json["layers"].size() == 2);
    for (const LayerTrace& layer : t.layers) {
      // Whatever the choice comes from is told: logits or scores, what the router keeps of experts, columns beside them.
      const bool scored = row.traits.linear || row.traits.reads_experts;
      if (scored) EXPECT((layer.logits.rows > 0 || layer.scores.rows == int(t.tokens.size())));
      for (const auto& [name, values] : layer.kept) EXPECT(contains(text, "  " + name + "  e0 "));
      // And stands beside the choice in the text too.
      const bool told = layer.logits.rows > 0 || layer.scores.rows > 0;
      EXPECT(contains(text, "in brackets") == told);
      EXPECT(layer.beside.size() == (row.columns.empty() ? 0 : t.tokens.size()));
    }
    for (const State& state : model->parameters().states())
      if (state.name == "encoder.layer.0.moe.router.load_bias")
        EXPECT(json["layers"][0]["kept"]["load bias"].size() == 4);
  }
}

namespace {

struct Traced {
  RoutingTrace trace;
  std::string text;
  Json json;
};

// "Stocks fell on Monday" through an untrained model with this router and these of its options.
Traced traced(const std::string& router, const std::vector<std::pair<std::string, Json>>& options = {}) {
  TemporaryFolder tmp("route-" + router);
  const Run run = read_run(write_saved_run(tmp.path, router, options));
  Context context(Device::cpu());
  const auto model = load_saved_model(context, run, DType::kFloat32);
  Traced t;
  t.trace = trace_text(*model, run, saved_tokenizer(run, ""), "Stocks fell on Monday");
  t.text = as_text(t.trace, false), t.json = as_json(t.trace);
  return t;
}

// The experts of a token are the k largest of its numbers among those that are allowed.
std::vector<int> largest(const Json& numbers, const std::vector<int>& allowed, size_t k) {
  std::vector<int> order = allowed;
  if (order.empty())
    for (int e = 0; e < int(numbers.size()); ++e) order.push_back(e);
  std::ranges::stable_sort(
      order, [&](int a, int b) { return numbers[size_t(a)].get<double>() > numbers[size_t(b)].get<double>(); });
  order.resize(k);
  return order;
}

}  // namespace

TEST_CASE("route: thor's task and subset, and emo's pool, say why a larger logit was not chosen") {
  for (const auto& [router, name, score] :
       {std::array{"thor", "subset", "subset_score"}, {"emo", "pool", "mean_probability"}}) {
    INFO(std::string(router));
    const Traced t = traced(router, {{std::string(router) == "thor" ? "task_experts" : "pool_size", 2}});
    int larger = 0;
    for (const Json& layer : t.json["layers"]) {
      const auto allowed = layer["sequence"][name].get<std::vector<int>>();
      REQUIRE(allowed.size() == 2);
      auto best = largest(layer["sequence"][score], {}, 2);
      std::ranges::sort(best);
      EXPECT(best == allowed);
      for (const Json& token : layer["tokens"]) {
        EXPECT(token["experts"] == Json(largest(token["logits"], allowed, 2)));
        larger += token["experts"] != Json(largest(token["logits"], {}, 2));
      }
      if (std::string(router) == "thor") {
        double sum = 0;
        for (const Json& p : layer["sequence"]["task_probability"]) sum += p.get<double>();
        EXPECT(sum == doctest::Approx(1));
      }
      EXPECT(contains(t.text,
                      fmt::format("  {}, of which its tokens choose  e{} e{}\n", name, allowed[0], allowed[1])));
    }
    EXPECT(larger > 0);  // or nothing had to be explained
    if (std::string(router) == "thor") EXPECT(contains(t.text, "  task probability  0 0."));
  }
}

TEST_CASE("route: of ada-k how many experts the allocator wants is told, with its probability") {
  const Traced t = traced("ada-k");
  for (size_t l = 0; l < 2; ++l)
    for (size_t s = 0; s < t.trace.tokens.size(); ++s) {
      const Json& token = t.json["layers"][l]["tokens"][s];
      const size_t wanted = size_t(largest(token["experts_wanted"], {}, 1)[0]) + 1;
      EXPECT(token["experts"] == Json(largest(token["logits"], {}, wanted)));
      EXPECT(contains(t.text, fmt::format("  experts wanted {} ({:.2f})\n", wanted,
                                          token["experts_wanted"][wanted - 1].get<double>())));
    }
}

TEST_CASE("route: a context and a bias that balances are told apart") {
  for (const char* mode : {"add", "gate"}) {
    INFO(std::string(mode));
    const Traced t = traced("context", {{"context_balance", true}, {"context_mode", mode}});
    int by_bias = 0;
    for (const Json& layer : t.json["layers"]) {
      EXPECT(layer["context"].size() == 4);
      EXPECT(layer["kept"]["load bias"].size() == 4);
      for (const Json& token : layer["tokens"]) {
        EXPECT(token["experts"] == Json(largest(token["compared"], {}, 2)));
        by_bias += token["experts"] != Json(largest(token["logits"], {}, 2));
        double sum = 0;
        for (size_t e = 0; e < 4; ++e)
          sum += token["compared"][e].get<double>() - layer["kept"]["load bias"][e].get<double>();
        EXPECT(sum == doctest::Approx(1));  // of a softmax
      }
    }
    EXPECT(by_bias > 0);
    EXPECT(contains(t.text, "compared is softmax of the logits + load bias, behind the colon"));
    EXPECT(contains(t.text, "the context changed the experts of"));
  }
}

TEST_CASE("route: a soft mixture reads the scores of a router alone, not its subsets") {
  for (const char* router : {"thor", "emo", "context"})
    for (const LayerTrace& layer : traced(router, {{"mixture", "soft"}}).trace.layers) {
      EXPECT(layer.logits.rows > 0);
      EXPECT(layer.allowed.empty());
      EXPECT(layer.compared.rows == 0);
    }
}

TEST_CASE("route: a bag of n-grams has no experts, and names the topic") {
  const Traced t = traced("none", {{"encoder", "bag"}, {"ngrams", 2}, {"ngram_buckets", 64}});
  EXPECT(t.trace.layers.empty());
  EXPECT(t.trace.probabilities.size() == 4);
  EXPECT(contains(t.text, "no experts, no routing"));
}

TEST_CASE("route: a long text is cut, a dense model has no routing, and what is missing is named") {
  TemporaryFolder tmp("saved-model-bad");
  const Run run = read_run(write_saved_run(tmp.path, "none"));
  Context context(Device::cpu());
  const auto model = load_saved_model(context, run, DType::kFloat32);
  const RoutingTrace t = trace_text(*model, run, saved_tokenizer(run, ""), "stocks fell on monday teams wins");
  EXPECT(t.truncated);
  EXPECT(t.tokens.size() == 6);
  EXPECT(t.layers.empty());
  write_file_atomic(tmp.path + "/vocab.txt", std::string(kSavedVocabulary) + "more\n");
  EXPECT(contains(error_of([&] { saved_tokenizer(run, ""); }), "vocab.txt: expected the 12 tokens of the model"));
  fs::remove(tmp.path + "/vocab.txt");
  EXPECT(contains(error_of([&] { saved_tokenizer(run, ""); }), "name it with --vocab"));
  fs::remove(run.folder + "/model.safetensors");
  EXPECT(contains(error_of([&] { load_saved_model(context, run, DType::kFloat32); }), "has no model.safetensors"));
  Run broken = run;
  broken.config.model["hidden"] = "wide";
  EXPECT(contains(error_of([&] { saved_model_config(broken, DType::kFloat32); }),
                  "above 0 as model.hidden, got \"wide\""));
}

TEST_CASE("tools/route: text, JSON and its exit status") {
  if (!fs::exists("tools/route")) SKIP("tools/route is not built");
  TemporaryFolder tmp("route-tool");
  const std::string folder = write_saved_run(tmp.path, context_router());
  const auto tool = [&](const std::string& arguments) {
    return std::system(
        ("./tools/route " + arguments + " > " + tmp.path + "/stdout 2> " + tmp.path + "/stderr").c_str());
  };
  EXPECT(tool(folder + " 'Stocks fell on Monday'") == 0);
  EXPECT(contains(read_file(tmp.path + "/stdout"), "the context changed the experts of"));
  EXPECT(tool(folder + " 'Stocks fell' --json") == 0);
  const Json json = Json::parse(read_file(tmp.path + "/stdout"));
  EXPECT(json["layers"][1]["tokens"][2]["token"] == "fell");
  write_file_atomic(tmp.path + "/texts", "stocks fell\n\nteam wins\n");
  EXPECT(tool(folder + " --json --file " + tmp.path + "/texts") == 0);
  EXPECT(Json::parse(read_file(tmp.path + "/stdout")).size() == 2);
  EXPECT(tool(folder + " --json \"$(printf 'stocks \\377')\"") == 0);  // a byte that is no UTF-8
  EXPECT(contains(Json::parse(read_file(tmp.path + "/stdout"))["text"].get<std::string>(), "\uFFFD"));
  EXPECT(tool(folder + " ' '") != 0);
  EXPECT(contains(read_file(tmp.path + "/stderr"), "no text"));
  EXPECT(tool(folder + " --file " + tmp.path) != 0);
  EXPECT(contains(read_file(tmp.path + "/stderr"), "expected a file, found a directory"));
  EXPECT(tool(tmp.path + " x") != 0);
  EXPECT(contains(read_file(tmp.path + "/stderr"), "is no run: it has no config.json"));
}
