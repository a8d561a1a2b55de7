// What is to be predicted in a batch of token ids: masked words, or each token's next one.
//
// Masked words for a masked-LM task (Devlin et al. 2019, 3.1): of a batch's tokens a fixed share is to be predicted; of those 80 % are replaced by
// [MASK], 10 % by any word piece, 10 % are left. [CLS], [SEP] and padding are never chosen. Which ones depends on (seed, epoch, batch) alone, so a
// batch is masked anew in each epoch, and the same on every machine.
#pragma once
#include <cstdint>

namespace glia {

struct Masking {
  double rate = 0;  // of the tokens that may be chosen, (0, 1); 0: nothing is masked
  int32_t mask_id = -1, vocabulary = 0;
  uint64_t seed = 0;
  int64_t rows = 0;  // above 0: exactly so many in each batch, as long as there are so many, instead of the rate's
  int32_t first_word = 0;  // random words are drawn from [first_word, vocabulary)
  // Instead, with a rate of 1: nothing is replaced, and each token is to tell the one behind it.
  bool next_words = false;
  // Above 0: batches have so many sequences, and of each the first row is read too, before the masked words, to tell the
  // sequence's label (−1: it has none). First, so that they stand in the same place however many words are masked.
  int64_t sequences = 0;
};

inline Masking next_words() {
  Masking m;
  m.rate = 1, m.next_words = true;
  return m;
}

// The most rows that are read of `tokens`: what a buffer wants room for.
int64_t masked_room(const Masking& masking, int64_t tokens);

// Chooses and replaces in place. ids [T] of sequences offsets[b] … offsets[b] + lengths[b] − 1 (the first and the last token of
// each are not chosen); read and targets have masked_room(T) entries, of which the first n are written: the rows, ascending, and
// what stood there. Returns n; at least 1 where a token may be chosen.
int64_t mask_words(const Masking& masking, uint32_t epoch, uint32_t batch, int32_t* ids, const int32_t* offsets,
                   const int32_t* lengths, int64_t sequences, int32_t* read, int32_t* targets);

// The rows whose next token is to be told, ascending, and these tokens: of each sequence all rows but its last one, from
// the last row of its prompt on where it has a border. borders [B] or nullptr; `spans` [B]: tokens of each sequence that
// count, at most its length. read and targets have masked_room(T) entries. Returns how many are written.
int64_t find_next_words(const int32_t* ids, const int32_t* offsets, const int32_t* spans, const int32_t* borders,
                        int64_t sequences, int32_t* read, int32_t* targets);

}  // namespace glia
