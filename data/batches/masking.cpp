#include "data/batches/masking.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "engine/core/check.h"
#include "engine/core/random/rng.h"

namespace glia {

int64_t masked_room(const Masking& masking, int64_t tokens) {
  if (masking.rate > 0 && masking.rows > 0) return masking.rows + masking.sequences;
  if (masking.next_words) return tokens;
  if (masking.rate <= 0) return 0;
  return static_cast<int64_t>(std::ceil(masking.rate * static_cast<double>(tokens))) + masking.sequences;
}

int64_t mask_words(const Masking& m, uint32_t epoch, uint32_t batch, int32_t* ids, const int32_t* offsets,
                   const int32_t* lengths, int64_t sequences, int32_t* read, int32_t* targets) {
  CHECK(m.rate > 0 && m.rate < 1 && m.mask_id >= 0 && m.mask_id < m.vocabulary,
        "masking: wants a rate in (0, 1) and a [MASK] below {}, got {} and {}", m.vocabulary, m.rate, m.mask_id);
  CHECK(m.first_word >= 0 && m.first_word < m.vocabulary, "masking: wants a first word below {}, got {}",
        m.vocabulary, m.first_word);
  std::vector<int32_t> open;
  for (int64_t b = 0; b < sequences; ++b)
    for (int32_t t = offsets[b] + 1; t < offsets[b] + lengths[b] - 1; ++t) open.push_back(t);
  const auto count = static_cast<int64_t>(open.size());
  const int64_t wanted = m.rows > 0 ? m.rows : std::llround(std::floor(m.rate * static_cast<double>(count)));
  const int64_t n = std::min(count, std::max<int64_t>(1, wanted));
  // The first n of a random order (Fisher–Yates); the batch's number is the upper half of the element's.
  const uint64_t own = static_cast<uint64_t>(batch) << 32;
  for (int64_t i = 0; i < n; ++i) {
    const auto left = static_cast<uint64_t>(count - i);
    std::swap(open[i], open[i + static_cast<int64_t>(random_below(left, m.seed, purpose::kMasking, epoch,
                                                                  own | static_cast<uint64_t>(i)))]);
  }
  std::sort(open.begin(), open.begin() + n);
  for (int64_t i = 0; i < n; ++i) {
    const int32_t t = open[i];
    read[i] = t, targets[i] = ids[t];
    const PhiloxBlock r = random_block(m.seed, purpose::kMaskedWord, epoch, own | static_cast<uint64_t>(t));
    const float u = uniform_from(r.word[0]);
    if (u < 0.8f) ids[t] = m.mask_id;
    else if (u < 0.9f)
      ids[t] = m.first_word +
               static_cast<int32_t>(static_cast<uint64_t>(r.word[1]) * (m.vocabulary - m.first_word) >> 32);
  }
  return n;
}

int64_t find_next_words(const int32_t* ids, const int32_t* offsets, const int32_t* spans, const int32_t* borders,
                        int64_t sequences, int32_t* read, int32_t* targets) {
  int64_t n = 0;
  for (int64_t b = 0; b < sequences; ++b) {
    const int32_t begin = offsets[b] + std::max(borders ? borders[b] - 1 : 0, 0), end = offsets[b] + spans[b] - 1;
    for (int32_t t = begin; t < end; ++t, ++n) read[n] = t, targets[n] = ids[t + 1];
  }
  return n;
}

}  // namespace glia
