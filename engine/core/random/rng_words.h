// Many Philox words at once on the CPU, for masks: the same words as random_bits().
#pragma once

#include "engine/core/random/rng.h"

namespace glia {

// The words of `blocks` consecutive blocks, 4 · blocks of them.
void random_words(uint64_t seed, uint32_t purpose, uint32_t step, uint64_t first_block, int64_t blocks,
                  uint32_t* words);

}  // namespace glia
