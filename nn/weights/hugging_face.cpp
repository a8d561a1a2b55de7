#include "nn/weights/hugging_face.h"

#include <optional>

namespace glia {
namespace {

void replace(std::string& text, std::string_view from, std::string_view to) {
  if (const size_t at = text.find(from); at != std::string::npos) text.replace(at, from.size(), to);
}

// The name under which the file has it, if it does.
std::optional<std::string> find(const Weights& weights, const std::string& name) {
  const std::string there =
      name.starts_with("bert.") ? weights.prefix() + name.substr(5) : weights.head_prefix() + name;
  std::string old = there;
  replace(old, "LayerNorm.weight", "LayerNorm.gamma");
  replace(old, "LayerNorm.bias", "LayerNorm.beta");
  // A head whose shared bias was saved under its other name alone.
  std::string decoder = there;
  replace(decoder, "cls.predictions.bias", "cls.predictions.decoder.bias");
  for (const std::string& candidate : {there, old, decoder})
    if (weights.find(candidate)) return candidate;
  return std::nullopt;
}

void read(const Weights& weights, const std::string& name, Tensor to, std::set<std::string>& used) {
  const RawTensor& raw = *weights.find(name);
  // Padded vocabularies and longer position tables lend their first rows; of anything else all rows are needed.
  const bool table = name.find("embeddings.") != std::string::npos || name.ends_with("predictions.bias") ||
                     name.ends_with("predictions.decoder.bias") || name == "mlm.bias";
  if (raw.shape != to.shape() && !table)
    fail_input("{}: '{}': expected {}, got {}", weights.path(), name, to.shape(), raw.shape);
  // Tables are padded to multiples of 64 up to 8 × 128; what is beyond was not made for this vocabulary, and no row of it is the
  // word that its number says.
  constexpr int64_t kMostPadding = 1024;
  if (name.ends_with("word_embeddings.weight") && raw.shape.rank() > 0 &&
      raw.shape[0] > (to.size(0) + kMostPadding - 1) / kMostPadding * kMostPadding)
    fail_input("{}: '{}' has {} rows and the vocabulary {} pieces: expected --vocab to be the one of the weights",
               weights.path(), name, raw.shape[0], to.size(0));
  copy_raw(raw, fmt::format("{}: '{}'", weights.path(), name), to);
  used.insert(name);
}

}  // namespace

std::vector<std::string> hugging_face_names(const std::string& name) {
  if (name.starts_with("classifier.")) return {name};
  if (name.starts_with("mlm.")) {
    std::string head = "cls.predictions." + name.substr(4);
    replace(head, ".transform.", ".transform.dense.");
    replace(head, ".norm.", ".transform.LayerNorm.");
    return {head};
  }
  std::string n = "bert." + name;
  if (n.starts_with("bert.embeddings.")) {
    replace(n, ".word.weight", ".word_embeddings.weight");
    replace(n, ".position.weight", ".position_embeddings.weight");
    replace(n, ".type.weight", ".token_type_embeddings.weight");
    replace(n, ".norm.", ".LayerNorm.");
  } else if (n.starts_with("bert.pooler.")) {
    replace(n, "pooler.", "pooler.dense.");
  } else if (n.find(".attention.qkv.") != std::string::npos) {
    std::vector<std::string> three(3, n);
    const char* parts[] = {".attention.self.query.", ".attention.self.key.", ".attention.self.value."};
    for (int i = 0; i < 3; ++i) replace(three[i], ".attention.qkv.", parts[i]);
    return three;
  } else if (n.find(".attention.") != std::string::npos) {
    replace(n, ".attention.output.", ".attention.output.dense.");
    replace(n, ".attention.norm.", ".attention.output.LayerNorm.");
  } else if (n.find(".moe.") == std::string::npos) {
    replace(n, ".ffn.up.", ".intermediate.dense.");
    replace(n, ".ffn.down.", ".output.dense.");
    replace(n, ".norm.", ".output.LayerNorm.");
  }
  return {n};
}

void require_encoder(const Weights& weights, int64_t layers) {
  if (weights.ours()) return;
  std::vector<std::string> names;
  const auto both = [&](const std::string& name) {
    for (const char* part : {".weight", ".bias"}) names.push_back(name + part);
  };
  for (const char* table : {"word", "position", "type"})
    names.push_back(fmt::format("embeddings.{}.weight", table));
  both("embeddings.norm");
  for (int64_t l = 0; l < layers; ++l)
    for (const char* name : {"attention.qkv", "attention.output", "attention.norm", "ffn.up", "ffn.down", "norm"})
      both(fmt::format("encoder.layer.{}.{}", l, name));
  for (const std::string& name : names)
    for (const std::string& theirs : hugging_face_names(name)) {
      const auto found = find(weights, theirs);
      if (!found) fail_input("{}: expected '{}', found no tensor of that name", weights.path(), theirs);
      if (const RawTensor& raw = *weights.find(*found); !raw.floating())
        fail_input("{}: '{}': expected floating point numbers, got {}", weights.path(), *found, raw.dtype);
    }
}

bool read_weight(const Weights& weights, const std::string& name, Tensor to, std::set<std::string>& used) {
  if (weights.ours()) {
    if (!weights.find(name)) return false;
    read(weights, name, to, used);
    return true;
  }
  const std::vector<std::string> theirs = hugging_face_names(name);
  std::vector<std::string> found;
  for (const std::string& n : theirs)
    if (const auto f = find(weights, n)) found.push_back(*f);
  if (found.empty()) return false;
  if (found.size() != theirs.size())
    fail_input("{}: '{}' wants {} tensors ({}, …), found {}", weights.path(), name, theirs.size(), theirs[0],
               found.size());
  const int64_t parts = static_cast<int64_t>(found.size()), rows = to.size(0) / parts;
  for (int64_t i = 0; i < parts; ++i) read(weights, found[i], to.rows(i * rows, (i + 1) * rows), used);
  return true;
}

void export_hugging_face(const std::string& path, const ParameterSet& parameters, const Metadata& metadata) {
  std::vector<NamedTensor> all;
  for (const Parameter& p : parameters.all()) {
    const Tensor value = cast(p.var.value(), DType::kFloat32);
    const std::vector<std::string> theirs = hugging_face_names(p.name);
    const int64_t parts = static_cast<int64_t>(theirs.size()), rows = value.size(0) / parts;
    for (int64_t i = 0; i < parts; ++i) all.push_back({theirs[i], value.rows(i * rows, (i + 1) * rows)});
  }
  Metadata with_format = metadata;
  with_format["format"] = "pt";  // what transformers looks for
  write_safetensors(path, all, with_format);
}

}  // namespace glia
