#include "nn/weights/weights.h"

#include <algorithm>
#include <charconv>

#include "engine/core/file.h"
#include "engine/core/json.h"
#include "nn/weights/safetensors_header.h"
#include "nn/weights/torch_file.h"

namespace fs = std::filesystem;

namespace glia {
namespace {

constexpr std::string_view kTheirWords = "embeddings.word_embeddings.weight", kOurWords = "embeddings.word.weight";

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

bool is_plain_name(const std::string& file) {
  return !file.empty() && file != "." && file != ".." && file.find_first_of("/\\") == std::string::npos;
}

}  // namespace

Weights::Weights(const std::string& path) : path_(path) {
  if (path.ends_with(".json")) add_shards(path);
  else add(path);
  find_encoder();
}

void Weights::add(const std::string& file) {
  const auto content = std::make_shared<const std::string>(read_file(file));
  RawTensors found;
  if (looks_like_torch(*content)) {
    found = read_torch(*content, file);
  } else {
    found.tensors = read_safetensors(*content, file).tensors;
    found.owners.push_back(content);
  }
  for (auto& [name, tensor] : found.tensors)
    if (!raw_.tensors.emplace(name, std::move(tensor)).second)
      fail_input("{}: '{}' is in another shard too", file, name);
  raw_.owners.insert(raw_.owners.end(), found.owners.begin(), found.owners.end());
}

void Weights::add_shards(const std::string& index) {
  const auto json = read_json_object(index);
  const auto map = json.find("weight_map");
  if (map == json.end() || !map->is_object())
    fail_input("{}: expected an index with a weight_map from tensors to files", index);
  std::set<std::string> files;
  for (const auto& [name, file] : map->items()) {
    // A shard lies beside its index: a path of its own would let the file choose what is read.
    if (!file.is_string() || !is_plain_name(file.get<std::string>()))
      fail_input("{}: '{}': expected the name of a file beside it, got {}", index, name,
                 file.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
    files.insert(file.get<std::string>());
  }
  std::map<std::string, std::string> shard_of;
  for (const std::string& file : files) {
    add((fs::path(index).parent_path() / file).string());
    for (const auto& [name, tensor] : raw_.tensors) shard_of.emplace(name, file);  // those that it added
  }
  for (const auto& [name, file] : map->items())
    if (shard_of[name] != file.get<std::string>())
      fail_input("{}: '{}' should be in {}, which does not have it", index, name, file.get<std::string>());
}

const RawTensor* Weights::find(const std::string& name) const {
  const auto found = raw_.tensors.find(name);
  return found == raw_.tensors.end() ? nullptr : &found->second;
}

void Weights::find_encoder() {
  std::vector<std::string> theirs;
  for (const auto& [name, tensor] : raw_.tensors)
    if (name.ends_with(kTheirWords)) theirs.push_back(name.substr(0, name.size() - kTheirWords.size()));
  ours_ = find(std::string(kOurWords)) != nullptr;
  if (theirs.size() > 1 || (ours_ && !theirs.empty()))
    fail_input("{}: holds more than one encoder, under the prefixes '{}'", path_, joined(theirs));
  if (theirs.empty() && !ours_)
    fail_input("{}: expected a tensor '{}' under some prefix, or our '{}', found neither among {} tensors", path_,
               kTheirWords, kOurWords, raw_.tensors.size());
  prefix_ = ours_ ? "" : theirs[0];
  const std::string layer = prefix_ + "encoder.layer.";
  for (const auto& [name, tensor] : raw_.tensors)
    if (int64_t n = -1; name.starts_with(layer)) {
      std::from_chars(name.data() + layer.size(), name.data() + name.size(), n);
      layers_ = std::max(layers_, n + 1);
    }
  const auto extent = [&](const std::string& name, int axis) {
    const RawTensor* t = find(prefix_ + name);
    return t && t->shape.rank() > axis ? t->shape[axis] : 0;
  };
  const auto table = [&](const char* our, const char* their) {
    return std::string("embeddings.") + (ours_ ? our : their) + ".weight";
  };
  extents_.words = extent(table("word", "word_embeddings"), 0);
  extents_.hidden = extent(table("word", "word_embeddings"), 1);
  extents_.positions = extent(table("position", "position_embeddings"), 0);
  extents_.types = extent(table("type", "token_type_embeddings"), 0);
  for (const char* name : {"ffn.up.bias", "moe.experts.up.bias", "intermediate.dense.bias"})
    if (extents_.ffn == 0) extents_.ffn = extent(std::string("encoder.layer.0.") + name, name[0] == 'm' ? 1 : 0);
}

std::string Weights::head_prefix() const {
  for (const std::string_view encoder : {"bert.", "encoder."})
    if (prefix_.ends_with(encoder)) return prefix_.substr(0, prefix_.size() - encoder.size());
  return prefix_;
}

void Weights::check_finite() const {
  for (const auto& [name, tensor] : raw_.tensors)
    if (const int64_t at = first_not_finite(tensor); at >= 0)
      fail_input("{}: '{}' holds a number that is not finite in float32, at element {} of {}", path_, name, at,
                 tensor.shape.numel());
}

void Weights::require_shared_table() const {
  const std::string head = head_prefix() + "cls.predictions.";
  for (const auto& [own, shared] : {std::pair{head + "decoder.weight", prefix_ + std::string(kTheirWords)},
                                    std::pair{head + "decoder.bias", head + "bias"}})
    if (const RawTensor* a = find(own), *b = find(shared);
        a && b &&
        (a->dtype != b->dtype || a->shape != b->shape || a->strides != b->strides || a->bytes != b->bytes))
      fail_input("{}: '{}' has other numbers than '{}': expected a head that shares them (tie_word_embeddings)",
                 path_, own, shared);
}

uint64_t Weights::hash() const {
  uint64_t hash = 0;
  for (const auto& [name, tensor] : raw_.tensors)
    hash = hash_bytes(tensor.bytes, hash_bytes(fmt::format("{} {} {}", name, tensor.dtype, tensor.shape), hash));
  return hash;
}

}  // namespace glia
