#include "nn/weights/pretrained.h"

#include <algorithm>
#include <optional>

#include "engine/core/check.h"
#include "engine/core/json.h"

namespace fs = std::filesystem;

namespace glia {
namespace {

using Json = nlohmann::ordered_json;

std::string text_of(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 80);
}

int64_t whole(const std::string& path, const Json& json, const char* key, std::optional<int64_t> standard = {}) {
  const auto found = json.find(key);
  if (found == json.end() && standard) return *standard;
  if (found == json.end() || !found->is_number_integer() || *found < 1 || *found > (int64_t{1} << 31))
    fail_input("{}: expected a whole number above 0 as {}, got {}", path, key,
               found == json.end() ? "nothing" : text_of(*found));
  return found->get<int64_t>();
}

// What would make another model of the same tensors. A key that is not there has the value that BERT gives it.
void refuse_what_is_not_ours(const std::string& path, const Json& json) {
  struct Row {
    const char* key;
    std::vector<Json> allowed;
  };
  static const std::vector<Row> rows{
      {"model_type", {"bert", "glia-moe", "glia-pre-norm", "glia-lm"}},
      {"hidden_act", {"gelu", "gelu_python"}},  // both are the exact one, with erf
      {"position_embedding_type", {"absolute", nullptr}},
      {"is_decoder", {false, nullptr}},
      {"add_cross_attention", {false, nullptr}},
      {"pruned_heads", {Json::object(), nullptr}},
      {"quantization_config", {nullptr}},
      {"is_encoder_decoder", {false, nullptr}},
  };
  for (const Row& row : rows) {
    const auto found = json.find(row.key);
    if (found == json.end() || std::find(row.allowed.begin(), row.allowed.end(), *found) != row.allowed.end())
      continue;
    fail_input("{}: {} is {}, which this encoder does not do: expected {}", path, row.key, text_of(*found),
               text_of(row.allowed[0]));
  }
  if (const auto size = json.find("embedding_size");
      size != json.end() && *size != json.value("hidden_size", Json()))
    fail_input("{}: embedding_size is {}, and hidden_size is not: expected the same", path, text_of(*size));
}

// A size by its name in a config.json of Hugging Face's and in one of ours; those that may be missing keep their default.
struct Size {
  int64_t BertConfig::*member;
  const char *theirs, *ours;
  bool needed;
};
constexpr Size kSizes[] = {
    {&BertConfig::layers, "num_hidden_layers", "layers", true},
    {&BertConfig::hidden, "hidden_size", "hidden", true},
    {&BertConfig::heads, "num_attention_heads", "heads", true},
    {&BertConfig::ffn, "intermediate_size", "ffn", true},
    {&BertConfig::vocabulary, "vocab_size", "vocabulary", true},
    {&BertConfig::positions, "max_position_embeddings", "positions", false},
    {&BertConfig::types, "type_vocab_size", "types", false},
};
void read_sizes(Pretrained& p, const Json& json, const char* Size::*key) {
  for (const Size& size : kSizes) {
    int64_t& value = p.shape.*size.member;
    value = size.needed ? whole(p.config, json, size.*key) : whole(p.config, json, size.*key, value);
  }
}

void read_hugging_face(Pretrained& p, const Json& json) {
  read_sizes(p, json, &Size::theirs);
  BertConfig& s = p.shape;
  if (s.hidden % s.heads != 0)
    fail_input("{}: hidden_size {} is no multiple of num_attention_heads {}", p.config, s.hidden, s.heads);
  if (const auto eps = json.find("layer_norm_eps"); eps != json.end()) {
    if (!eps->is_number() || !(eps->get<double>() > 0 && eps->get<double>() < 1))
      fail_input("{}: expected a number between 0 and 1 as layer_norm_eps, got {}", p.config, text_of(*eps));
    s.layer_norm_eps = eps->get<double>();
  }
  const auto labels = json.find("id2label");
  if (labels == json.end() || !labels->is_object()) return;
  p.class_names.clear();
  for (size_t c = 0; c < labels->size(); ++c)
    if (const auto name = labels->find(std::to_string(c)); name != labels->end() && name->is_string())
      p.class_names.push_back(name->get<std::string>());
}

// Ours: config.json of a run, or what an export keeps under "glia". Missing positions, types and eps are the defaults.
void read_ours(Pretrained& p, const Json& json) {
  p.ours = true;
  const Json model = json.value("model", Json::object());
  read_sizes(p, model, &Size::ours);
  BertConfig& s = p.shape;
  if (const auto eps = model.find("norm_eps"); eps != model.end() && eps->is_number())
    s.layer_norm_eps = eps->get<double>();
  if (const auto places = model.find("position_encoding"); places != model.end()) s.rotary = *places == "rotary";
  if (const auto norms = model.find("norm"); norms != model.end()) s.pre_norm = *norms == "pre";
  if (const auto router = json.find("router"); router != json.end() && router->is_string())
    p.router = router->get<std::string>();
  if (p.router != "none") {
    p.experts = whole(p.config, model, "experts");
    p.top_k = whole(p.config, model, "top_k");
  }
  if (const Json train = json.value("train", Json::object()); train.is_object())
    p.language_model = train.value("task", Json()) == "causal_lm";
  const Json data = json.value("data", Json::object());
  if (const auto names = data.find("class_names"); names != data.end() && names->is_array())
    for (const Json& name : *names)
      if (name.is_string()) p.class_names.push_back(name.get<std::string>());
}

std::string weights_in(const fs::path& folder) {
  const char* names[] = {"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
                         "pytorch_model.bin.index.json"};
  for (const char* name : names)
    if (fs::exists(folder / name)) return (folder / name).string();
  fail_input("{}: expected {}, {} or {} in the folder, found none of them", folder.string(), names[0], names[1],
             names[2]);
}

}  // namespace

