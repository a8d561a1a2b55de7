// A finished run's model for others: a folder that Hugging Face's transformers loads, or, since they have no such model,
// a mixture's weights under our names with a page that describes them. --init reads both back to the same bits.
#pragma once
#include <string>

#include "experiments/records/results.h"

namespace glia {

// Writes DIR/{config.json, model.safetensors, vocab.txt, tokenizer_config.json} and, for a mixture, README.md. A folder
// that holds something is an error: nothing is overwritten. `vocabulary`: "" finds the run's own.
void export_run(const results::Run& run, const std::string& dir, const std::string& vocabulary);

}  // namespace glia
