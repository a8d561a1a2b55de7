#include "data/tokens/tokenizer_config.h"

#include <filesystem>

#include "data/tokens/tokenizer_json.h"
#include "data/tokens/word_builder.h"
#include "engine/core/check.h"
#include "engine/core/file.h"
#include "engine/core/json.h"

namespace glia {
namespace {

using Json = nlohmann::ordered_json;

std::optional<bool> flag(const Json& json, const char* key, const std::string& path) {
  const auto at = json.find(key);
  if (at == json.end() || at->is_null()) return {};
  if (!at->is_boolean()) fail_input("{}: expected true or false as {}, got {}", path, key, at->type_name());
  return at->get<bool>();
}

}  // namespace

std::optional<TokenizerConfig> read_tokenizer_config(const std::string& folder) {
  const std::filesystem::path path = std::filesystem::path(folder) / "tokenizer_config.json";
  if (!std::filesystem::exists(path)) return {};
  const Json json = read_json_object(path.string());
  TokenizerConfig config;
  config.path = path.string();
  config.lowercase = flag(json, "do_lower_case", config.path);
  const bool lowercase = config.lowercase.value_or(true);
  if (flag(json, "strip_accents", config.path).value_or(lowercase) != lowercase)
    fail_input("{}: strip_accents other than do_lower_case: this tokenizer does both or neither", config.path);
  if (!flag(json, "tokenize_chinese_chars", config.path).value_or(true))
    fail_input("{}: tokenize_chinese_chars is false: this tokenizer always sets Chinese characters apart",
               config.path);
  // These two are whatever the tokenizer.json beside them says, and that is checked where it is read.
  const bool says_more = std::filesystem::exists(std::filesystem::path(folder) / "tokenizer.json");
  if (const auto at = json.find("tokenizer_class"); at != json.end() && at->is_string())
    if (const std::string name = at->get<std::string>();
        name.find("Bert") == std::string::npos && !name.starts_with("Glia") &&
        !(says_more && (name == "PreTrainedTokenizerFast" || name == "TokenizersBackend")))
      fail_input("{}: expected a BERT tokenizer, found {}", config.path, name);
  const auto refuse_added = [](const std::string& source, const Json& token) {
    if (token.is_string()) refuse_added_token(source, token.get<std::string>());
    else if (token.is_object() && token.contains("content") && token["content"].is_string())
      refuse_added_token(source, token["content"].get<std::string>());
  };
  for (const char* key : {"added_tokens_decoder", "never_split"})
    if (const auto at = json.find(key); at != json.end() && (at->is_object() || at->is_array()))
      for (const Json& token : *at) refuse_added(config.path + ": " + key, token);
  // What transformers 4 wrote beside a vocab.txt: an object from tokens to ids.
  if (const std::filesystem::path added = std::filesystem::path(folder) / "added_tokens.json";
      std::filesystem::exists(added)) {
    const Json tokens = read_json_object(added.string());
    for (const auto& [token, id] : tokens.items()) refuse_added_token(added.string(), token);
  }
  // "No limit" is written as a number beyond any text.
  if (const auto at = json.find("model_max_length"); at != json.end() && !at->is_null()) {
    if (!at->is_number() || !(at->get<double>() >= 1))
      fail_input("{}: expected a number above 0 as model_max_length, got {}", config.path, at->type_name());
    if (at->get<double>() < 1e9) config.max_length = at->get<int64_t>();  // 1e30 stands for "as long as you like"
  }
  return config;
}

bool is_cased(const Vocabulary& vocabulary) {
  for (const std::string& token : vocabulary.tokens()) {
    if (token.starts_with('[') && token.ends_with(']')) continue;
    const std::string_view text =
        std::string_view(token).substr(token.size() > 2 && token.starts_with("##") ? 2 : 0);
    std::string kept, lowered;
    for_each_word(text, false, [&](std::string_view word) { kept += word; });
    for_each_word(text, true, [&](std::string_view word) { lowered += word; });
    if (kept != lowered) return true;
  }
  return false;
}

LetterCase letter_case(const std::string& setting, const Vocabulary& vocabulary, const std::string& path) {
  if (setting == "on" || setting == "off") {
    const bool lowercase = setting == "on";
    if (path.empty() || is_cased(vocabulary) != lowercase) return {lowercase, ""};
    return {lowercase, fmt::format("warning: {} has {} letters, and --lowercase is {}", path,
                                   lowercase ? "capital or accented" : "no capital or accented", setting)};
  }
  CHECK(setting == "auto", "lowercase: expected on, off or auto, got {}", setting);
  if (path.empty()) return {};
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  if (const auto config = read_tokenizer_config(folder.empty() ? "." : folder.string());
      config && config->lowercase)
    return {*config->lowercase,
            *config->lowercase ? "" : fmt::format("texts keep their case: {} says so", config->path)};
  if (is_tokenizer_json(path)) {
    const bool lowercase = read_tokenizer_json(read_file(path), path).lowercase;
    return {lowercase, lowercase ? "" : fmt::format("texts keep their case: {} says so", path)};
  }
  if (is_cased(vocabulary))
    return {false, fmt::format("texts keep their case: {} has capital or accented letters", path)};
  return {};
}

}  // namespace glia
