#include "data/text/word_runs.h"

#include <algorithm>
#include <string>

#include "data/text/letter_words.h"
#include "engine/core/check.h"
#include "engine/core/file.h"

namespace glia {
namespace {

constexpr int kFilterBits = 24;

// The hashes of the text's words, in their order.
void words_of(std::string_view text, std::vector<uint64_t>& words) {
  LetterWords all(text);
  for (std::string word; all.next(word);) words.push_back(hash_bytes(word));
}

}  // namespace

WordRuns::WordRuns(int64_t length) : length_(length), filter_((size_t{1} << kFilterBits) / 64) {
  CHECK(length >= 1, "word runs: wants a length of at least 1, got {}", length);
}

template <class F> void WordRuns::each(std::string_view text, F&& f) const {
  std::vector<uint64_t> words;
  words_of(text, words);
  const auto n = static_cast<size_t>(length_);
  for (size_t i = 0; i + n <= words.size(); ++i)
    if (!f(hash_bytes({reinterpret_cast<const char*>(&words[i]), n * sizeof(uint64_t)}))) return;
}

void WordRuns::add(std::string_view text) {
  each(text, [&](uint64_t hash) {
    hashes_.push_back(hash);
    return true;
  });
}

void WordRuns::settle() {
  std::sort(hashes_.begin(), hashes_.end());
  hashes_.erase(std::unique(hashes_.begin(), hashes_.end()), hashes_.end());
  for (const uint64_t hash : hashes_) {
    const uint64_t bit = hash >> (64 - kFilterBits);
    filter_[bit / 64] |= uint64_t{1} << bit % 64;
  }
}

bool WordRuns::shared_by(std::string_view text) const {
  bool shared = false;
  each(text, [&](uint64_t hash) {
    const uint64_t bit = hash >> (64 - kFilterBits);
    if (filter_[bit / 64] >> bit % 64 & 1) shared = std::binary_search(hashes_.begin(), hashes_.end(), hash);
    return !shared;
  });
  return shared;
}

}  // namespace glia
