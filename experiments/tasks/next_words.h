// What is told of a language model's loss beside its mean: where in a text, about which topic, and a word instead of a token.
#pragma once
#include <array>
#include <span>
#include <string>
#include <vector>

#include "data/tokens/vocabulary.h"
#include "experiments/records/metrics.h"

namespace glia {

// A token's distance behind its sequence's prompt (or first token), the first one 1, in classes of growing width.
struct DistanceClass {
  int64_t first, last;  // last 0: without end
};
inline constexpr std::array<DistanceClass, 6> kDistances = {{{1, 1}, {2, 4}, {5, 8}, {9, 16}, {17, 32}, {33, 0}}};
std::string name_of(const DistanceClass& distance);  // "2-4", "33-"

// Which tokens begin a word: pieces that continue none ("##…"); of bytes a mark, and the first one of a run of letters, digits
// and what is not ASCII, which is how WordPiece cuts words. [CLS] and [SEP] begin none.
class WordBeginnings {
 public:
  explicit WordBeginnings(const Vocabulary& vocabulary)
      : words_(vocabulary), first_byte_(vocabulary.first_byte()) {}
  // `before`: the token that stands before it in its text, −1 at the text's beginning. An id of −1 is no token.
  bool operator()(int32_t before, int32_t id) const;
  // Of targets, each with the token before it.
  int64_t among(std::span<const int32_t> before, std::span<const int32_t> targets) const;

 private:
  int byte_of(int32_t id) const { return id >= first_byte_ && id < first_byte_ + 256 ? id - first_byte_ : -1; }
  const Vocabulary& words_;
  int32_t first_byte_;  // −1: tokens are no bytes
};

// The tokens before a batch's targets: those of the rows that tell them.
std::vector<int32_t> before_targets(const int32_t* ids, std::span<const int32_t> read);

// "word_loss", nats a word, and "word_perplexity" beside the "loss" of a token: what all tokens cost, by the words among them.
void set_word_losses(results::NamedValues& values, int64_t tokens, int64_t words);

}  // namespace glia
