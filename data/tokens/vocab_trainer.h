// Learns a WordPiece vocabulary. Pieces begin as single characters; the pair of neighbours whose merge raises the
// likelihood of the training text most becomes a piece, again and again (M. Schuster, K. Nakajima, "Japanese and
// Korean voice search", ICASSP 2012). Under a unigram model a merge of a and b gains about n_ab · ln(n_ab · N /
// (n_a · n_b)); N, the number of pieces in the text, is held at its first value. Deterministic: ties go to the pair
// found first in the sorted words, and the logarithm is our own.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace glia {

struct VocabTrainerOptions {
  int64_t size = 30000;           // tokens at most, the five special ones and the characters included
  int64_t min_count = 2;          // of a pair that is merged, and of a character
  int64_t max_characters = 1000;  // the most frequent ones; words with others are left out
  std::function<void(int64_t done, int64_t of)> progress{};
};

class VocabTrainer {
 public:
  explicit VocabTrainer(bool lowercase = true) : lowercase_(lowercase) {}

  void add(std::string_view text);  // counts its words
  int64_t words() const { return words_; }
  int64_t distinct_words() const { return static_cast<int64_t>(counts_.size()); }

  // [PAD] [UNK] [CLS] [SEP] [MASK], the characters, the same behind ##, then the merged pieces in their order.
  // Errors: no words; a size that does not hold the characters.
  std::vector<std::string> train(const VocabTrainerOptions& options) const;

 private:
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view s) const { return std::hash<std::string_view>{}(s); }
  };
  bool lowercase_;
  int64_t words_ = 0;
  std::unordered_map<std::string, int64_t, Hash, std::equal_to<>> counts_;
};

}  // namespace glia
