// What BERT's text clean-up does to each code point, as one table: Hugging Face `tokenizers`' BertNormalizer
// (clean-up, CJK spacing, NFD without Mn, lower-casing) and the character classes of its BertPreTokenizer, from
// utf8proc's properties and the code points about which the two disagree (unicode_differences.h).
#pragma once

#include <cstdint>
#include <vector>

namespace glia {

enum class CharKind : uint8_t {
  kWord,     // part of a word; payload: the code point that stands for it
  kAlone,    // a piece of its own (punctuation, CJK); payload: the code point
  kSpace,    // ends a word
  kDrop,     // leaves no trace: control characters, and removed marks with a combining class
  kBarrier,  // removed, but marks are not reordered across it: a mark of class 0
  kMark,     // part of a word that moves in front of neighbours of a higher class; aux: its class
  kSequence  // several of the above; payload: index into the sequences; aux: how many
};

class BertChars {
 public:
  struct Entry {
    uint32_t bits;  // 3 kind, 8 aux, 21 payload
    CharKind kind() const { return static_cast<CharKind>(bits & 7); }
    uint32_t aux() const { return bits >> 3 & 255; }
    uint32_t payload() const { return bits >> 11; }
  };

  // Built at the first call, about 10 ms each. lowercase: uncased BERT (accents are stripped too); else cased,
  // which keeps both (`strip_accents=None` means "as lowercase" there).
  static const BertChars& get(bool lowercase);

  Entry operator[](uint32_t code) const { return pages_[page_of_[code >> 8]][code & 255]; }  // code <= 0x10FFFF
  const Entry* sequence(Entry entry) const { return &sequences_[entry.payload()]; }

 private:
  explicit BertChars(bool lowercase);
  struct Page {
    Entry entry[256];
    Entry operator[](uint32_t low) const { return entry[low]; }
  };
  std::vector<uint16_t> page_of_;  // [0x1100]; most pages are alike
  std::vector<Page> pages_;
  std::vector<Entry> sequences_;
};

}  // namespace glia
