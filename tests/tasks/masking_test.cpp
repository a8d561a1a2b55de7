// Masked words: how many, which, what stands there afterwards, and that nothing but (seed, epoch, batch) decides.
#include "data/batches/masking.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <vector>

#include "tests/test.h"

namespace glia::test {
namespace {

struct Masked {
  std::vector<int32_t> ids, read, targets;
};

// Sequences of these lengths whose ids are 100, 101, …; vocabulary 5,000, [MASK] 4.
Masked masked(const Masking& m, const std::vector<int32_t>& lengths, uint32_t epoch, uint32_t batch) {
  std::vector<int32_t> offsets{0};
  for (const int32_t n : lengths) offsets.push_back(offsets.back() + n);
  Masked r;
  r.ids.resize(static_cast<size_t>(offsets.back()));
  std::iota(r.ids.begin(), r.ids.end(), 100);
  const auto room = static_cast<size_t>(masked_room(m, offsets.back()));
  r.read.resize(room), r.targets.resize(room);
  const auto n =
      static_cast<size_t>(mask_words(m, epoch, batch, r.ids.data(), offsets.data(), lengths.data(),
                                     static_cast<int64_t>(lengths.size()), r.read.data(), r.targets.data()));
  REQUIRE(n <= room);
  r.read.resize(n), r.targets.resize(n);
  return r;
}

const Masking kMasking{0.2, 4, 5000, 7};

TEST_CASE("masking: the share of the words that may be chosen, ascending, never a sequence's ends") {
  const std::vector<int32_t> lengths = {2, 12, 3, 40, 1, 22};
  const Masked m = masked(kMasking, lengths, 0, 0);
  EXPECT(m.read.size() == 13);  // 10 + 1 + 38 + 20 words may be chosen, a fifth of them is 13.8
  EXPECT(std::is_sorted(m.read.begin(), m.read.end()));
  EXPECT(std::adjacent_find(m.read.begin(), m.read.end()) == m.read.end());
  int32_t begin = 0;
  for (const int32_t n : lengths) {
    for (const int32_t end : {begin, begin + n - 1}) EXPECT(std::count(m.read.begin(), m.read.end(), end) == 0);
    begin += n;
  }
  for (size_t i = 0; i < m.read.size(); ++i) EXPECT(m.targets[i] == 100 + m.read[i]);
  for (int32_t t = 0; t < begin; ++t)
    if (std::count(m.read.begin(), m.read.end(), t) == 0) EXPECT(m.ids[static_cast<size_t>(t)] == 100 + t);
}

TEST_CASE("masking: one word at least, none where none may be chosen") {
  EXPECT(masked(kMasking, {3}, 0, 0).read == std::vector<int32_t>{1});
  EXPECT(masked(kMasking, {2, 1, 2}, 0, 0).read.empty());
}

TEST_CASE("masking: 80 % [MASK], 10 % other words, 10 % left; each word as often as any other") {
  int64_t mask = 0, left = 0, all = 0;
  std::map<int32_t, int64_t> chosen;
  for (uint32_t batch = 0; batch < 400; ++batch) {
    const Masked m = masked(kMasking, {52}, 3, batch);
    for (const int32_t t : m.read) {
      const int32_t id = m.ids[static_cast<size_t>(t)];
      ++all, mask += id == 4, left += id == 100 + t, ++chosen[t];
      EXPECT((id >= 0 && id < 5000));
    }
  }
  REQUIRE(all == 4000);
  // Five standard deviations of a binomial.
  EXPECT(std::abs(mask - 3200) < 5 * 26);
  EXPECT(std::abs(left - 400) < 5 * 19);
  EXPECT(chosen.size() == 50);
  for (const auto& [t, n] : chosen) EXPECT(std::abs(n - 80) < 5 * 9);
}

TEST_CASE("masking: the other words are evenly those from the first word on") {
  Masking m = kMasking;
  m.first_word = 4990;
  std::vector<int64_t> times(10);
  int64_t all = 0;
  for (uint32_t batch = 0; batch < 400; ++batch) {
    const Masked words = masked(m, {52}, 3, batch);
    for (const int32_t t : words.read) {
      const int32_t id = words.ids[static_cast<size_t>(t)];
      if (id == m.mask_id || id == 100 + t) continue;
      REQUIRE((id >= 4990 && id < 5000));
      ++times[static_cast<size_t>(id - 4990)], ++all;
    }
  }
  for (const int64_t n : times) EXPECT(std::abs(n - all / 10) < 5 * 6);
}

TEST_CASE("masking: another epoch, batch or seed masks other words, the same three the same") {
  const std::vector<int32_t> lengths = {30, 50};
  const Masked a = masked(kMasking, lengths, 1, 2), b = masked(kMasking, lengths, 1, 2);
  EXPECT((a.ids == b.ids && a.read == b.read && a.targets == b.targets));
  Masking other = kMasking;
  other.seed = 8;
  EXPECT(a.read != masked(kMasking, lengths, 2, 2).read);
  EXPECT(a.read != masked(kMasking, lengths, 1, 3).read);
  EXPECT(a.read != masked(other, lengths, 1, 2).read);
}

TEST_CASE("masking: a rate or a [MASK] that cannot be is an error") {
  Masking m = kMasking;
  m.rate = 1;
  EXPECT(contains(error_of([&] { masked(m, {9}, 0, 0); }), "a rate in (0, 1)"));
  m = kMasking, m.mask_id = 5000;
  EXPECT(contains(error_of([&] { masked(m, {9}, 0, 0); }), "[MASK] below 5000"));
}

}  // namespace
}  // namespace glia::test
