// What the fuzzers check on any bytes; the test program replays the inputs that they found
// (tests/fixtures/data/fuzz).
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "data/text/csv.h"
#include "data/text/utf8.h"
#include "data/tokens/word_builder.h"
#include "data/tokens/wordpiece.h"
#include "engine/core/check.h"

namespace glia::fuzz {

using CsvRows = std::vector<std::vector<std::string>>;

inline CsvRows read_csv(std::string_view text, BadRows& bad) {
  CsvReader reader("fuzz.csv", text, bad);
  CsvRow row;
  CsvRows rows;
  while (reader.next(row)) rows.emplace_back(row.fields.begin(), row.fields.end());
  return rows;
}

// Good rows are UTF-8; written out and read again they are the same; reading strictly fails exactly when a row is
// bad.
inline void csv(std::string_view text) {
  if (!CsvReader::refusal(text).empty()) return;  // refused as a whole, whatever is skipped
  BadRows lenient(true), strict, none;
  const CsvRows rows = read_csv(text, lenient);
  bool threw = false;
  try {
    CHECK(read_csv(text, strict) == rows, "csv: strict and lenient reading differ");
  } catch (const Error& e) {
    threw = std::string(e.what()).starts_with("fuzz.csv:");
    CHECK(threw, "csv: {}", e.what());
  }
  CHECK(threw == (lenient.count() > 0), "csv: strict reading {}, {} bad rows", threw ? "fails" : "does not",
        lenient.count());
  std::string again;
  for (const auto& row : rows) {
    CHECK(!row.empty(), "csv: a row without fields");
    for (size_t f = 0; f < row.size(); ++f) {
      CHECK(utf8::find_invalid(row[f]) == std::string::npos, "csv: a field is not UTF-8");
      again += f ? ",\"" : "\"";
      for (const char c : row[f]) again += c == '"' ? std::string("\"\"") : std::string(1, c);
      again += '"';
    }
    again += "\r\n";
  }
  CHECK(read_csv(again, none) == rows, "csv: rows do not survive writing and reading");
}

// The tokenizer by its definition: no fast path, no trie, a set of strings.
inline std::vector<int32_t> slow_encode(const WordPiece& tokenizer, std::string_view text) {
  const Vocabulary& v = tokenizer.vocabulary();
  std::vector<int32_t> ids;
  const auto stretch = [&](std::string_view part) {
    for_each_word(part, tokenizer.lowercase(), [&](std::string_view word) {
      std::vector<int32_t> pieces;
      for (size_t at = 0; at < word.size();) {
        int32_t id = -1;
        size_t length = word.size() - at;
        for (; length > 0; --length) {
          id = v.find((at ? "##" : "") + std::string(word.substr(at, length)));
          if (id >= 0) break;
        }
        if (id < 0) {
          pieces.assign(1, v.unk());
          break;
        }
        pieces.push_back(id);
        at += length;
      }
      ids.insert(ids.end(), pieces.begin(), pieces.end());
    });
  };
  size_t from = 0;
  for (size_t at = 0; at < text.size();) {
    int32_t special = -1;
    for (const int32_t id : {v.unk(), v.cls(), v.sep(), v.pad(), v.mask()})
      if (id >= 0 && text.substr(at).starts_with(v.token(id))) special = id;
    if (special < 0) {
      ++at;
      continue;
    }
    stretch(text.substr(from, at - from));
    ids.push_back(special);
    from = at += v.token(special).size();
  }
  stretch(text.substr(from));
  return ids;
}

// Fast and slow encoders agree (on texts without words of more than 100 code points, which the slow one leaves
// out), offsets are inside the text, truncation gives a prefix, decode takes the ids.
inline void wordpiece(const WordPiece& tokenizer, std::string_view text) {
  const std::vector<int32_t> ids = tokenizer.encode(text);
  if (text.size() <= WordPiece::kMaxWord) {
    const std::vector<int32_t> slow = slow_encode(tokenizer, text);
    CHECK(ids == slow, "wordpiece: {} ids, by definition {}", ids.size(), slow.size());
  }
  std::vector<int32_t> of_pieces, some;
  for (const WordPiece::Piece& p : tokenizer.pieces(text)) {
    CHECK(p.begin < p.end && p.end <= text.size(), "wordpiece: a piece at {}-{} of {} bytes", p.begin, p.end,
          text.size());
    of_pieces.push_back(p.id);
  }
  CHECK(of_pieces == ids, "wordpiece: pieces() and encode() differ");
  tokenizer.encode(text, some, ids.size() / 2);
  CHECK(std::equal(some.begin(), some.end(), ids.begin()) && some.size() == ids.size() / 2,
        "wordpiece: a limit is no prefix");
  tokenizer.decode(ids.data(), ids.size());
}

// The first line: more tokens for the vocabulary. The rest: a text.
inline void wordpiece(std::string_view input) {
  static const std::vector<std::string> basic{"[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]", "a", "##a",
                                              "b",     "##b",   "ab",    "##ba",  "1",      "!", "\xC3\xA9"};
  static const Vocabulary vocabulary = Vocabulary::from_tokens(basic, "fuzz");
  static const WordPiece uncased(vocabulary, true), cased(vocabulary, false);
  const size_t line = std::min(input.find('\n'), input.size());
  const std::string_view text = input.substr(std::min(line + 1, input.size()));
  std::vector<std::string> tokens = basic;
  std::set<std::string> known(tokens.begin(), tokens.end());
  for (size_t at = 0; at < line;) {
    const size_t end = std::min(input.find(' ', at), line);
    const std::string token(input.substr(at, end - at));
    if (!token.empty() && utf8::find_invalid(token) == std::string::npos && known.insert(token).second)
      tokens.push_back(token);
    at = end + 1;
  }
  wordpiece(uncased, text);
  wordpiece(cased, text);
  if (tokens.size() > basic.size())
    wordpiece(WordPiece(Vocabulary::from_tokens(tokens, "fuzz"), text.size() % 2 == 0), text);
}

// Refused with the source in front, or every token is found under its own number and goes through a file.
inline void vocabulary(std::string_view content) {
  try {
    const Vocabulary v = Vocabulary::from_text(content, "fuzz");
    std::string again;
    for (const std::string& token : v.tokens()) {
      CHECK(v.token(v.find(token)) == token, "vocabulary: a token is not found");
      again += token + "\n";
    }
    CHECK(Vocabulary::from_text(again, "fuzz").hash() == v.hash(), "vocabulary: not the same again");
  } catch (const Error& error) {
    const std::string message = error.what();
    CHECK(message.starts_with("fuzz:"), "vocabulary: {}", message);
  }
}

}  // namespace glia::fuzz
