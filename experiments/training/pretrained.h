// --init: what the weights say about the model goes into the options, and the weights into the model.
#pragma once
#include <set>
#include <string>

#include "data/tokens/vocabulary.h"
#include "experiments/training/options.h"
#include "moe/warm_start.h"

namespace glia {

// Shapes the model by the weights' config.json (layers, hidden, heads, FFN, positions, types, norm epsilon; experts of
// our own MoE models) and takes the vocabulary beside it. `given`: the flags that were typed; one of them that says
// something else is an error that names both. Without a config.json the flags stand, and positions and types are those
// of the tables.
void shape_by_weights(Options& options, const std::set<std::string>& given);

// For --init-layers where there are no weights to take them from.
[[noreturn]] void refuse_init_layers(int64_t layers);

// Reads everything once, before any run and before the data: what cannot be used is an error of one line.
struct CheckedWeights {
  std::string text;   // one line about the weights
  int64_t words = 0;  // rows of the word table
  uint64_t hash = 0;  // of what the file holds, whatever its path
};
CheckedWeights check_weights(const Options& options);
// The line, with what becomes of the word table; fewer rows than the vocabulary has tokens are an error, and so is a
// vocabulary that was learnt on the spot: its ids are others than the weights'.
std::string describe_weights(const CheckedWeights& weights, const Vocabulary& words);

// Into a model that was made from the same options. random_ffn: the FFN stays fresh.
WarmStartReport start_from_weights(Model& model, const Options& options, uint64_t seed, bool random_ffn,
                                   const std::vector<std::string>& class_names);

// The whole report, as the run's folder keeps it: one tensor a line.
std::string report_text(const Options& options, const WarmStartReport& report);

}  // namespace glia
