// A finished run's model, ready to be used: config.json says its shape, model.safetensors holds its weights.
#pragma once
#include <memory>

#include "data/tokens/wordpiece.h"
#include "experiments/records/results.h"
#include "experiments/records/routing/routing_trace.h"
#include "moe/model.h"

namespace glia {

// The shape that config.json describes. Errors name the file and the field.
ModelConfig saved_model_config(const results::Run& run, DType compute);

// What is asked for, "float32" or "bfloat16"; "": as the run computed, as far as the device can.
DType saved_precision(const results::Run& run, Device device, const std::string& asked = "");

// Builds the model on the context's device and loads its weights and router state.
std::unique_ptr<Model> load_saved_model(Context& context, const results::Run& run, DType compute);

// vocab.txt in the run's folder, in the seed's, or in the result folder's; "" where there is none.
std::string saved_vocabulary(const results::Run& run);

// The tokenizer of a run: by `vocabulary` when given, else by saved_vocabulary(). Throws when there is none, or when its
// size is not the model's.
WordPiece saved_tokenizer(const results::Run& run, const std::string& vocabulary);

// Tokens of a text that the model reads at most, [CLS] and [SEP] included: as in its training.
int64_t saved_max_length(const Model& model, const results::Run& run);

// Each token's experts and gates out of a pass; no logits.
results::LayerTrace layer_trace(const Routing& routing);

// Runs one text and records every layer's choices. Where the router explains itself
// (Router::explain: logits of the token alone, and what the context added or multiplied), its choices are CHECKed to be
// those of its scores. Of others the scores are told; of all what they keep of each expert, and chosen columns beside them.
results::RoutingTrace trace_text(const Model& model, const results::Run& run, const WordPiece& tokenizer,
                                 const std::string& text);

}  // namespace glia
