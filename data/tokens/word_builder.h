// A word in the making: code points go in as the entries of BertChars, whole normalised words come out. The slow,
// general way of the tokenizer, and the vocabulary trainer's only one.
#pragma once

#include <algorithm>
#include <string_view>
#include <utility>
#include <vector>

#include "data/text/bert_chars.h"
#include "data/text/utf8.h"

namespace glia {

// kOffsets: remember which bytes of the text each code point came from.
template <bool kOffsets> class WordBuilder {
 public:
  static constexpr size_t kMaxChars = 100;  // bytes of longer words are not kept, only counted

  explicit WordBuilder(const BertChars& chars) : table_(chars) {}

  // `on_word` is called, without arguments, for each word that this code point completes; the accessors below tell
  // which.
  template <class F> void take(BertChars::Entry entry, const char* begin, const char* end, F&& on_word) {
    switch (entry.kind()) {
      case CharKind::kWord:
        place_marks();
        add(entry.payload(), begin, end);
        break;
      case CharKind::kAlone:
        end_word(on_word);
        add(entry.payload(), begin, end);
        end_word(on_word);
        break;
      case CharKind::kSpace: end_word(on_word); break;
      case CharKind::kDrop: break;
      case CharKind::kBarrier: place_marks(); break;
      case CharKind::kMark: marks_.push_back({entry.payload(), entry.aux(), begin, end}); break;
      case CharKind::kSequence: {
        const BertChars::Entry* part = table_.sequence(entry);
        for (uint32_t i = 0; i < entry.aux(); ++i) take(part[i], begin, end, on_word);
        break;
      }
    }
  }

  template <class F> void end_word(F&& on_word) {
    place_marks();
    if (chars_ == 0) return;
    on_word();
    chars_ = bytes_ = 0;
  }

  bool idle() const { return chars_ == 0 && marks_.empty(); }  // nothing is waiting

  std::string_view word() const { return {word_, bytes_}; }  // whole if chars() <= kMaxChars
  size_t chars() const { return chars_; }
  const char* begin() const { return begin_; }  // in the text
  const char* end() const { return end_; }

  // The stretch of the text behind bytes [from, to) of word().
  std::pair<const char*, const char*> source(size_t from, size_t to) const {
    if constexpr (!kOffsets) return {nullptr, nullptr};
    const char *first = nullptr, *last = nullptr;
    for (size_t i = 0; i < std::min(chars_, kMaxChars); ++i) {
      if (places_[i].at < from || places_[i].at >= to) continue;
      first = first ? std::min(first, places_[i].begin) : places_[i].begin;
      last = last ? std::max(last, places_[i].end) : places_[i].end;
    }
    return {first, last};
  }

 private:
  struct Place {
    size_t at;  // its first byte in word_
    const char *begin, *end;
  };
  struct Mark {
    uint32_t code, order;  // order: its combining class
    const char *begin, *end;
  };

  // The canonical order of a run of marks (Unicode 15, section 3.11), at the first code point of class 0 after it.
  void place_marks() {
    if (marks_.empty()) return;
    std::stable_sort(marks_.begin(), marks_.end(), [](const Mark& a, const Mark& b) { return a.order < b.order; });
    for (const Mark& mark : marks_) add(mark.code, mark.begin, mark.end);
    marks_.clear();
  }

  void add(uint32_t code, const char* begin, const char* end) {
    if (chars_ < kMaxChars) {
      if constexpr (kOffsets) places_[chars_] = {bytes_, begin, end};
      bytes_ += static_cast<size_t>(utf8::encode(code, word_ + bytes_));
    }
    begin_ = chars_ == 0 ? begin : std::min(begin_, begin);
    end_ = chars_ == 0 ? end : std::max(end_, end);
    ++chars_;
  }

  const BertChars& table_;
  size_t chars_ = 0, bytes_ = 0;  // chars_ counts on past kMaxChars
  const char *begin_ = nullptr, *end_ = nullptr;
  char word_[4 * kMaxChars + 4];
  Place places_[kOffsets ? kMaxChars : 1];
  std::vector<Mark> marks_;  // read, and waiting for the end of their run
};

// f(word) for each normalised word of a text. Words of more than kMaxChars code points are left out.
template <class F> void for_each_word(std::string_view text, bool lowercase, F&& f) {
  const BertChars& chars = BertChars::get(lowercase);
  WordBuilder<false> builder(chars);
  const auto on_word = [&] {
    if (builder.chars() <= WordBuilder<false>::kMaxChars) f(builder.word());
  };
  for (const char *p = text.data(), *end = p + text.size(); p < end;) {
    const char* const at = p;
    const uint32_t code = utf8::decode(p, end);
    if (code != utf8::kInvalid) builder.take(chars[code], at, p, on_word);
  }
  builder.end_word(on_word);
}

}  // namespace glia
