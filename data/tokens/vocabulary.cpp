#include "data/tokens/vocabulary.h"

#include <algorithm>
#include <map>

#include "data/text/space_words.h"
#include "data/text/utf8.h"
#include "data/tokens/tokenizer_json.h"
#include "engine/core/check.h"
#include "engine/core/file.h"
#include "engine/core/file_kind.h"

namespace glia {

Vocabulary Vocabulary::from_tokens(std::vector<std::string> tokens, const std::string& source) {
  if (tokens.empty()) fail_input("{}: expected a vocabulary, found no token", source);
  Vocabulary v;
  v.source_ = source;
  v.tokens_ = std::move(tokens);
  v.ids_.reserve(v.tokens_.size());
  for (size_t i = 0; i < v.tokens_.size(); ++i) {
    const std::string& token = v.tokens_[i];
    if (token.empty()) fail_input("{}:{}: expected a token, found an empty line", source, i + 1);
    if (utf8::find_invalid(token) != std::string::npos)
      fail_input("{}:{}: expected UTF-8, found other bytes", source, i + 1);
    const auto [at, is_new] = v.ids_.try_emplace(token, static_cast<int32_t>(i));
    if (!is_new) fail_input("{}:{}: token \"{}\" was already on line {}", source, i + 1, token, at->second + 1);
    v.hash_ = hash_bytes(token, v.hash_ + i);
  }
  v.unk_ = v.find("[UNK]"), v.cls_ = v.find("[CLS]"), v.sep_ = v.find("[SEP]");
  v.pad_ = v.find("[PAD]"), v.mask_ = v.find("[MASK]");
  if (v.unk_ < 0) fail_input("{}: expected a line \"[UNK]\", found none", source);
  if (v.cls_ < 0) fail_input("{}: expected a line \"[CLS]\", found none", source);
  if (v.sep_ < 0) fail_input("{}: expected a line \"[SEP]\", found none", source);
  return v;
}

namespace {
constexpr const char* kWordsMark = "[WORDS]";
std::string byte_token(int byte) { return fmt::format("<0x{:02X}>", byte); }
}  // namespace

Vocabulary Vocabulary::of_bytes() {
  std::vector<std::string> tokens = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
  for (int byte = 0; byte < 256; ++byte) tokens.push_back(byte_token(byte));
  return from_tokens(std::move(tokens), "bytes");
}

Vocabulary Vocabulary::of_words(std::string_view text, const std::string& source) {
  std::map<std::string_view, int64_t> counts;
  for_each_word(text, [&](size_t begin, size_t end) {
    ++counts[text.substr(begin, end - begin)];
    return true;
  });
  std::vector<std::pair<std::string_view, int64_t>> words(counts.begin(), counts.end());
  std::stable_sort(words.begin(), words.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
  std::vector<std::string> tokens = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", kWordsMark};
  for (const std::string& special : tokens)
    if (counts.contains(special))
      fail_input("{}: expected words, found {} among them, which is a special token", source, special);
  for (const auto& [word, count] : words) tokens.emplace_back(word);
  return from_tokens(std::move(tokens), "words");
}

bool Vocabulary::has_words() const { return find(kWordsMark) >= 0; }

int32_t Vocabulary::first_byte() const {
  const int32_t first = find(byte_token(0));
  for (int byte = 1; first >= 0 && byte < 256; ++byte)
    if (find(byte_token(byte)) != first + byte) return -1;
  return first;
}

Vocabulary Vocabulary::from_file(const std::string& path) { return from_text(read_file(path), path); }

Vocabulary Vocabulary::from_text(std::string_view content, const std::string& source) {
  if (content.empty()) fail_input("{}: expected a vocabulary, found an empty file", source);
  refuse_foreign(content, source, "a vocabulary");
  // A byte order mark is an editor's, not the first token's: "[PAD]" behind one would be no special token, and its capitals say
  // that texts keep their case.
  content = utf8::without_mark(content);
  if (is_tokenizer_json(source)) return from_tokens(read_tokenizer_json(content, source).tokens, source);
  std::vector<std::string> tokens;
  for (size_t begin = 0; begin < content.size();) {
    size_t end = content.find('\n', begin);
    if (end == std::string::npos) end = content.size();
    size_t stop = end;
    while (stop > begin && (content[stop - 1] == ' ' || (content[stop - 1] >= '\t' && content[stop - 1] <= '\r')))
      --stop;
    tokens.emplace_back(content, begin, stop - begin);
    begin = end + 1;
  }
  while (tokens.size() > 1 && tokens.back().empty()) tokens.pop_back();  // blank lines that an editor left behind
  return from_tokens(std::move(tokens), source);
}

const std::string& Vocabulary::token(int32_t id) const {
  CHECK(id >= 0 && id < size(), "vocabulary: wants an id below {}, got {}", size(), id);
  return tokens_[static_cast<size_t>(id)];
}

int32_t Vocabulary::find(std::string_view token) const {
  const auto at = ids_.find(token);
  return at == ids_.end() ? -1 : at->second;
}

void Vocabulary::save(const std::string& path) const {
  std::string content;
  for (const std::string& token : tokens_) content += token + "\n";
  write_file_atomic(path, content);
}

}  // namespace glia
