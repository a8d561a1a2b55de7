#include "data/tokens/tokenizer_json.h"

#include <algorithm>

#include "engine/core/check.h"
#include "engine/core/json.h"

namespace glia {
namespace {

using Json = nlohmann::json;  // keeps its keys in a tree: with 30,000 of them a list would be searched for each

std::string shown(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 80);
}

// Of an object's part, null where it is not there.
const Json& part(const Json& object, const char* key) {
  static const Json nothing;
  const auto found = object.is_object() ? object.find(key) : object.end();
  return object.is_object() && found != object.end() ? *found : nothing;
}

// A key that may be missing; `allowed` is what this tokenizer does.
void want(const std::string& source, const char* name, const Json& value, const Json& allowed) {
  if (!value.is_null() && value != allowed)
    fail_input("{}: expected {} as {}, got {}", source, shown(allowed), name, shown(value));
}

std::vector<std::string> tokens_of(const std::string& source, const Json& vocabulary) {
  if (!vocabulary.is_object() || vocabulary.empty())
    fail_input("{}: expected an object from tokens to ids as model.vocab, got {}", source, shown(vocabulary));
  std::vector<std::string> tokens(vocabulary.size());
  std::vector<bool> there(tokens.size());
  for (const auto& [token, id] : vocabulary.items()) {
    const size_t at = id.is_number_unsigned() ? id.get<size_t>() : tokens.size();
    if (at >= tokens.size() || there[at])
      fail_input("{}: expected each id below {} once in model.vocab, got {}: {}", source, tokens.size(),
                 shown(Json(token)), shown(id));
    // As vocab.txt, which every run keeps, it would come back as others.
    if (token.find('\n') != std::string::npos || token.find_last_not_of(" \t\r\v\f") + 1 != token.size())
      fail_input("{}: expected tokens without white space at their end or line ends, got {}", source,
                 shown(Json(token)));
    tokens[at] = token;
    there[at] = true;
  }
  return tokens;
}

}  // namespace

void refuse_added_token(const std::string& source, const std::string& token) {
  constexpr std::string_view kFound[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
  if (std::find(std::begin(kFound), std::end(kFound), token) == std::end(kFound))
    fail_input(
        "{}: expected none but [PAD], [UNK], [CLS], [SEP] and [MASK], which alone this tokenizer keeps whole, got {}",
        source, shown(Json(token)));
}

bool is_tokenizer_json(std::string_view path) { return path.ends_with(".json"); }

TokenizerJson read_tokenizer_json(std::string_view text, const std::string& source) {
  const Json json = Json::parse(text, nullptr, false);
  if (!json.is_object()) json_object(text, source);  // says where it is no JSON, or what else it is
  const Json& model = part(json, "model");
  want(source, "model.type", part(model, "type"), "WordPiece");
  want(source, "model.continuing_subword_prefix", part(model, "continuing_subword_prefix"), "##");
  want(source, "model.unk_token", part(model, "unk_token"), "[UNK]");
  want(source, "model.max_input_chars_per_word", part(model, "max_input_chars_per_word"), 100);
  const Json& normaliser = part(json, "normalizer");
  if (part(normaliser, "type") != "BertNormalizer")
    fail_input("{}: expected a BertNormalizer as normalizer, got {}", source, shown(normaliser));
  want(source, "normalizer.clean_text", part(normaliser, "clean_text"), true);
  want(source, "normalizer.handle_chinese_chars", part(normaliser, "handle_chinese_chars"), true);
  const Json& cutting = part(json, "pre_tokenizer");
  if (cutting.is_null()) fail_input("{}: expected a BertPreTokenizer as pre_tokenizer, got null", source);
  want(source, "pre_tokenizer.type", part(cutting, "type"), "BertPreTokenizer");
  if (const Json& added = part(json, "added_tokens"); added.is_array())
    for (const Json& token : added)
      if (const Json& content = part(token, "content"); content.is_string())
        refuse_added_token(source + ": added_tokens", content.get<std::string>());
  const Json& lowercase = part(normaliser, "lowercase");
  if (!lowercase.is_null() && !lowercase.is_boolean())
    fail_input("{}: expected true or false as normalizer.lowercase, got {}", source, shown(lowercase));
  TokenizerJson found{tokens_of(source, part(model, "vocab")), lowercase.is_null() || lowercase.get<bool>()};
  want(source, "normalizer.strip_accents", part(normaliser, "strip_accents"), found.lowercase);
  return found;
}

}  // namespace glia
