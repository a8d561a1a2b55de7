#include "data/text/near_copies.h"

#include <algorithm>
#include <string>
#include <unordered_map>

#include "data/text/letter_words.h"
#include "engine/core/file.h"
#include "engine/core/parallel.h"

namespace glia {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// How many bytes at the start of `text` are a character reference; 0: there is none.
size_t reference_length(std::string_view text) {
  const size_t start = text.starts_with('&') ? 1 : 0;
  size_t at = start;
  if (text.substr(at).starts_with('#')) {
    while (++at < text.size() && is_digit(text[at]))
      ;
    if (at == start + 1) return 0;
  } else {
    for (const std::string_view name : {"quot", "lt", "gt", "amp"})
      if (text.substr(start).starts_with(name)) at = start + name.size();
    if (at == start) return 0;
  }
  return at < text.size() && text[at] == ';' ? at + 1 : 0;
}

// The words, a space behind each, and where each begins.
struct Words {
  std::string text;
  std::vector<size_t> begins{0};  // of each word, and the end
  size_t count() const { return begins.size() - 1; }
};

std::string without_references(std::string_view text) {
  std::string plain;
  for (size_t i = 0; i < text.size();)
    if (const size_t reference = reference_length(text.substr(i)); reference > 0) plain += ' ', i += reference;
    else plain += text[i++];
  return plain;
}

Words words_of(std::string_view text) {
  const std::string plain = without_references(text);
  Words words;
  LetterWords all(plain, /*digits=*/false);
  for (std::string word; all.next(word);) words.begins.push_back((words.text += word + ' ').size());
  return words;
}

// A hash each, in the order of the text. 64 bits: among the 10^7 of a large corpus two meet with a chance of 10^-5.
std::vector<uint64_t> passages_of(std::string_view text) {
  const Words words = words_of(text);
  std::vector<uint64_t> passages;
  for (size_t i = 0; i + kPassageWords <= words.count(); ++i)
    passages.push_back(hash_bytes(
        std::string_view(words.text).substr(words.begins[i], words.begins[i + kPassageWords] - words.begins[i])));
  return passages;
}

std::vector<std::vector<uint64_t>> passages_of(const std::vector<std::string_view>& texts) {
  std::vector<std::vector<uint64_t>> all(texts.size());
  parallel_for(static_cast<int64_t>(texts.size()), 256, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) all[static_cast<size_t>(i)] = passages_of(texts[static_cast<size_t>(i)]);
  });
  return all;
}

}  // namespace

std::vector<uint8_t> near_copies(const std::vector<std::string_view>& texts,
                                 const std::vector<std::string_view>& known) {
  const std::vector<std::vector<uint64_t>> passages = passages_of(texts);
  // Only the passages of `texts` are looked up, few beside those of a large training set.
  std::unordered_map<uint64_t, bool> is_known;
  for (const auto& text : passages)
    for (const uint64_t passage : text) is_known[passage] = false;
  for (const auto& text : passages_of(known))
    for (const uint64_t passage : text)
      if (const auto it = is_known.find(passage); it != is_known.end()) it->second = true;
  std::vector<uint8_t> copies;
  for (const auto& text : passages) {
    const auto shared = std::ranges::count_if(text, [&](uint64_t p) { return is_known.at(p); });
    copies.push_back(!text.empty() && 2 * static_cast<size_t>(shared) >= text.size());
  }
  return copies;
}

}  // namespace glia
