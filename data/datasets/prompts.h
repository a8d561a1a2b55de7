// Where a text's prompt ends and what is to be continued begins: for models that read from left to right.
#pragma once

#include "data/datasets/dataset.h"

namespace glia {

// Ids of the tokens that end a sentence, ascending: . ! ? and …, of bytes the first three, of a layout's words a line's end too.
std::vector<int32_t> sentence_enders(const Vocabulary& vocabulary);

// Behind the first sentence of [CLS] … [SEP], its first token of `enders`; where none lies in its first half, the middle. So
// many tokens from the start are the prompt: [CLS] at least, and fewer than all. A sequence of one token has 0.
int32_t border_of(const int32_t* ids, int64_t length, const std::vector<int32_t>& enders);

// Gives each row the border behind its first sentence.
void set_sentence_borders(TokenSplit& split, const std::vector<int32_t>& enders);

// Leaves out the rows with a border that have no word before it, or nothing but [SEP] behind it; returns how many those are.
int64_t leave_out_unprompted(TokenSplit& split);

}  // namespace glia
