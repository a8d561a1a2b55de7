// The names that Hugging Face's BertForSequenceClassification gives the same weights, such as
// bert.encoder.layer.0.attention.self.query.weight. We keep query, key and value in one tensor, they in three.
#pragma once
#include "nn/parameters.h"
#include "nn/weights/safetensors.h"

namespace glia {

// Their name or names (query, key, value) of our parameter; a parameter they do not have keeps its name below
// "bert.".
std::vector<std::string> hugging_face_names(const std::string& name);

// Reads what our parameter `name` is in a file with their names (with or without "bert.", LayerNorm.gamma/beta as
// in older files) or with ours. Returns false when the file has none of it; a part missing or a wrong shape is an
// error.
bool read_weight(const SafetensorsFile& file, const std::string& name, Tensor to);

// All parameters under their names, float32.
void export_hugging_face(const std::string& path, const ParameterSet& parameters, const Metadata& metadata);

}  // namespace glia
