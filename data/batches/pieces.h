// Batches of running text for pretraining: documents cut into pieces, [CLS] piece [SEP], which lie end to end until the batch's
// places are full. No place holds a padding token, and no word of an epoch is left out or comes twice: where the last piece
// does not fit, the rest of it begins the next batch, and an epoch begins where the one before ends, within a batch.
#pragma once

#include "data/batches/batching.h"

namespace glia {

struct PieceOptions {
  int64_t places = 65536;  // T: of a batch; only 1 or 2 at its end may be empty, too few for a piece
  int64_t longest = 128;   // of a piece, [CLS] and [SEP] included
  int64_t sequences = 0;   // room for so many pieces; a batch has all of them, the last ones empty. 0: piece_room()
  int32_t cls = -1, sep = -1;
  uint64_t seed = 0;
  int64_t epochs = 0;  // 0: without end
  bool moving = true;  // a long document's first piece has a random length in each epoch, so that borders move
  Masking masking = {};
  bool prompts = false;              // a piece's first sentence is its prompt (data/datasets/prompts.h)
  std::vector<int32_t> enders = {};  // ids that end one: a piece without any has its border in the middle
};

// A first guess of how many pieces a batch holds at most: a quarter more than the mean, in steps of 64.
int64_t piece_room(const TokenSplit& documents, const PieceOptions& options);

// `documents` has ids without [CLS] and [SEP] and must outlive the stream. One thread at a time.
class PieceStream {
 public:
  PieceStream(const TokenSplit& documents, const PieceOptions& options);

  // The next batch; false after the last epoch's. Sets view.tokens, view.sequences (all of them), read_rows, the ids' order where
  // the view has room for it, and a piece's label: its document's, and where labels are to be told (Masking::sequences) that of a
  // whole document alone, else −1: a part of a text need not show its topic. Only the last batch of all may be less than full; a batch
  // with more pieces than there is room for ends early and says so in crowded().
  bool fill(BatchView& view);
  void seek(int64_t batch);  // the next fill() gives batch number `batch`, from 0

  int64_t batch() const { return batch_; }
  int64_t epoch() const { return epoch_; }  // of the next piece
  int64_t crowded() const { return crowded_; }
  // Of the last batch's pieces: the token that its document has before each, −1 at the document's beginning.
  const std::vector<int32_t>& before() const { return before_; }
  const PieceOptions& options() const { return options_; }

 private:
  struct Piece {
    int64_t begin, length;  // of documents.ids
    int64_t document;
  };
  void cut();  // the pieces of epoch_, in their order
  bool next();
  template <class Place> bool pack(Place&& place);

  const TokenSplit& documents_;
  PieceOptions options_;
  std::vector<Piece> pieces_;
  std::vector<int32_t> spans_;  // of the batch's pieces: what of each counts where next words are told
  std::vector<int32_t> before_;
  size_t at_ = 0;  // the piece that is being placed
  int64_t epoch_ = 0, batch_ = 0, crowded_ = 0;
};

}  // namespace glia
