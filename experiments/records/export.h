// A finished run's model for others: a folder that Hugging Face's transformers loads, or, since they have no such model,
// a mixture's weights under our names with a page that describes them. --init reads both back to the same bits.
#pragma once
#include <string>

#include "data/tokens/wordpiece.h"
#include "experiments/records/results.h"
#include "moe/model.h"

namespace glia {

// Writes DIR/{config.json, model.safetensors, vocab.txt, tokenizer_config.json} and, for a mixture, README.md. A folder
// that holds something is an error: nothing is overwritten. `vocabulary`: "" finds the run's own.
void export_run(const results::Run& run, const std::string& dir, const std::string& vocabulary);

// The same of a model in memory, on any device, into a folder that may hold other files; config.json comes last. `max_length`: tokens of a
// text, at most the model's positions; `result`: how good it is, for a mixture's page.
void export_model(const results::RunConfig& config, const Model& model, const WordPiece& tokenizer,
                  int64_t max_length, const std::string& result, const std::string& dir);

}  // namespace glia
