// A finished run's folder with an untrained model, for tests of what uses one.
#pragma once

#include "engine/core/file.h"
#include "experiments/records/saved_model.h"
#include "nn/weights/checkpoint.h"
#include "tests/nn/helpers.h"
#include "tests/records/fake_results.h"

namespace glia::test {

inline constexpr const char* kSavedVocabulary =
    "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nstocks\nfell\non\nmonday\n##s\nteam\nwins\n";

// A run folder as the training loop leaves it, with an untrained model whose router weights are large enough to
// matter. `more`: keys of config.json's model, such as a router's options.
inline std::string write_saved_run(const std::string& out, const std::string& router,
                                   const std::vector<std::pair<std::string, results::Json>>& more = {}) {
  results::RunConfig c = fake_config(router == "none" ? "dense" : router, 0, 2, 4);
  c.router = router;
  c.model = {{"layers", 2},
             {"hidden", 16},
             {"heads", 2},
             {"ffn", 32},
             {"experts", router == "none" ? 0 : 4},
             {"top_k", router == "none" ? 0 : 2},
             {"classes", 4},
             {"vocabulary", 12}};
  for (const auto& [key, value] : more) c.model[key] = value;
  c.options["second_residual"] = router == plain_router();
  c.train["max_length"] = 6;
  const std::string folder = results::run_folder(out, 0, c.config);
  results::begin_run(folder, c, false);
  write_file_atomic(out + "/vocab.txt", kSavedVocabulary);
  Context context(Device::cpu());
  const results::Run run = results::read_run(folder);
  Model model(context, saved_model_config(run, DType::kFloat32), 5);
  for (const Parameter& p : model.parameters().all())
    if (p.name.find("router") != std::string::npos) model.parameters().redraw(p, Init::normal(0.5), 9);
  // A state that says something, as after steps: what is told of a choice must hold with it too.
  for (Statistic s : model.router_state())
    s.value.copy_from(random_normal(context, s.value.shape(), 0.3, 9, purpose::kTest, 1, s.value.dtype()));
  save_checkpoint(folder + "/model.safetensors", model.parameters(), nullptr, model.router_state(),
                  {7, 42, "{}", ""});
  return folder;
}

}  // namespace glia::test
