// Text from a language model: a prompt, and what it says behind it.
#pragma once
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "experiments/language/continuation.h"
#include "experiments/language/language_model.h"

namespace glia {

// Which word is taken of those that may come next. Temperature 0: the likeliest. Else one by softmax(logits / temperature),
// out of the top_k likeliest (0: all) that together reach top_p first.
struct Sampling {
  double temperature = 1, top_p = 1;
  int64_t top_k = 0;
  uint64_t seed = 0;
};
// The n-th word of a text: the same (logits, sampling, n) is the same word everywhere. Equal logits: the lower id first.
int32_t sample(std::span<const float> logits, const Sampling& sampling, uint64_t n);

struct Generated {
  std::vector<int32_t> prompt, words;  // [CLS] and its pieces; what was said, [SEP] at the end where it ended there
  bool ended = false;                  // by [SEP]; else by the number of tokens or the model's longest text
  double prompt_seconds = 0,
         seconds = 0;  // of the prompt's pass; of the words, from the first one's choice to the last one's
  double words_per_second() const { return seconds > 0 ? static_cast<double>(words.size()) / seconds : 0; }
  // [words][layers] of the token that was said.
  struct Choice {
    std::vector<int32_t> experts;
    std::vector<double> gates;
  };
  std::vector<std::vector<Choice>> routing;
};

// At most so many tokens. `cached`: false computes the whole text anew for each. `routing`: keeps what each word's tokens chose,
// which waits for the device.
Generated generate(const LanguageModel& model, const std::string& prompt, int64_t tokens, const Sampling& sampling,
                   bool cached = true, bool routing = false);

}  // namespace glia
