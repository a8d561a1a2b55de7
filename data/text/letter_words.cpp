#include "data/text/letter_words.h"

#include <utf8proc.h>

#include "data/text/utf8.h"

namespace glia {
namespace {

enum class Sign { kLetter, kDigit, kMark, kOther };

Sign sign_of(uint32_t code) {
  const utf8proc_category_t c = utf8proc_category(static_cast<utf8proc_int32_t>(code));
  if (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO) return Sign::kLetter;
  if (c >= UTF8PROC_CATEGORY_MN && c <= UTF8PROC_CATEGORY_ME) return Sign::kMark;
  return c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO ? Sign::kDigit : Sign::kOther;
}

}  // namespace

LetterWords::LetterWords(std::string_view text, bool digits)
    : at_(text.data()), end_(text.data() + text.size()), digits_(digits) {}

// Whether the word goes on.
bool LetterWords::take(BertChars::Entry entry, std::string& word) {
  const uint32_t code = entry.payload();
  switch (entry.kind()) {
    case CharKind::kDrop:
    case CharKind::kBarrier: return true;  // an accent, a soft hyphen: they leave no trace
    case CharKind::kSpace: return false;
    case CharKind::kAlone:
      if (sign_of(code) == Sign::kLetter) alone_ = code;
      return false;
    case CharKind::kMark:
    case CharKind::kWord: break;
    case CharKind::kSequence: {
      const BertChars::Entry* part = BertChars::get(true).sequence(entry);
      for (uint32_t i = 0; i < entry.aux(); ++i)
        if (!take(part[i], word)) return false;
      return true;
    }
  }
  const Sign sign = sign_of(code);
  if (sign == Sign::kOther || (sign == Sign::kDigit && !digits_)) return false;
  utf8::append(word, code);
  return true;
}

bool LetterWords::next(std::string& word) {
  const BertChars& chars = BertChars::get(true);
  word.clear();
  while (at_ < end_ || alone_ != 0) {
    if (alone_ != 0) {
      utf8::append(word, alone_), alone_ = 0;
      return true;
    }
    const auto c = static_cast<unsigned char>(*at_);
    bool goes_on;
    if (c < 0x80) {
      ++at_;
      const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
      goes_on = letter || (digits_ && c >= '0' && c <= '9');
      if (goes_on) word += static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
    } else {
      const uint32_t code = utf8::decode(at_, end_);
      goes_on = code != utf8::kInvalid && take(chars[code], word);
    }
    if (!goes_on && !word.empty()) return true;
  }
  return !word.empty();
}

}  // namespace glia
