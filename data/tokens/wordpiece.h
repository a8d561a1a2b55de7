// BERT's tokenizer: text → ids of word pieces, the same ids as Hugging Face `tokenizers` BertWordPieceTokenizer on
// every input.  J. Devlin et al., "BERT", NAACL 2019; the algorithm is that of Y. Wu et al., arXiv:1609.08144.
//
// Where implementations disagree we follow Hugging Face's Rust code (0.23), not Google's Python nor the slow one of
// `transformers`:
//  * special tokens ([UNK] [CLS] [SEP] [PAD] [MASK]) written in the raw text, in exactly that case, become their
//  ids
//    (Google splits them into "[", "cls", "]"); each stretch between them is normalised on its own;
//  * unassigned code points (Cn) stay (Google and the slow one drop every C*); Cc, Cf, Co, U+0000 and U+FFFD go;
//  * CJK extension E begins at U+2B920 (Google: U+2B820);
//  * lower-casing comes after NFD and the removal of Mn, one code point at a time: a final sigma stays σ (Python's
//    lower() makes it ς, and Google lower-cases before NFD);
//  * Mn and P* are those of Hugging Face's category tables, which are older than the newest Unicode; the code
//  points
//    that differ from utf8proc are listed in unicode_differences.h;
//  * words are separated by Unicode's White_Space; of its controls U+000B, U+000C, U+0085 are dropped before that.
// Bytes that are not UTF-8, which Hugging Face cannot be given, count as U+FFFD: dropped.
//
// A vocabulary of bytes (Vocabulary::of_bytes) makes each byte a token instead, white space and all: for models over
// characters. Nothing is lower-cased then, nothing dropped, and decode() gives the text back.
//
// A vocabulary of words (Vocabulary::of_words) has its words as white space cuts a text, and what it lacks is [UNK]: for texts whose
// publishers cut them so.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/text/bert_chars.h"
#include "data/tokens/vocabulary.h"

namespace glia {

// The vocabulary as a double-array trie with two roots: one for how words begin, one for what continues them.
class PieceTrie {
 public:
  explicit PieceTrie(const Vocabulary& vocabulary);
  int32_t word_root() const { return 0; }
  int32_t continuation_root() const { return 1; }

  struct Match {
    int32_t id;       // -1: no piece begins here
    uint32_t length;  // bytes
  };
  Match longest(int32_t root, const char* text, const char* end) const {
    Match match{-1, 0};
    int32_t state = root;
    for (const char* p = text; p < end; ++p) {
      const int32_t next = nodes_[state].base + static_cast<uint8_t>(*p);
      if (nodes_[next].check != state) break;
      state = next;
      if (nodes_[state].id >= 0) match = {nodes_[state].id, static_cast<uint32_t>(p - text) + 1};
    }
    return match;
  }

 private:
  struct Node {
    int32_t base = 0, check = -1, id = -1;
  };
  std::vector<Node> nodes_;  // base + 255 is always inside
};

class WordPiece {
 public:
  static constexpr size_t kMaxWord = 100;  // code points; a longer word is [UNK]

  // lowercase: as for the uncased models. Else the cased mode: nothing is lower-cased and no accent stripped.
  explicit WordPiece(Vocabulary vocabulary, bool lowercase = true);

  const Vocabulary& vocabulary() const { return vocabulary_; }
  bool lowercase() const { return lowercase_; }
  bool of_bytes() const { return first_byte_ >= 0; }
  bool of_words() const { return of_words_; }

  // Appends the ids of the text's pieces, without [CLS] and [SEP]; at most `limit` of them. Thread-safe.
  void encode(std::string_view text, std::vector<int32_t>& ids, size_t limit = SIZE_MAX) const;
  std::vector<int32_t> encode(std::string_view text) const;

  // Appends [CLS] pieces [SEP], the pieces cut so that there are at most max_length ids; true when some were cut.
  bool encode_sequence(std::string_view text, int64_t max_length, std::vector<int32_t>& ids) const;

  // Pieces with the bytes [begin, end) of the original text they come from (of the whole word for [UNK]).
  struct Piece {
    int32_t id;
    uint32_t begin, end;
  };
  std::vector<Piece> pieces(std::string_view text) const;

  // Text again: pieces joined, no space before . ? ! , as Hugging Face's decoder has it. Lossy.
  std::string decode(const int32_t* ids, size_t n, bool skip_special = true) const;

 private:
  template <class Sink> friend class WordPieceScanner;

  // Whole words of up to 16 bytes, by value: most of a text needs one look-up here and no trie.
  struct Slot {
    uint64_t low = 0, high = 0;  // the word's bytes, zero behind them
    int64_t id = -1;
  };
  int32_t find_word(uint64_t low, uint64_t high) const {
    for (size_t at = slot_of(low, high);; at = (at + 1) & slot_mask_) {
      const Slot& slot = slots_[at];
      if (slot.low == low && slot.high == high) return static_cast<int32_t>(slot.id);
      if (slot.low == 0) return -1;
    }
  }
  size_t slot_of(uint64_t low, uint64_t high) const {
    const uint64_t h = (low ^ (high * 0x9E3779B97F4A7C15ull)) * 0xD6E8FEB86659FD93ull;
    return (h ^ h >> 32) & slot_mask_;
  }

  Vocabulary vocabulary_;
  bool lowercase_;
  int32_t first_byte_;  // the id of byte 0, or −1: no bytes
  bool of_words_;
  const BertChars& chars_;
  PieceTrie trie_;
  std::vector<Slot> slots_;
  size_t slot_mask_ = 0;
  int32_t ascii_piece_[128];  // the id of a one-character word
  struct Special {
    std::string text;
    int32_t id;
  };
  std::vector<Special> specials_;
};

}  // namespace glia
