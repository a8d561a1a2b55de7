// A run goes out and comes back with the same bits, whatever its router.
#include "experiments/records/export.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "moe/warm_start.h"
#include "nn/weights/pretrained.h"
#include "tests/records/saved_run.h"
#include "tests/test.h"

using namespace glia;
using namespace glia::results;
using namespace glia::test;
namespace fs = std::filesystem;

TEST_CASE("export: every router's model and the dense one come back from their folder with equal bits") {
  std::vector<std::string> routers{"none"};
  for (const RouterRow& row : router_registry()) routers.emplace_back(row.name);
  for (const std::string& router : routers) {
    INFO(router);
    TemporaryFolder tmp("export");
    const Run run = read_run(write_saved_run(tmp.path, router));
    const std::string dir = tmp.path + "/exported";
    export_run(run, dir, "");
    const auto config = nlohmann::json::parse(read_file(dir + "/config.json"));
    EXPECT(config["hidden_size"] == 16);
    EXPECT(config["num_attention_heads"] == 2);
    EXPECT(config["vocab_size"] == 12);
    EXPECT(config["id2label"].size() == 4);
    EXPECT(config["model_type"] == (router == "none" ? "bert" : "glia-moe"));
    EXPECT(config["glia"]["router"] == router);
    EXPECT(read_file(dir + "/vocab.txt") == kSavedVocabulary);
    EXPECT(fs::exists(dir + "/README.md") == (router != "none"));

    const Pretrained p = find_pretrained(dir);
    EXPECT(p.ours);
    EXPECT(p.router == router);
    EXPECT(p.experts == (router == "none" ? 0 : 4));
    EXPECT(p.class_names == run.config.data.class_names);
    EXPECT(p.vocabulary == dir + "/vocab.txt");
    Context context(Device::cpu());
    const auto original = load_saved_model(context, run, DType::kFloat32);
    Model other(context, saved_model_config(run, DType::kFloat32), 77);
    WarmStartOptions whole;
    whole.copy_routers = whole.copy_head = true;
    // From the export and from the run's own folder.
    for (const std::string& source : {dir, run.folder}) {
      const WarmStartReport report = warm_start(other, Weights(find_pretrained(source).weights), whole);
      EXPECT(report.fresh.empty());
      EXPECT(report.unused.empty());
      EXPECT(other.parameters().values().to_vector<float>() == original->parameters().values().to_vector<float>());
      const auto state = other.router_state(), before = original->router_state();
      for (size_t i = 0; i < state.size(); ++i)
        EXPECT(state[i].value.to_vector<double>() == before[i].value.to_vector<double>());
      other.parameters().redraw(other.parameters().all().front(), Init::normal(1), 3);
    }
    EXPECT(contains(error_of([&] { export_run(run, dir, ""); }), "expected an empty or a new folder"));
    // Experts are no dense FFN.
    if (router == "none") continue;
    ModelConfig dense = saved_model_config(run, DType::kFloat32);
    dense.moe = {};
    dense.moe.router = "none";
    Model plain(context, dense, 1);
    EXPECT(contains(error_of([&] { warm_start(plain, Weights(dir + "/model.safetensors"), {}); }),
                    "there are experts in its place"));
  }
}
