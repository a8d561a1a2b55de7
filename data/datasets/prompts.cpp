#include "data/datasets/prompts.h"

#include <algorithm>

#include "data/datasets/layouts.h"

namespace glia {

std::vector<int32_t> sentence_enders(const Vocabulary& vocabulary) {
  std::vector<int32_t> ids;
  const int32_t first_byte = vocabulary.first_byte();
  if (first_byte >= 0)
    for (const char mark : {'.', '!', '?'}) ids.push_back(first_byte + mark);
  for (const char* mark : {".", "!", "?", "…"})
    if (const int32_t id = vocabulary.find(mark); id >= 0) ids.push_back(id);
  if (vocabulary.has_words())  // a layout whose lines are sentences
    if (const int32_t id = vocabulary.find(kLineEnd); id >= 0) ids.push_back(id);
  std::sort(ids.begin(), ids.end());
  return ids;
}

int32_t border_of(const int32_t* ids, int64_t length, const std::vector<int32_t>& enders) {
  for (int64_t t = 1; t < length / 2; ++t)
    if (std::binary_search(enders.begin(), enders.end(), ids[t])) return static_cast<int32_t>(t + 1);
  return static_cast<int32_t>(length / 2);
}

void set_sentence_borders(TokenSplit& split, const std::vector<int32_t>& enders) {
  split.borders.clear();
  for (int64_t row = 0; row < split.size(); ++row)
    split.borders.push_back(
        border_of(split.ids.data() + split.offsets[static_cast<size_t>(row)], split.length(row), enders));
}

int64_t leave_out_unprompted(TokenSplit& split) {
  TokenSplit kept;
  for (int64_t row = 0; row < split.size(); ++row)
    if (const int64_t border = split.borders[static_cast<size_t>(row)];
        border > 1 && border + 1 < split.length(row))
      kept.append(split, row);
  const int64_t left_out = split.size() - kept.size();
  split = std::move(kept);
  return left_out;
}

}  // namespace glia
