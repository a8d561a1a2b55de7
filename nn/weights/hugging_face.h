// The names that Hugging Face's BertForSequenceClassification gives the same weights, such as
// bert.encoder.layer.0.attention.self.query.weight, and to a masked-LM head. We keep query, key and value in one tensor, they in three.
#pragma once
#include "nn/parameters.h"
#include "nn/weights/safetensors.h"
#include "nn/weights/weights.h"

namespace glia {

// Their name or names (query, key, value) of our parameter; a parameter they do not have keeps its name below
// "bert.".
std::vector<std::string> hugging_face_names(const std::string& name);

// An error that names what a file in Hugging Face's names lacks of the encoder's first layers, or has in integers.
void require_encoder(const Weights& weights, int64_t layers);

// Reads what our parameter `name` is in the file: LayerNorm.gamma/beta of older files too, and of the word table the rows
// that `to` has. False when the file has none of it; a part missing, a wrong shape or too few rows is an error. Adds the
// names that were read to `used`.
bool read_weight(const Weights& weights, const std::string& name, Tensor to, std::set<std::string>& used);

// All parameters under their names, float32.
void export_hugging_face(const std::string& path, const ParameterSet& parameters, const Metadata& metadata);

}  // namespace glia
