#include "experiments/language/language_model.h"

#include <algorithm>

#include "engine/core/file.h"
#include "engine/core/json.h"
#include "experiments/records/saved_model.h"
#include "moe/warm_start.h"

namespace glia {
namespace {

using results::Json;

// What an exported folder's config.json keeps of us; nothing where it is a run's.
Json ours_in(const std::string& folder) {
  const std::string path = folder + "/config.json";
  if (!std::filesystem::exists(path))
    fail_input("{}: expected a finished model's folder, found no config.json", folder);
  const Json json = read_json_object(path);
  Json ours = json.value("glia", Json());
  if (ours.is_object()) ours["device"] = "";  // where it was made is no part of an export
  return ours;
}

}  // namespace

bool LanguageModel::reads_borders() const {
  const MoeConfig& moe = model->config().moe;
  if (moe.dense()) return false;
  const RouterRow& row = router_row(moe.router);
  return row.reads_borders && row.reads_borders(moe.options);
}

std::vector<int32_t> LanguageModel::ids_of(const std::string& prompt) const {
  std::vector<int32_t> pieces, ids = {tokenizer.vocabulary().cls()};
  tokenizer.encode(prompt, pieces);
  const auto room = static_cast<size_t>(max_length - 2);
  const size_t left_out = pieces.size() > room ? pieces.size() - room : 0;
  ids.insert(ids.end(), pieces.begin() + static_cast<int64_t>(left_out), pieces.end());
  return ids;
}

std::string LanguageModel::text_of(const std::vector<int32_t>& ids) const {
  return tokenizer.decode(ids.data(), ids.size());
}

LanguageModel load_language_model(Context& context, const std::string& folder, DType compute,
                                  const std::string& vocabulary) {
  const Json ours = ours_in(folder);
  results::Run run;
  if (ours.is_object()) {
    run.folder = folder;
    run.config = results::run_config_from(ours, folder + "/config.json");
  } else {
    run = results::read_run(folder);
  }
  if (run.config.task() != "causal_lm")
    fail_input("{}: expected a language model (--task causal_lm), got one of task {}", folder, run.config.task());
  std::unique_ptr<Model> model;
  if (ours.is_object()) {
    model = std::make_unique<Model>(context, saved_model_config(run, compute), run.config.seed);
    WarmStartOptions all;
    all.copy_head = all.copy_routers = true;
    warm_start(*model, Weights(folder + "/model.safetensors"), all);
  } else {
    model = load_saved_model(context, run, compute);
  }
  const int64_t longest = saved_max_length(*model, run);
  return {run.config, std::move(model), saved_tokenizer(run, vocabulary), longest};
}

}  // namespace glia
