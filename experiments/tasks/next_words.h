// What is told of a language model's loss beside its mean: where in a text, about which topic, and a word instead of a token.
#pragma once
#include <array>
#include <span>
#include <string>

#include "data/tokens/vocabulary.h"
#include "experiments/records/metrics.h"

namespace glia {

// A token's distance behind its sequence's prompt (or first token), the first one 1, in classes of growing width.
struct DistanceClass {
  int64_t first, last;  // last 0: without end
};
inline constexpr std::array<DistanceClass, 6> kDistances = {{{1, 1}, {2, 4}, {5, 8}, {9, 16}, {17, 32}, {33, 0}}};
std::string name_of(const DistanceClass& distance);  // "2-4", "33-"

// The tokens among the targets that begin a word: those that continue none ("##…") and are no [CLS] or [SEP]. −1: no target.
int64_t words_among(std::span<const int32_t> targets, const Vocabulary& vocabulary);

// "word_loss", nats a word, and "word_perplexity" beside the "loss" of a token: what all tokens cost, by the words among them.
void set_word_losses(results::NamedValues& values, int64_t tokens, int64_t words);

}  // namespace glia
