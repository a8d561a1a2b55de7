#include "experiments/training/feed/batch_buffer.h"

#include <algorithm>
#include <bit>

namespace glia {

BatchBuffer::BatchBuffer(Context& context, int64_t tokens, int64_t sequences, int64_t max_length, bool padded,
                         int64_t vocabulary, const Masking& masking, bool parts, bool borders, int64_t order_parts)
    : context_(context),
      tokens_(tokens),
      sequences_(sequences),
      max_length_(max_length),
      vocabulary_(vocabulary),
      order_parts_(order_parts),
      padded_(padded),
      parts_(parts),
      borders_(borders),
      masking_(masking) {
  int64_t at = 0;
  const auto place = [&](int64_t count) {  // parts begin on 256 bytes: kernels load vectors
    const int64_t begin = at;
    at += round_up(count, 64);
    return begin;
  };
  rows_before_ = place(parts ? 2 : 0);
  share_ = place(parts ? kShares : 0);
  labels_ = place(sequences);
  border_ = place(borders ? sequences : 0);
  offsets_ = place(sequences + 1);
  lengths_ = place(sequences);
  first_ = place(sequences);
  read_ = place(masked_room(masking, tokens));
  targets_ = place(masked_room(masking, tokens));
  ids_ = place(tokens);
  sequence_of_ = place(tokens);
  const bool ordered = vocabulary > 0;
  const bool of_parts = ordered && order_parts > 1;
  const int64_t entries = of_parts ? order_parts * word_room(std::min(tokens, vocabulary)) : tokens;
  entries_ = place(ordered ? entries : 0);
  own_entries_ = place(of_parts ? tokens : 0);
  touched_ = place(touched_words(vocabulary));
  count_ = place(ordered ? 1 : 0);
  own_count_ = place(of_parts ? 1 : 0);
  own_pieces_ = place(of_parts ? 2 * most_pieces(tokens, vocabulary) : 0);
  pieces_ = place(ordered ? 2 * most_pieces(entries, vocabulary) : 0);
  ints_ = at;
  device_ = zeros(context, {ints_}, DType::kInt32);
  if (parts) shares_ = zeros(context, {kShares});
}

BatchView BatchBuffer::view(int32_t* slot) const {
  BatchView v;
  v.ids = slot + ids_;
  v.offsets = slot + offsets_;
  v.lengths = slot + lengths_;
  v.labels = slot + labels_;
  if (borders_) v.borders = slot + border_;
  if (masking_.rate > 0) v.read = slot + read_, v.targets = slot + targets_;
  if (vocabulary_) v.order = {slot + entries_, slot + pieces_, slot + touched_, slot + count_};
  if (vocabulary_ && order_parts_ > 1)
    v.own_order = {slot + own_entries_, slot + own_pieces_, nullptr, slot + own_count_};
  v.vocabulary = vocabulary_;
  v.token_capacity = tokens_;
  v.sequence_capacity = sequences_;
  return v;
}

void BatchBuffer::set_part(int32_t* slot, int64_t tokens_before, int64_t read_before, double share) {
  CHECK(parts_, "batch: this buffer is not for parts");
  slot[rows_before_] = static_cast<int32_t>(tokens_before);
  slot[rows_before_ + 1] = static_cast<int32_t>(read_before);
  std::fill_n(slot + share_, kShares, std::bit_cast<int32_t>(static_cast<float>(share)));
}

void BatchBuffer::upload(int32_t* slot, const BatchView& view, int64_t tokens, int64_t read, int64_t sequences) {
  const int64_t room = read < 0 ? masked_room(masking_, tokens) : read;
  if (sequences < 0) sequences = view.sequences;
  CHECK(tokens >= view.tokens && tokens <= tokens_, "batch: {} tokens in a buffer of {}", tokens, tokens_);
  CHECK(sequences >= view.sequences && sequences <= sequences_, "batch: {} sequences in a buffer of {}", sequences,
        sequences_);
  int32_t* sequence_of = slot + sequence_of_;
  for (int64_t b = 0; b < view.sequences; ++b) {
    // An empty sequence has no first row.
    slot[first_ + b] = view.offsets[b] < view.offsets[b + 1] ? view.offsets[b] : -1;
    std::fill(sequence_of + view.offsets[b], sequence_of + view.offsets[b + 1], static_cast<int32_t>(b));
  }
  for (int64_t b = view.sequences; b < sequences; ++b) {
    view.offsets[b + 1] = static_cast<int32_t>(view.tokens);
    slot[first_ + b] = view.labels[b] = -1;
    view.lengths[b] = 0;
    if (view.borders) view.borders[b] = 0;
  }
  std::fill(sequence_of + view.tokens, sequence_of + tokens, -1);
  std::fill(view.ids + view.tokens, view.ids + tokens, -1);
  for (int32_t* rows : {view.read, view.targets})
    if (rows) std::fill(rows + view.read_rows, rows + room, -1);
  const int64_t used = vocabulary_ ? pieces_ + 2 * (*view.order.count + 1) : ints_;
  context_.backend().copy(device_.raw(), slot, used * int64_t{sizeof(int32_t)}, CopyKind::kHostToDevice);
  if (parts_)
    context_.backend().copy(shares_.raw(), slot + share_, kShares * int64_t{sizeof(float)},
                            CopyKind::kHostToDevice);
}

Batch BatchBuffer::batch(int64_t tokens, int64_t sequences, int64_t read, int64_t words) const {
  Batch b;
  b.ids = part(ids_, tokens);
  b.labels = part(labels_, sequences);
  if (borders_) b.borders = part(border_, sequences);
  if (parts_) b.rows_before = part(rows_before_, 2), b.share = shares_;
  if (const int64_t room = read < 0 ? masked_room(masking_, tokens) : read)
    b.read = part(read_, room), b.targets = part(targets_, room);
  if (vocabulary_) {
    const auto pieces = [&](int64_t begin, int64_t of) {
      const int64_t most = most_pieces(of, vocabulary_);
      return part(begin, 2 * most).reshape({most, 2});
    };
    const int64_t ordered = words > 0 ? order_parts_ * words : tokens;
    b.order = {part(entries_, ordered), pieces(pieces_, ordered), part(count_, 1),
               part(touched_, touched_words(vocabulary_))};
    if (words > 0)
      b.order.own = {part(own_entries_, tokens), pieces(own_pieces_, tokens), part(own_count_, 1), words};
  }
  b.sequences.offsets = part(offsets_, sequences + 1);
  b.sequences.sequence_of = part(sequence_of_, tokens);
  b.sequences.first_rows = part(first_, sequences);
  if (padded_) b.sequences.key_lengths = part(lengths_, sequences);
  b.sequences.count = sequences;
  b.sequences.tokens = tokens;
  b.sequences.max_length = max_length_;
  return b;
}

}  // namespace glia
