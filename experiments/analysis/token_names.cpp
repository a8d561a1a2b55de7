#include "experiments/analysis/token_names.h"

#include <algorithm>
#include <array>
#include <optional>
#include <unordered_map>

#include "data/text/utf8.h"
#include "data/tokens/tokenizer_json.h"
#include "engine/core/check.h"
#include "engine/core/file.h"
#include "engine/core/file_kind.h"
#include "engine/core/json.h"
#include "engine/core/message.h"

namespace glia::results {
namespace {

using Json = nlohmann::json;  // keeps its keys in a tree: with 250,000 of them a list would be searched for each

constexpr size_t kMostIds = 16 << 20;  // as a trace's

std::string shown(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 80);
}

const Json& part(const Json& object, const char* key) {
  static const Json nothing;
  const auto found = object.find(key);
  return found != object.end() ? *found : nothing;
}

// Names by id, as a file gives them.
class Names {
 public:
  Names(std::string source, const char* key) : source_(std::move(source)), key_(key) {}

  size_t id(const Json& token, const Json& id) const {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= kMostIds)
      fail_input("{}: {}: expected an id of 0 … {} of {}, got {}", source_, key_, kMostIds - 1, shown(token),
                 shown(id));
    return id.get<size_t>();
  }
  void add(const std::string& token, const Json& number) {
    std::string& name = at(id(token, number));
    if (!name.empty())
      fail_input("{}: {}: expected each id once, got {} of {} and {}", source_, key_, shown(number),
                 shown(Json(name)), shown(Json(token)));
    name = token;
  }
  std::string& at(size_t id) {
    if (id >= names.size()) names.resize(id + 1);
    return names[id];
  }
  void key(const char* key) { key_ = key; }

  std::vector<std::string> names;

 private:
  std::string source_;
  const char* key_;
};

// Of a vocabulary that may stand in model.vocab, or be the whole file.
void add_object(Names& names, const Json& vocabulary) {
  for (const auto& [token, id] : vocabulary.items()) names.add(token, id);
}

std::vector<std::string> of_tokenizer(const Json& json, const std::string& source) {
  Names names(source, "model.vocab");
  const Json& vocabulary = part(json["model"], "vocab");
  if (vocabulary.is_object()) {
    add_object(names, vocabulary);
  } else if (vocabulary.is_array()) {
    for (const Json& entry : vocabulary) {
      if (!entry.is_array() || entry.empty() || !entry[0].is_string())
        fail_input("{}: model.vocab: expected [token, score] at {}, got {}", source, names.names.size(),
                   shown(entry));
      names.names.push_back(entry[0].get<std::string>());
    }
  } else {
    fail_input("{}: model.vocab: expected an object from tokens to ids, or a list of [token, score], got {}",
               source, shown(vocabulary));
  }
  const Json& added = part(json, "added_tokens");
  if (!added.is_null() && !added.is_array())
    fail_input("{}: added_tokens: expected a list, got {}", source, shown(added));
  names.key("added_tokens");
  for (const Json& token : added) {
    if (!token.is_object() || !part(token, "content").is_string())
      fail_input("{}: added_tokens: expected objects with id and content, got {}", source, shown(token));
    // Most stand in the vocabulary too; where they differ a tokenizer writes the added one.
    names.at(names.id(token["content"], part(token, "id"))) = token["content"].get<std::string>();
  }
  return std::move(names.names);
}

std::vector<std::string> of_json(std::string_view text, const std::string& source) {
  const Json json = Json::parse(text, nullptr, false);
  if (!json.is_object()) json_object(text, source);  // says where it is no JSON, or what else it is
  if (part(json, "model").is_object()) return of_tokenizer(json, source);
  Names names(source, "a vocab.json, for there is no object \"model\"");
  add_object(names, json);
  return std::move(names.names);
}

std::vector<std::string> of_lines(std::string_view text, const std::string& source) {
  std::vector<std::string> names;
  while (text.ends_with('\n') || text.ends_with('\r')) text.remove_suffix(1);  // lines that an editor left behind
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string& name = names.emplace_back(text, begin, end - begin);
    begin = end + 1;
    if (name.ends_with('\r')) name.pop_back();
    if (name.empty())
      fail_input(
          "{}:{}: expected a token, found an empty line; a token that is a line's end moves all ids behind it: "
          "a tokenizer.json or a vocab.json can name it",
          source, names.size());
    if (utf8::find_invalid(name) != std::string::npos)
      fail_input("{}:{}: expected UTF-8, found other bytes", source, names.size());
    if (names.size() > kMostIds) fail_input("{}: expected at most {} lines, got more", source, kMostIds);
  }
  return names;
}

// Byte-level BPE (GPT-2's) writes each byte as a character: those of Latin-1 that can be seen stand for themselves, the 68
// others for U+0100 … in their order.
std::array<uint32_t, 256> byte_characters() {
  std::array<uint32_t, 256> characters{};
  uint32_t next = 0x100;
  for (uint32_t b = 0; b < 256; ++b)
    characters[b] = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xFF && b != 0xAD) ? b : next++;
  return characters;
}

class ByteLevel {
 public:
  ByteLevel() {
    const auto characters = byte_characters();
    for (uint32_t b = 0; b < 256; ++b) bytes_[characters[b]] = char(b);
  }
  // Such a vocabulary has the space and every byte that may follow in a character as tokens, and "▁" as bytes only.
  bool wrote(const std::vector<std::string>& names) const {
    int found = 0;
    for (const std::string& name : names) {
      if (name == "▁") return false;
      const auto bytes = decoded(name);
      found += bytes && bytes->size() == 1 && (bytes->front() == ' ' || (uint8_t(bytes->front()) & 0xC0) == 0x80);
    }
    return found >= 1 + 64;
  }
  // The bytes that a name stands for, if each of its characters is one's.
  std::optional<std::string> decoded(const std::string& name) const {
    std::string bytes;
    for (const char *p = name.data(), *end = p + name.size(); p < end;) {
      const auto byte = bytes_.find(utf8::decode(p, end));
      if (byte == bytes_.end()) return std::nullopt;
      bytes += byte->second;
    }
    return bytes;
  }

 private:
  std::unordered_map<uint32_t, char> bytes_;
};

void show_bytes(std::vector<std::string>& names) {
  const ByteLevel level;
  if (!level.wrote(names)) return;
  for (std::string& name : names) {
    const auto bytes = level.decoded(name);
    if (!bytes || utf8::find_invalid(*bytes) != std::string::npos) continue;
    std::string text;
    for (const char c : *bytes) text += c == ' ' ? std::string("▁") : std::string(1, c);
    name = one_line(text);
  }
}

}  // namespace

std::vector<std::string> token_names(const std::string& path) {
  const std::string content = read_file(path);
  if (content.empty()) fail_input("{}: expected names of tokens, found an empty file", path);
  refuse_foreign(content, path, "names of tokens");
  const std::string_view text = utf8::without_mark(content);
  std::vector<std::string> names = is_tokenizer_json(path) ? of_json(text, path) : of_lines(text, path);
  if (std::ranges::all_of(names, [](const std::string& name) { return name.empty(); }))
    fail_input("{}: expected names of tokens, found none", path);
  show_bytes(names);
  return names;
}

}  // namespace glia::results
