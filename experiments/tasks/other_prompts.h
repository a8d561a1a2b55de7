// A trained model's routers told of another text's prompt: right in place and kind, wrong in content. What that costs is what they
// had from the content (docs/causal.md).
#pragma once
#include <string>

#include "moe/model.h"

namespace glia {

// For Batch::context_rows: from the prompt's last row on, the last row of the next sequence's prompt, the first sequence following
// the last; within the prompt the own row. Reads borders back, so it waits.     → int32 [T], −1 in the tail
Tensor rows_of_other_prompts(const Batch& batch);

// The name of what a loss so called costs more, "other_prompt.word" of "word_loss", "other_prompt.at-1" of "loss.at-1"; "": it is
// not told.
std::string cost_of_other_prompt(const std::string& loss);

// Whether a model's router reads prompts, so that there is something to ask.
bool reads_prompts(const ModelConfig& config);

}  // namespace glia
