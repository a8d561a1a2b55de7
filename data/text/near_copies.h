// Test rows that say nearly what training rows say: on them a model may remember instead of understanding, so accuracy is
// told without them too (docs/science.md 4).
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace glia {

// How many words in a row are a passage.
inline constexpr int kPassageWords = 8;

// For each text 1 where at least half of its passages stand in the `known` texts. Words are runs of letters
// (letter_words.h); character references, whole or without their ampersand as in AG News ("quot;",
// "#39;"), are none. A text of fewer than kPassageWords words is no copy.           texts [N], known [M] → [N]
std::vector<uint8_t> near_copies(const std::vector<std::string_view>& texts,
                                 const std::vector<std::string_view>& known);

}  // namespace glia
