// A text's words as people count them, whatever the script, the case and the way that accents are written: for telling whether
// texts say the same.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "data/text/bert_chars.h"

namespace glia {

// Runs of letters, or of letters and digits, in lower case and without accents, as uncased BERT cleans them; a Chinese character is a
// word. All else stands between words: marks of punctuation, also “these”, signs, white space of any kind, what is no UTF-8.
class LetterWords {
 public:
  explicit LetterWords(std::string_view text, bool digits = true);
  // The next word; false behind the last one.
  bool next(std::string& word);

 private:
  bool take(BertChars::Entry entry, std::string& word);
  const char *at_, *end_;
  bool digits_;
  uint32_t alone_ = 0;  // a character that is a word, met at the end of the one before it
};

}  // namespace glia