Pretrained find_pretrained(const std::string& path) {
  Pretrained p;
  if (!fs::exists(path))
    fail_input("{}: expected a folder or file of weights, found nothing there (names of a hub are not looked up)",
               path);
  const bool is_folder = fs::is_directory(path);
  const fs::path folder = is_folder ? fs::path(path) : fs::path(path).parent_path();
  p.weights = is_folder ? weights_in(folder) : path;
  if (const fs::path config = folder / "config.json"; fs::exists(config)) p.config = config.string();
  if (!is_folder && p.config.empty()) return p;  // nothing says that the files around it belong to it
  const Json json = p.config.empty() ? Json::object() : read_json_object(p.config);
  const bool run = json.contains("model") && json.contains("train");
  // Our runs keep their vocabulary once, in the result folder: two above results/seed0/dense.
  for (const fs::path& place : {folder, folder / "..", folder / "../.."})
    if (p.vocabulary.empty() && (run || place == folder) && fs::exists(place / "vocab.txt"))
      p.vocabulary = (place / "vocab.txt").lexically_normal().string();
  // All that transformers writes since version 5.
  if (const fs::path words = folder / "tokenizer.json"; p.vocabulary.empty() && fs::exists(words))
    p.vocabulary = words.lexically_normal().string();
  if (p.config.empty()) return p;
  if (run) {
    read_ours(p, json);
    return p;
  }
  refuse_what_is_not_ours(p.config, json);
  const Json type = json.value("model_type", Json());
  const bool of_ours = type.is_string() && type.get<std::string>().starts_with("glia-");
  if (const auto ours = json.find("glia"); ours != json.end() || of_ours) {
    if (ours == json.end() || !ours->is_object())
      fail_input("{}: expected an object as glia, got {}", p.config,
                 ours == json.end() ? "nothing" : text_of(*ours));
    read_ours(p, *ours);
  }
  // Last, since transformers keeps our part as it was when a model is changed and saved there.
  read_hugging_face(p, json);
  p.language_model = p.language_model || type == "glia-lm";
  return p;
}

Json hugging_face_config(const BertConfig& s, const std::string& architecture,
                         const std::vector<std::string>& class_names) {
  Json to_label = Json::object(), to_id = Json::object();
  for (size_t c = 0; c < class_names.size(); ++c) {
    to_label[std::to_string(c)] = class_names[c];
    to_id[class_names[c]] = c;
  }
  Json json = {{"architectures", Json::array({architecture})},
               {"model_type", "bert"},
               {"vocab_size", s.vocabulary},
               {"hidden_size", s.hidden},
               {"num_hidden_layers", s.layers},
               {"num_attention_heads", s.heads},
               {"intermediate_size", s.ffn},
               {"max_position_embeddings", s.positions},
               {"type_vocab_size", s.types},
               {"hidden_act", "gelu"},
               {"layer_norm_eps", s.layer_norm_eps},
               {"hidden_dropout_prob", s.dropout},
               {"attention_probs_dropout_prob", s.dropout},
               {"initializer_range", s.init_std},
               {"position_embedding_type", "absolute"},
               {"tie_word_embeddings", true}};
  if (!class_names.empty()) json["id2label"] = to_label, json["label2id"] = to_id;
  return json;
}

}  // namespace glia
