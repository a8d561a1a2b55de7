#include "data/tokens/wordpiece.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "data/text/space_words.h"
#include "data/text/utf8.h"
#include "data/tokens/word_builder.h"
#include "engine/core/check.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace glia {
namespace {

enum class Ascii : uint8_t { kAlnum, kSpace, kPunctuation, kOther };

struct AsciiTable {
  Ascii kind[256];
  constexpr AsciiTable() : kind{} {
    for (int c = 0; c < 256; ++c) {
      const bool alnum = (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z' && c < 128);
      kind[c] = alnum                                             ? Ascii::kAlnum
                : c == ' ' || c == '\t' || c == '\n' || c == '\r' ? Ascii::kSpace
                : c > 32 && c < 127                               ? Ascii::kPunctuation
                                                                  : Ascii::kOther;
    }
  }
};
constexpr AsciiTable kAscii;

Ascii ascii_kind(char c) { return kAscii.kind[static_cast<uint8_t>(c)]; }

// The ASCII letters and digits at `p`, up to 16: their bytes, lower-cased on demand and zero behind, and how many.
struct Word16 {
  uint64_t low, high;
  uint32_t length;
};

#ifdef __SSE2__
Word16 load_word(const char* p, const char* end, bool lowercase) {
  alignas(16) char tail[16] = {};
  if (end - p < 16) {  // never reads past the text
    std::memcpy(tail, p, static_cast<size_t>(end - p));
    p = tail;
  }
  const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  const __m128i folded = _mm_or_si128(v, _mm_set1_epi8(0x20));
  const auto inside = [](__m128i x, char first, char last) {  // signed, so bytes above 127 are outside
    return _mm_and_si128(_mm_cmpgt_epi8(x, _mm_set1_epi8(static_cast<char>(first - 1))),
                         _mm_cmplt_epi8(x, _mm_set1_epi8(static_cast<char>(last + 1))));
  };
  const __m128i alnum = _mm_or_si128(inside(folded, 'a', 'z'), inside(v, '0', '9'));
  const auto length = static_cast<uint32_t>(std::countr_one(static_cast<uint32_t>(_mm_movemask_epi8(alnum))));
  static constexpr char kMasks[32] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
  const __m128i mask = _mm_loadu_si128(reinterpret_cast<const __m128i*>(kMasks + 16 - length));
  // Digits have bit 0x20 already: folding changes letters only.
  const __m128i word = _mm_and_si128(lowercase ? folded : v, mask);
  return {static_cast<uint64_t>(_mm_cvtsi128_si64(word)),
          static_cast<uint64_t>(_mm_cvtsi128_si64(_mm_unpackhi_epi64(word, word))), length};
}
#else
Word16 load_word(const char* p, const char* end, bool lowercase) {
  char bytes[16] = {};
  uint32_t n = 0;
  for (; n < 16 && p + n < end && ascii_kind(p[n]) == Ascii::kAlnum; ++n)
    bytes[n] = lowercase ? static_cast<char>(p[n] | 0x20) : p[n];
  Word16 word{0, 0, n};
  std::memcpy(&word.low, bytes, 8);
  std::memcpy(&word.high, bytes + 8, 8);
  return word;
}
#endif

}  // namespace

// --- the trie ------------------------------------------------------------

PieceTrie::PieceTrie(const Vocabulary& vocabulary) {
  struct Key {
    std::string_view text;
    int32_t id;
    bool operator<(const Key& o) const { return text < o.text; }
  };
  std::vector<Key> keys[2];
  for (int32_t id = 0; id < vocabulary.size(); ++id) {
    std::string_view text = vocabulary.token(id);
    const bool continues = text.starts_with("##");
    if (continues) text.remove_prefix(2);
    if (!text.empty()) keys[continues].push_back({text, id});
  }
  // A node's children lie at base + byte. Roots first, then breadth-first by ranges of the sorted keys.
  struct Range {
    int32_t node;
    int root;
    size_t first, last, depth;
  };
  std::vector<Range> queue;
  nodes_.resize(1024);
  nodes_[0].check = nodes_[1].check = 0x7FFFFFFF;  // taken, and no child of anything
  for (int root = 0; root < 2; ++root) {
    std::sort(keys[root].begin(), keys[root].end());
    queue.push_back({root, root, 0, keys[root].size(), 0});
  }
  int32_t first_free = 256, several_from = 0;  // places below 256 would need a negative base
  std::vector<uint8_t> bytes;
  for (size_t q = 0; q < queue.size(); ++q) {
    const Range range = queue[q];
    const std::vector<Key>& sorted = keys[range.root];
    size_t first = range.first;
    if (first < range.last && sorted[first].text.size() == range.depth) nodes_[range.node].id = sorted[first++].id;
    bytes.clear();
    for (size_t i = first; i < range.last; ++i) {
      const auto byte = static_cast<uint8_t>(sorted[i].text[range.depth]);
      if (bytes.empty() || bytes.back() != byte) bytes.push_back(byte);
    }
    const auto grow = [&](int32_t base) {
      if (nodes_.size() < static_cast<size_t>(base) + 256) nodes_.resize(2 * (static_cast<size_t>(base) + 256));
    };
    if (bytes.empty()) {
      nodes_[range.node].base = 0;
      continue;
    }
    while (nodes_[first_free].check >= 0) {
      ++first_free;
      grow(first_free);
    }
    // An only child takes the first free place. Several look on from where the last long search ended: what is left
    // before that is nearly full.
    int32_t base = first_free - bytes[0];
    if (bytes.size() > 1) base = std::max(base, several_from);
    const int32_t from = base;
    for (;; ++base) {
      grow(base);
      if (std::all_of(bytes.begin(), bytes.end(), [&](uint8_t b) { return nodes_[base + b].check < 0; })) break;
    }
    if (base - from > 128) several_from = base;
    nodes_[range.node].base = base;
    for (const uint8_t byte : bytes) {
      size_t last = first;
      while (last < range.last && static_cast<uint8_t>(sorted[last].text[range.depth]) == byte) ++last;
      nodes_[base + byte].check = range.node;
      queue.push_back({base + byte, range.root, first, last, range.depth + 1});
      first = last;
    }
  }
}

// --- the scanner ------------------------------------------------------------

// Splits a text into words and the words into pieces. ASCII words take a fast path; whatever touches another byte
// goes through the table of code points, one at a time. Sink: bool put(int32_t id, const char* begin, const char*
// end) (false: enough), constexpr bool kOffsets.
template <class Sink> class WordPieceScanner {
 public:
  WordPieceScanner(const WordPiece& tokenizer, Sink& sink) : w_(tokenizer), sink_(sink) {}

  void scan(std::string_view text) {
    const char *p = text.data(), *const end = p + text.size();
    // Special tokens are found in the raw text; they all begin with '['.
    for (const char* search = p; search < end;) {
      const auto* bracket = static_cast<const char*>(std::memchr(search, '[', static_cast<size_t>(end - search)));
      if (!bracket) break;
      const auto* special = find_special(bracket, end);
      search = bracket + (special ? special->text.size() : 1);
      if (!special) continue;
      if (!stretch(p, bracket) || !sink_.put(special->id, bracket, search)) return;
      p = search;
    }
    stretch(p, end);
  }

 private:
  const WordPiece::Special* find_special(const char* at, const char* end) const {
    for (const WordPiece::Special& special : w_.specials_)  // the longest first
      if (static_cast<size_t>(end - at) >= special.text.size() &&
          std::memcmp(at, special.text.data(), special.text.size()) == 0)
        return &special;
    return nullptr;
  }

  // A stretch without special tokens. False when the sink has enough.
  bool stretch(const char* p, const char* const end) {
    const bool lowercase = w_.lowercase_;
    while (p < end) {
      switch (ascii_kind(*p)) {
        case Ascii::kSpace: ++p; continue;
        case Ascii::kPunctuation:
          if (!sink_.put(w_.ascii_piece_[static_cast<uint8_t>(*p)], p, p + 1)) return false;
          ++p;
          continue;
        case Ascii::kAlnum: {
          const Word16 word = load_word(p, end, lowercase);
          const char* const stop = p + word.length;
          // A longer word, or one that goes on after a control character or in another script, takes the long way.
          if (word.length == 16 || (stop < end && ascii_kind(*stop) == Ascii::kOther)) break;
          const int32_t id = w_.find_word(word.low, word.high);
          if (id >= 0 ? !sink_.put(id, p, stop) : !split_ascii(word, p)) return false;
          p = stop;
          continue;
        }
        case Ascii::kOther: break;
      }
      p = long_way(p, end);
      if (enough_) return false;
    }
    return true;
  }

  bool split_ascii(const Word16& word, const char* source) {
    char bytes[16];
    std::memcpy(bytes, &word.low, 8);
    std::memcpy(bytes + 8, &word.high, 8);
    return split(bytes, word.length, source, source + word.length,
                 [source](size_t from, size_t to) { return std::pair(source + from, source + to); });
  }

  // Greedy longest match; a part that is in no piece makes the whole word [UNK].
  template <class Place>
  bool split(const char* word, size_t length, const char* begin, const char* end, Place&& place) {
    struct Part {
      int32_t id;
      uint32_t from, to;
    };
    Part parts[WordPiece::kMaxWord];
    size_t n = 0;
    for (size_t at = 0; at < length;) {
      const auto match =
          w_.trie_.longest(at == 0 ? w_.trie_.word_root() : w_.trie_.continuation_root(), word + at, word + length);
      if (match.id < 0) return sink_.put(w_.vocabulary_.unk(), begin, end);
      parts[n++] = {match.id, static_cast<uint32_t>(at), static_cast<uint32_t>(at + match.length)};
      at += match.length;
    }
    for (size_t i = 0; i < n; ++i) {
      if constexpr (Sink::kOffsets) {
        const auto [from, to] = place(parts[i].from, parts[i].to);
        if (!sink_.put(parts[i].id, from, to)) return false;
      } else {
        if (!sink_.put(parts[i].id, nullptr, nullptr)) return false;
      }
    }
    return true;
  }

  // From the beginning of a word to a place where an ASCII word may begin, or to the end.
  const char* long_way(const char* p, const char* const end) {
    const auto on_word = [this] { word(); };
    do {
      const char* const at = p;
      const uint32_t code = utf8::decode(p, end);
      if (code != utf8::kInvalid) builder_.take(w_.chars_[code], at, p, on_word);
    } while (p < end && !enough_ && !(builder_.idle() && ascii_kind(*p) != Ascii::kOther));
    if (p == end) builder_.end_word(on_word);
    return p;
  }

  void word() {
    if (enough_) return;
    const std::string_view bytes = builder_.word();
    if (builder_.chars() > WordPiece::kMaxWord) {
      enough_ = !sink_.put(w_.vocabulary_.unk(), builder_.begin(), builder_.end());
      return;
    }
    if (bytes.size() <= 16) {
      uint64_t low = 0, high = 0;
      std::memcpy(&low, bytes.data(), std::min<size_t>(bytes.size(), 8));
      if (bytes.size() > 8) std::memcpy(&high, bytes.data() + 8, bytes.size() - 8);
      const int32_t id = w_.find_word(low, high);
      if (id >= 0) {
        enough_ = !sink_.put(id, builder_.begin(), builder_.end());
        return;
      }
    }
    enough_ = !split(bytes.data(), bytes.size(), builder_.begin(), builder_.end(),
                     [&](size_t from, size_t to) { return builder_.source(from, to); });
  }

  const WordPiece& w_;
  Sink& sink_;
  bool enough_ = false;
  WordBuilder<Sink::kOffsets> builder_{w_.chars_};
};

namespace {

// Ids only, into a vector that grows by blocks (push_back checks and stores more than it has to).
class IdSink {
 public:
  static constexpr bool kOffsets = false;
  IdSink(std::vector<int32_t>& ids, size_t room, size_t limit)
      : ids_(ids), size_(ids.size()), limit_(limit > SIZE_MAX - size_ ? SIZE_MAX : size_ + limit) {
    ids_.resize(std::min(size_ + room, limit_));
  }
  ~IdSink() { ids_.resize(size_); }
  bool put(int32_t id, const char*, const char*) {
    if (size_ == ids_.size()) [[unlikely]] {
      if (size_ >= limit_) return false;
      ids_.resize(std::min(limit_, size_ + size_ / 2 + 64));
    }
    ids_[size_++] = id;
    return true;
  }

