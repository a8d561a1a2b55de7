#include "data/text/bert_chars.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <string>

#include "data/text/unicode_differences.h"
#include "engine/core/check.h"

namespace glia {
namespace {

namespace diff = unicode_differences;

template <size_t N> bool in(const diff::CodeRange (&table)[N], uint32_t code) {
  const auto* range =
      std::partition_point(table, table + N, [&](const diff::CodeRange& r) { return r.last < code; });
  return range != table + N && range->first <= code;
}

template <size_t N> uint32_t find(const diff::CodePair (&table)[N], uint32_t code, uint32_t otherwise) {
  const auto* pair = std::partition_point(table, table + N, [&](const diff::CodePair& p) { return p.code < code; });
  return pair != table + N && pair->code == code && code != 0 ? pair->value : otherwise;
}

// White_Space has been stable since Unicode 6.3. U+000B, U+000C and U+0085 are dropped as Cc before it matters.
bool is_space(uint32_t c) {
  return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

// The ranges of Hugging Face's Rust code. Google's Python begins extension E at U+2B820; we follow Rust (U+2B920).
bool is_cjk(uint32_t c) {
  return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
         (c >= 0x2A700 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) || (c >= 0xF900 && c <= 0xFAFF) ||
         (c >= 0x2F800 && c <= 0x2FA1F);
}

bool is_dropped(uint32_t c, utf8proc_category_t category) {
  if (c == 0 || c == 0xFFFD) return true;
  if (c == '\t' || c == '\n' || c == '\r') return false;
  // Cn (unassigned) stays: the category tables of Hugging Face's crate have no such class.
  const bool other =
      category == UTF8PROC_CATEGORY_CC || category == UTF8PROC_CATEGORY_CF || category == UTF8PROC_CATEGORY_CO;
  return other ? !in(diff::kNotDropped, c) : in(diff::kDropped, c);
}

bool is_punctuation(uint32_t c, utf8proc_category_t category) {
  if (c < 128)
    return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) || (c >= 123 && c <= 126);
  const bool p = category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_PO;
  return p ? !in(diff::kNotPunctuation, c) : in(diff::kPunctuation, c);
}

BertChars::Entry entry(CharKind kind, uint32_t payload = 0, uint32_t aux = 0) {
  return {static_cast<uint32_t>(kind) | aux << 3 | payload << 11};
}

utf8proc_category_t category_of(uint32_t c) { return utf8proc_category(static_cast<utf8proc_int32_t>(c)); }

// A code point after clean-up, spacing and NFD.
BertChars::Entry classify(uint32_t c, bool lowercase, bool cjk) {
  const utf8proc_property_t* property = utf8proc_get_property(static_cast<utf8proc_int32_t>(c));
  uint32_t combining = 0;
  if (lowercase) {
    combining = in(diff::kNoClass, c) ? 0 : find(diff::kClass, c, static_cast<uint32_t>(property->combining_class));
    const bool mn = property->category == UTF8PROC_CATEGORY_MN;
    if (mn ? !in(diff::kNotMark, c) : in(diff::kMark, c))
      return entry(combining ? CharKind::kDrop : CharKind::kBarrier);
    c = find(diff::kLower, c, static_cast<uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
  }
  // The class is that of the lower-cased code point, which is what the pre-tokenizer sees. A mark of a class is
  // written to its sorted place first; none of them is punctuation.
  if (cjk) return entry(CharKind::kAlone, c);
  if (combining) {
    CHECK(!is_punctuation(c, category_of(c)), "bert_chars: U+{:04X} is a mark and punctuation", c);
    return entry(CharKind::kMark, c, combining);
  }
  if (is_space(c)) return entry(CharKind::kSpace);
  return entry(is_punctuation(c, category_of(c)) ? CharKind::kAlone : CharKind::kWord, c);
}

}  // namespace

BertChars::BertChars(bool lowercase) : page_of_(0x1100) {
  std::map<std::string, uint16_t> known;
  for (uint32_t page = 0; page < 0x1100; ++page) {
    Page entries;
    for (uint32_t low = 0; low < 256; ++low) {
      const uint32_t c = page << 8 | low;
      const utf8proc_category_t category = category_of(c);
      Entry& e = entries.entry[low];
      if ((c >= 0xD800 && c < 0xE000) || is_dropped(c, category)) {
        e = entry(CharKind::kDrop);
        continue;
      }
      if (is_space(c)) {
        e = entry(CharKind::kSpace);
        continue;
      }
      utf8proc_int32_t decomposed[16] = {static_cast<utf8proc_int32_t>(c)};
      utf8proc_ssize_t n = 1;
      const utf8proc_property_t* property = utf8proc_get_property(decomposed[0]);
      const bool whole =
          property->decomp_seqindex == UINT16_MAX && !(c >= 0xAC00 && c <= 0xD7A3);  // Hangul is computed
      if (lowercase && !whole && !in(diff::kNotDecomposed, c)) {
        int boundary = 0;
        n = utf8proc_decompose_char(decomposed[0], decomposed, 16,
                                    static_cast<utf8proc_option_t>(UTF8PROC_DECOMPOSE | UTF8PROC_STABLE),
                                    &boundary);
        CHECK(n >= 1 && n <= 16, "bert_chars: U+{:04X} decomposes into {} code points", c, n);
      }
      if (n == 1) {
        e = classify(static_cast<uint32_t>(decomposed[0]), lowercase, is_cjk(c));
        continue;
      }
      CHECK(!is_cjk(c), "bert_chars: U+{:04X} is CJK and decomposes into {} code points", c, n);
      e = entry(CharKind::kSequence, static_cast<uint32_t>(sequences_.size()), static_cast<uint32_t>(n));
      for (utf8proc_ssize_t i = 0; i < n; ++i)
        sequences_.push_back(classify(static_cast<uint32_t>(decomposed[i]), lowercase, false));
    }
    const std::string key(reinterpret_cast<const char*>(&entries), sizeof entries);
    const auto [at, is_new] = known.try_emplace(key, static_cast<uint16_t>(pages_.size()));
    if (is_new) pages_.push_back(entries);
    page_of_[page] = at->second;
  }
}

const BertChars& BertChars::get(bool lowercase) {
  if (lowercase) {
    static const BertChars table(true);
    return table;
  }
  static const BertChars table(false);
  return table;
}

}  // namespace glia
