// A WordPiece vocabulary: one token a line, the line's number (from 0) is the id; "##" marks a continuation.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace glia {

class Vocabulary {
 public:
  // Errors, each with path and line: missing or empty file, a directory, invalid UTF-8, an empty or a duplicate
  // token, no [UNK], [CLS] or [SEP]. White space at a line's end is not part of the token. A *.json is read as a
  // tokenizer.json (tokenizer_json.h).
  static Vocabulary from_file(const std::string& path);
  static Vocabulary from_text(std::string_view content, const std::string& source);  // of a file; errors as above
  // `source` stands for the path in messages.
  static Vocabulary from_tokens(std::vector<std::string> tokens, const std::string& source);
  // The special tokens and a token for each byte, "<0x00>" … "<0xFF>": what --vocab bytes means. A file of these lines is one
  // too.
  static Vocabulary of_bytes();
  // The special tokens and each word of the text, as white space cuts it, by how often it occurs, then by its bytes. Behind the
  // special ones stands the mark by which a file of these lines is known again. An error: a word that is a special token.
  // `source`: the text's, for that message.
  static Vocabulary of_words(std::string_view text, const std::string& source = "words");
  bool has_words() const;      // that mark
  int32_t first_byte() const;  // the id of "<0x00>" where all 256 follow, else −1

  int64_t size() const { return static_cast<int64_t>(tokens_.size()); }
  const std::vector<std::string>& tokens() const { return tokens_; }
  const std::string& token(int32_t id) const;  // CHECKs the range
  int32_t find(std::string_view token) const;  // -1 when there is none

  int32_t unk() const { return unk_; }
  int32_t cls() const { return cls_; }
  int32_t sep() const { return sep_; }
  int32_t pad() const { return pad_; }    // -1 when the vocabulary has none
  int32_t mask() const { return mask_; }  // -1 when the vocabulary has none
  bool is_special(int32_t id) const {
    return id == unk_ || id == cls_ || id == sep_ || (id >= 0 && (id == pad_ || id == mask_));
  }

  // The source of one that was learnt from the texts at hand: nobody else's numbers belong to its ids.
  static constexpr const char* kTrained = "trained on the texts at hand";
  bool trained_here() const { return source_ == kTrained; }

  uint64_t hash() const { return hash_; }  // of the tokens in their order
  const std::string& source() const { return source_; }
  void save(const std::string& path) const;

 private:
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view s) const { return std::hash<std::string_view>{}(s); }
  };
  std::vector<std::string> tokens_;
  std::unordered_map<std::string, int32_t, Hash, std::equal_to<>> ids_;
  std::string source_;
  uint64_t hash_ = 0;
  int32_t unk_ = -1, cls_ = -1, sep_ = -1, pad_ = -1, mask_ = -1;
};

}  // namespace glia
