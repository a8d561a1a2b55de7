// Packing of running text: every word once an epoch, no padding, moving borders, the same batches from wherever one begins.
#include "data/batches/pieces.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "tests/test.h"

namespace glia::test {
namespace {

constexpr int32_t kCls = 1, kSep = 2, kMask = 3, kFirst = 10;

// Documents whose words are all different: 10, 11, …
TokenSplit documents(const std::vector<int64_t>& lengths) {
  TokenSplit split;
  int32_t word = kFirst;
  for (const int64_t n : lengths) {
    for (int64_t i = 0; i < n; ++i) split.ids.push_back(word++);
    split.offsets.push_back(static_cast<int64_t>(split.ids.size()));
    split.labels.push_back(static_cast<int32_t>(split.labels.size() % 3));
  }
  return split;
}

const std::vector<int64_t> kLengths = {1, 40, 7, 0, 100, 14, 15, 3, 61, 2, 29};

PieceOptions options(int64_t epochs) {
  PieceOptions o;
  o.places = 64, o.longest = 16, o.cls = kCls, o.sep = kSep, o.seed = 5, o.epochs = epochs;
  return o;
}

struct Filled {
  std::vector<int32_t> ids, offsets, lengths, labels, read, targets;
  int64_t tokens = 0;
  bool operator==(const Filled&) const = default;
  // The words of sequence b.
  std::vector<int32_t> piece(size_t b) const {
    return {ids.begin() + offsets[b] + 1, ids.begin() + offsets[b + 1] - 1};
  }
};

std::optional<Filled> next(PieceStream& stream) {
  const PieceOptions& o = stream.options();
  const auto room = static_cast<size_t>(o.sequences),
             masked = static_cast<size_t>(masked_room(o.masking, o.places));
  Filled f;
  f.ids.resize(static_cast<size_t>(o.places)), f.offsets.resize(room + 1), f.lengths.resize(room);
  f.labels.resize(room), f.read.resize(masked), f.targets.resize(masked);
  BatchView view;
  view.ids = f.ids.data(), view.offsets = f.offsets.data(), view.lengths = f.lengths.data();
  view.labels = f.labels.data();
  if (masked) view.read = f.read.data(), view.targets = f.targets.data();
  view.token_capacity = o.places, view.sequence_capacity = o.sequences;
  if (!stream.fill(view)) return std::nullopt;
  REQUIRE(view.sequences == o.sequences);
  f.tokens = view.tokens;
  f.read.resize(static_cast<size_t>(view.read_rows)), f.targets.resize(static_cast<size_t>(view.read_rows));
  return f;
}

std::vector<Filled> all(PieceStream& stream, std::vector<std::vector<int32_t>>* before = nullptr) {
  std::vector<Filled> batches;
  while (std::optional<Filled> f = next(stream)) {
    batches.push_back(std::move(*f));
    if (before) before->push_back(stream.before());
  }
  return batches;
}

TEST_CASE("pieces: each word stands once in each epoch, between [CLS] and [SEP], and no place is left empty") {
  const TokenSplit text = documents(kLengths);
  for (const int64_t epochs : {1, 3}) {
    PieceStream stream(text, options(epochs));
    std::vector<std::vector<int32_t>> before;
    const std::vector<Filled> batches = all(stream, &before);
    std::map<int32_t, int64_t> times;
    for (size_t i = 0; i < batches.size(); ++i) {
      const Filled& f = batches[i];
      if (i + 1 < batches.size()) EXPECT(f.tokens > 64 - 3);
      bool ended = false;
      for (size_t b = 0; b + 1 < f.offsets.size(); ++b) {
        REQUIRE(f.lengths[b] == f.offsets[b + 1] - f.offsets[b]);
        ended = ended || f.lengths[b] == 0;
        REQUIRE(ended == (f.lengths[b] == 0));  // the empty ones are the last
        if (ended) continue;
        REQUIRE(f.lengths[b] >= 3);
        REQUIRE(f.lengths[b] <= 16);
        EXPECT(f.ids[f.offsets[b]] == kCls);
        EXPECT(f.ids[f.offsets[b + 1] - 1] == kSep);
        const std::vector<int32_t> words = f.piece(b);
        for (size_t w = 0; w < words.size(); ++w) {
          ++times[words[w]];
          if (w > 0) EXPECT(words[w] == words[w - 1] + 1);  // neighbours of one document
        }
        const auto document = std::upper_bound(text.offsets.begin(), text.offsets.end(), words[0] - kFirst) -
                              text.offsets.begin() - 1;
        EXPECT(f.labels[b] == text.labels[static_cast<size_t>(document)]);
        const bool begins = words[0] - kFirst == text.offsets[static_cast<size_t>(document)];
        EXPECT(before[i][b] == (begins ? -1 : words[0] - 1));
        EXPECT(words.back() - kFirst < text.offsets[static_cast<size_t>(document) + 1]);
      }
      EXPECT(f.offsets.back() == f.tokens);
    }
    EXPECT(static_cast<int64_t>(times.size()) == text.tokens());
    for (const auto& [word, count] : times) REQUIRE(count == epochs);
    EXPECT(stream.crowded() == 0);
  }
}

TEST_CASE("pieces: borders and order move from epoch to epoch and from seed to seed, unless they shall not") {
  const TokenSplit text = documents({200});
  const auto begins = [&](const PieceOptions& o) {  // of the pieces, in all epochs, as they come
    PieceStream stream(text, o);
    std::vector<int32_t> first;
    for (const Filled& f : all(stream))
      for (size_t b = 0; f.lengths[b] > 0; ++b) first.push_back(f.piece(b)[0]);
    return first;
  };
  PieceOptions o = options(1);
  o.places = 4096;
  const std::vector<int32_t> one = begins(o);
  o.seed = 6;
  std::vector<int32_t> other = begins(o);
  EXPECT(one != other);
  std::sort(other.begin(), other.end());
  std::vector<int32_t> sorted = one;
  std::sort(sorted.begin(), sorted.end());
  EXPECT(sorted != other);  // not only another order
  o.moving = false;
  std::vector<int32_t> fixed = begins(o);
  std::sort(fixed.begin(), fixed.end());
  for (size_t i = 0; i < fixed.size(); ++i) EXPECT(fixed[i] == kFirst + 14 * static_cast<int32_t>(i));
}

TEST_CASE("pieces: seek() goes on with the batches that come there, in any epoch") {
  const TokenSplit text = documents(kLengths);
  PieceOptions o = options(0);
  o.masking = {0.2, kMask, 1000, 9, 11, kFirst};
  PieceStream through(text, o);
  for (int64_t batch = 0; batch < 23; ++batch) {
    PieceStream from(text, o);
    from.seek(batch);
    EXPECT(from.batch() == batch);
    REQUIRE(next(from) == next(through));
  }
  EXPECT(through.epoch() > 3);
}

TEST_CASE(
    "pieces: a batch has as many masked rows as are asked for; other words are drawn above the special ones") {
  const TokenSplit text = documents(kLengths);
  PieceOptions o = options(0);
  o.masking = {0.2, kMask, 1000, 9, 11, 900};
  PieceStream stream(text, o);
  int64_t mask = 0, random = 0, left = 0;
  const Filled first = *next(stream);
  for (int64_t batch = 0; batch < 400; ++batch) {
    const Filled f = *next(stream);
    REQUIRE(f.read.size() == 11);
    for (size_t i = 0; i < f.read.size(); ++i) {
      const int32_t now = f.ids[f.read[i]], was = f.targets[i];
      EXPECT(was >= kFirst);
      mask += now == kMask, left += now == was;
      if (now == kMask || now == was) continue;
      ++random;
      REQUIRE(now >= 900);
    }
  }
  const double all = 400 * 11;  // four standard deviations
  EXPECT(std::abs(mask / all - 0.8) < 4 * std::sqrt(0.16 / all));
  EXPECT(std::abs(random / all - 0.1) < 4 * std::sqrt(0.09 / all));
  EXPECT(std::abs(left / all - 0.1) < 4 * std::sqrt(0.09 / all));
  PieceStream again(text, o);
  EXPECT(next(again) == first);
  o.masking.seed = 10;
  PieceStream other(text, o);
  EXPECT(next(other)->read != first.read);
}

TEST_CASE(
    "pieces: where labels are told, first rows come before the same masked words; a part of a text has no label") {
  const TokenSplit text = documents(kLengths);
  for (const int64_t masked : {11, 0}) {  // so many words, or the rate's share
    PieceOptions o = options(2);
    o.masking = {0.2, kMask, 1000, 9, masked, kFirst};
    PieceStream plain(text, o);
    o.sequences = plain.options().sequences;
    o.masking.sequences = o.sequences;
    PieceStream told(text, o);
    EXPECT(masked_room(o.masking, 64) == o.sequences + (masked ? masked : 13));
    std::map<bool, int64_t> pieces;
    for (;;) {
      const std::optional<Filled> a = next(plain), b = next(told);
      REQUIRE(a.has_value() == b.has_value());
      if (!a) break;
      EXPECT(a->ids == b->ids);
      EXPECT(std::vector<int32_t>(b->read.begin() + o.sequences, b->read.end()) == a->read);
      EXPECT(std::vector<int32_t>(b->targets.begin() + o.sequences, b->targets.end()) == a->targets);
      std::vector<int32_t> ids = a->ids;
      for (size_t i = 0; i < a->read.size(); ++i) ids[static_cast<size_t>(a->read[i])] = a->targets[i];
      for (size_t s = 0; s < static_cast<size_t>(o.sequences); ++s) {
        const bool empty = b->lengths[s] == 0;
        EXPECT(b->read[s] == (empty ? -1 : b->offsets[s]));
        // A word's number is its place in the text.
        const int64_t at = empty ? 0 : ids[static_cast<size_t>(b->offsets[s]) + 1] - kFirst;
        const int64_t d = std::upper_bound(text.offsets.begin(), text.offsets.end(), at) - text.offsets.begin() - 1;
        const bool whole = !empty && text.length(d) == b->lengths[s] - 2;
        EXPECT(b->targets[s] == (whole ? text.labels[static_cast<size_t>(d)] : -1));
        ++pieces[whole];
      }
    }
    EXPECT(pieces[true] > 0);
    EXPECT(pieces[false] > 0);
  }
  PieceOptions o = options(1);
  o.masking = {0.2, kMask, 1000, 9, 11, kFirst};
  o.masking.sequences = 1;
  EXPECT(contains(error_of([&] { PieceStream(text, o); }), "want labels of all"));
}

TEST_CASE("pieces: a batch that has no room for its pieces ends early, says so, and loses nothing") {
  const TokenSplit text = documents(std::vector<int64_t>(60, 1));
  PieceOptions o = options(1);
  o.sequences = 5;
  PieceStream stream(text, o);
  std::map<int32_t, int64_t> times;
  for (const Filled& f : all(stream))
    for (size_t b = 0; b < 5; ++b)
      for (const int32_t word : f.piece(b)) ++times[word];
  EXPECT(times.size() == 60);
  EXPECT(stream.crowded() > 0);
  EXPECT(contains(error_of([&] { PieceStream(documents({0, 0}), options(1)); }), "want documents with words"));
  o.longest = 65;
  EXPECT(contains(error_of([&] { PieceStream(text, o); }), "no more than the batch's 64, got 65"));
}

}  // namespace
}  // namespace glia::test
