#include "experiments/tasks/other_prompts.h"

#include "moe/router.h"

namespace glia {

Tensor rows_of_other_prompts(const Batch& batch) {
  CHECK(batch.borders.defined(), "other prompts: wants sequences with a prompt");
  const auto offsets = batch.sequences.offsets.to_vector<int32_t>(), borders = batch.borders.to_vector<int32_t>();
  std::vector<int32_t> rows(static_cast<size_t>(batch.sequences.tokens), -1);
  const size_t count = borders.size();
  for (size_t b = 0; b < count; ++b) {
    const size_t other = (b + 1) % count;
    const int32_t told = offsets[other] + borders[other] - 1;
    for (int32_t t = offsets[b]; t < offsets[b + 1]; ++t)
      rows[static_cast<size_t>(t)] =
          borders[b] > 0 && borders[other] > 0 && t >= offsets[b] + borders[b] - 1 ? told : t;
  }
  return from_vector(batch.ids.context(), rows, {batch.sequences.tokens});
}

std::string cost_of_other_prompt(const std::string& loss) {
  constexpr std::string_view kLoss = "loss.";
  if (loss == "word_loss") return "other_prompt.word";
  return loss.starts_with(kLoss) ? "other_prompt." + loss.substr(kLoss.size()) : "";
}

bool reads_prompts(const ModelConfig& config) {
  if (config.moe.dense()) return false;
  const RouterRow& row = router_row(config.moe.router);
  return row.reads_borders && row.reads_borders(config.moe.options);
}

}  // namespace glia
