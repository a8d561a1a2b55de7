// A language model out of a folder: of a finished run of ./experiments/train or run_all with --task causal_lm, or what
// ./experiments/pretrain leaves.
#pragma once
#include <memory>
#include <string>

#include "data/tokens/wordpiece.h"
#include "experiments/records/results.h"
#include "moe/model.h"

namespace glia {

struct LanguageModel {
  results::RunConfig config;
  std::unique_ptr<Model> model;
  WordPiece tokenizer;
  int64_t max_length;  // tokens of a text at most, as in training

  // Whether its router reads where a prompt ends.
  bool reads_borders() const;
  // [CLS] and the pieces of a prompt, the last ones where there are too many: one place is left at least.
  std::vector<int32_t> ids_of(const std::string& prompt) const;
  // Pieces as a person writes them; [CLS] and [SEP] are left out.
  std::string text_of(const std::vector<int32_t>& ids) const;
};

// `vocabulary`: "" finds the model's own. Errors: no folder, a model of another task, weights that do not fit.
LanguageModel load_language_model(Context& context, const std::string& folder, DType compute,
                                  const std::string& vocabulary);

}  // namespace glia