 private:
  std::vector<int32_t>& ids_;
  size_t size_, limit_;
};

struct PieceSink {
  static constexpr bool kOffsets = true;
  const char* text;
  std::vector<WordPiece::Piece>& pieces;
  bool put(int32_t id, const char* begin, const char* end) {
    pieces.push_back({id, static_cast<uint32_t>(begin - text), static_cast<uint32_t>(end - text)});
    return true;
  }
};

int32_t id_of_word(const Vocabulary& vocabulary, std::string_view word) {
  const int32_t id = vocabulary.find(word);
  return id >= 0 ? id : vocabulary.unk();
}

}  // namespace

// --- the tokenizer ------------------------------------------------------------

WordPiece::WordPiece(Vocabulary vocabulary, bool lowercase)
    : vocabulary_(std::move(vocabulary)),
      lowercase_(lowercase),
      first_byte_(vocabulary_.first_byte()),
      of_words_(vocabulary_.has_words()),
      chars_(BertChars::get(lowercase)),
      trie_(vocabulary_) {
  size_t slots = 64;
  while (slots < 2 * static_cast<size_t>(vocabulary_.size())) slots *= 2;
  slots_.resize(slots);
  slot_mask_ = slots - 1;
  std::fill(std::begin(ascii_piece_), std::end(ascii_piece_), vocabulary_.unk());
  for (int32_t id = 0; id < vocabulary_.size(); ++id) {
    const std::string& token = vocabulary_.token(id);
    // A zero byte never comes out of the clean-up, and a zero first half means an empty slot.
    if (token.size() > 16 || token.find('\0') != std::string::npos || (token.size() > 2 && token.starts_with("##")))
      continue;
    Slot slot{0, 0, id};
    std::memcpy(&slot.low, token.data(), std::min<size_t>(token.size(), 8));
    if (token.size() > 8) std::memcpy(&slot.high, token.data() + 8, token.size() - 8);
    size_t at = slot_of(slot.low, slot.high);
    while (slots_[at].low != 0) at = (at + 1) & slot_mask_;
    slots_[at] = slot;
    if (token.size() == 1 && static_cast<uint8_t>(token[0]) < 128)
      ascii_piece_[static_cast<uint8_t>(token[0])] = id;
  }
  for (const int32_t id :
       {vocabulary_.unk(), vocabulary_.sep(), vocabulary_.cls(), vocabulary_.pad(), vocabulary_.mask()})
    if (id >= 0) specials_.push_back({vocabulary_.token(id), id});
  std::stable_sort(specials_.begin(), specials_.end(),
                   [](const Special& a, const Special& b) { return a.text.size() > b.text.size(); });
}

void WordPiece::encode(std::string_view text, std::vector<int32_t>& ids, size_t limit) const {
  if (of_bytes()) {
    for (const char byte : text.substr(0, limit)) ids.push_back(first_byte_ + static_cast<uint8_t>(byte));
    return;
  }
  if (of_words()) {
    for_each_word(text, [&](size_t begin, size_t end) {
      if (limit-- == 0) return false;
      ids.push_back(id_of_word(vocabulary_, text.substr(begin, end - begin)));
      return true;
    });
    return;
  }
  IdSink sink(ids, text.size() / 4 + 16, limit);
  WordPieceScanner<IdSink>(*this, sink).scan(text);
}

std::vector<int32_t> WordPiece::encode(std::string_view text) const {
  std::vector<int32_t> ids;
  encode(text, ids);
  return ids;
}

bool WordPiece::encode_sequence(std::string_view text, int64_t max_length, std::vector<int32_t>& ids) const {
  CHECK(max_length >= 2, "encode_sequence: wants room for [CLS] and [SEP], got {}", max_length);
  const size_t room = static_cast<size_t>(max_length) - 2;
  ids.push_back(vocabulary_.cls());
  const size_t first = ids.size();
  encode(text, ids, room + 1);  // one more than fits says that something was cut
  const bool cut = ids.size() - first > room;
  if (cut) ids.resize(first + room);
  ids.push_back(vocabulary_.sep());
  return cut;
}

std::vector<WordPiece::Piece> WordPiece::pieces(std::string_view text) const {
  CHECK(text.size() < UINT32_MAX, "pieces: wants a text below 4 GiB, got {} bytes", text.size());
  std::vector<Piece> found;
  if (of_bytes()) {
    for (uint32_t at = 0; at < text.size(); ++at)
      found.push_back({first_byte_ + static_cast<uint8_t>(text[at]), at, at + 1});
    return found;
  }
  if (of_words()) {
    for_each_word(text, [&](size_t begin, size_t end) {
      found.push_back({id_of_word(vocabulary_, text.substr(begin, end - begin)), static_cast<uint32_t>(begin),
                       static_cast<uint32_t>(end)});
      return true;
    });
    return found;
  }
  PieceSink sink{text.data(), found};
  WordPieceScanner<PieceSink>(*this, sink).scan(text);
  return found;
}

std::string WordPiece::decode(const int32_t* ids, size_t n, bool skip_special) const {
  std::string text;
  bool first = true;
  for (size_t i = 0; i < n; ++i) {
    if (skip_special && vocabulary_.is_special(ids[i])) continue;
    if (of_bytes() && ids[i] >= first_byte_ && ids[i] < first_byte_ + 256) {
      text += static_cast<char>(ids[i] - first_byte_);
      continue;
    }
    const std::string& token = vocabulary_.token(ids[i]);
    if (of_words()) {
      text += (first ? "" : " ") + token;
    } else if (!first && token.starts_with("##")) {
      text.append(token, 2);
    } else {
      const bool attached = token == "." || token == "?" || token == "!" || token == ",";
      if (!first && !attached) text += ' ';
      text += token;
    }
    first = false;
  }
  return text;
}

}  // namespace glia
