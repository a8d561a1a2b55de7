#include "experiments/records/saved_model.h"

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
      EXPECT(layer.beside.size() == (row.columns.empty() ? 0 : t.tokens.size()));
    }
    for (const State& state : model->parameters().states())
      if (state.name == "encoder.layer.0.moe.router.load_bias")
        EXPECT(json["layers"][0]["kept"]["load bias"].size() == 4);
  }
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
