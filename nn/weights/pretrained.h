// What lies at --init: a folder as Hugging Face's libraries write it, one of our runs or exports, or a file of weights.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "nn/bert_config.h"

namespace glia {

struct Pretrained {
  std::string weights;  // the file (or the index of shards) to be read by Weights
  std::string config;   // "" where there is none beside the weights: then only the tensors say what the model is
  std::string
      vocabulary;  // vocab.txt, else tokenizer.json, "" without either; what lies beside it says whether it keeps case
  // With a config: the shape; `vocabulary` counts the table's rows, which may be padded.
  BertConfig shape;
  // Of our own runs and exports.
  bool ours = false;
  bool language_model = false;  // an export of one, which reads from left to right
  std::string router = "none";
  int64_t experts = 0, top_k = 0;
  std::vector<std::string> class_names;
};

// Finds the files and reads config.json. Prefers model.safetensors to its shards, and those to pytorch_model.bin. A file
// with a config.json beside it is read as its folder would be, so that it cannot become another model. Errors name the
// file, and the key where config.json asks for something that this encoder does not do.
Pretrained find_pretrained(const std::string& path);

// The keys of Hugging Face's BertConfig. `architecture`: "BertForSequenceClassification", say.
nlohmann::ordered_json hugging_face_config(const BertConfig& shape, const std::string& architecture,
                                           const std::vector<std::string>& class_names);

}  // namespace glia
