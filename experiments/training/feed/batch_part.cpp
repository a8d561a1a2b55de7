#include "experiments/training/feed/batch_part.h"

#include <algorithm>
#include <memory>

#include "engine/core/check.h"
#include "experiments/training/feed/batch_buffer.h"

namespace glia {
namespace {

// Host memory for one whole batch.
class WholeBatch {
 public:
  explicit WholeBatch(const BatchFeed& feed) {
    const auto tokens = static_cast<size_t>(feed.tokens), sequences = static_cast<size_t>(feed.sequences),
               masked = static_cast<size_t>(masked_room(feed.masking, feed.tokens));
    for (auto* rows : {&ids_}) rows->resize(tokens);
    for (auto* each : {&lengths_, &labels_, &borders_}) each->resize(sequences);
    for (auto* rows : {&read_, &targets_}) rows->resize(masked);
    offsets_.resize(sequences + 1);
    view.ids = ids_.data(), view.offsets = offsets_.data(), view.lengths = lengths_.data();
    view.labels = labels_.data();
    if (feed.borders) view.borders = borders_.data();
    if (masked > 0) view.read = read_.data(), view.targets = targets_.data();
    view.token_capacity = feed.tokens, view.sequence_capacity = feed.sequences;
  }
  WholeBatch(const WholeBatch&) = delete;
  WholeBatch& operator=(const WholeBatch&) = delete;

  BatchView view;
  int64_t most_words = 0;  // distinct ids of a part, of the batches so far

 private:
  std::vector<int32_t> ids_, offsets_, lengths_, labels_, borders_, read_, targets_;
};

// The sequences that have rows: a batch of texts ends in some that have none.
int64_t real_sequences(const BatchView& whole) {
  return std::lower_bound(whole.offsets, whole.offsets + whole.sequences, static_cast<int32_t>(whole.tokens)) -
         whole.offsets;
}

struct Division {
  CutParts cut;
  bool ranks_order;
  int rank, ranks;
};

// Before sequence begin[r] part r begins, where part r − 1 ends.     → [ranks + 1]
std::vector<int64_t> cuts_of(const BatchView& whole, const Division& d) {
  const int64_t sequences = real_sequences(whole), ranks = d.ranks;
  std::vector<int64_t> begin(static_cast<size_t>(ranks + 1), sequences);
  const int32_t *first = whole.offsets, *end = whole.offsets + sequences;
  // Where there are enough of them each part has one, however long others are.
  const int64_t least = sequences >= ranks ? 1 : 0;
  begin[0] = 0;
  for (int64_t r = 1; r < ranks; ++r) {
    int64_t& at = begin[static_cast<size_t>(r)];
    const int64_t token = whole.tokens * r;  // times the ranks, as all tokens are here
    switch (d.cut) {
      case CutParts::kSequences: at = sequences * r / ranks; break;
      case CutParts::kFirstTokens:
        at = std::lower_bound(first, end, static_cast<int32_t>(token / ranks)) - first;
        break;
      case CutParts::kTokens:
        at = std::partition_point(first, end, [&](int32_t offset) { return offset * ranks < token; }) - first;
        if (at > 0 && token - first[at - 1] * ranks < first[at] * ranks - token) --at;
        at = std::min(std::max(at, begin[static_cast<size_t>(r - 1)] + least), sequences - least * (ranks - r));
        break;
    }
  }
  return begin;
}

// The masked rows before a token.
int64_t read_before(const BatchView& whole, int64_t token) {
  return std::lower_bound(whole.read, whole.read + whole.read_rows, static_cast<int32_t>(token)) - whole.read;
}

// The distinct ids [begin, end), ascending.
std::vector<int32_t> distinct_words(const int32_t* begin, const int32_t* end, int64_t vocabulary) {
  std::vector<bool> there(static_cast<size_t>(vocabulary), false);
  for (const int32_t* id = begin; id < end; ++id)
    if (*id >= 0 && *id < vocabulary) there[static_cast<size_t>(*id)] = true;
  std::vector<int32_t> words;
  for (int32_t id = 0; id < vocabulary; ++id)
    if (there[static_cast<size_t>(id)]) words.push_back(id);
  return words;
}

// RowOrder::own of the part's ids, and the order of the distinct ones of all parts in the places that they have when they are gathered.
// `most`, the distinct ids of the largest part so far, has the room: it soon stays the same, and so do the captured steps.
void order_words_of_parts(const BatchView& whole, const std::vector<int64_t>& begin, int64_t& most,
                          BatchView& out) {
  std::vector<std::vector<int32_t>> words;
  for (size_t r = 0; r + 1 < begin.size(); ++r)
    words.push_back(distinct_words(whole.ids + whole.offsets[begin[r]], whole.ids + whole.offsets[begin[r + 1]],
                                   out.vocabulary));
  for (const auto& of_part : words) most = std::max(most, static_cast<int64_t>(of_part.size()));
  out.part.most_words = most;
  const int64_t room = word_room(most);
  std::vector<int32_t> gathered(words.size() * static_cast<size_t>(room), -1);
  for (size_t r = 0; r < words.size(); ++r)
    std::ranges::copy(words[r], gathered.begin() + static_cast<int64_t>(r) * room);
  order_rows(gathered.data(), static_cast<int64_t>(gathered.size()), out.vocabulary, out.order);

  std::vector<int32_t> touched(static_cast<size_t>(touched_words(out.vocabulary)));
  RowOrderView own = out.own_order;
  own.touched = touched.data();
  order_rows(out.ids, out.tokens, out.vocabulary, own);
  int32_t row = -1, id = -1;
  for (int32_t* piece = own.pieces; piece < own.pieces + 2 * *own.count; piece += 2) {
    if (piece[0] != id) id = piece[0], ++row;
    piece[0] = row;
  }
}

void take_part(WholeBatch& batch, const Division& d, BatchView& out) {
  const BatchView& whole = batch.view;
  const std::vector<int64_t> cuts = cuts_of(whole, d);
  const int64_t first = cuts[static_cast<size_t>(d.rank)], last = cuts[static_cast<size_t>(d.rank + 1)];
  const int32_t begin = whole.offsets[first], end = whole.offsets[last];
  const int64_t count = last - first;
  CHECK(count <= out.sequence_capacity && end - begin <= out.token_capacity,
        "part of a batch: wants room for {} sequences and {} tokens, got {} and {}", count, end - begin,
        out.sequence_capacity, out.token_capacity);
  std::copy(whole.ids + begin, whole.ids + end, out.ids);
  for (int64_t b = 0; b <= count; ++b) out.offsets[b] = whole.offsets[first + b] - begin;
  const auto copy = [&](const int32_t* from, int32_t* to) { std::copy(from + first, from + last, to); };
  copy(whole.lengths, out.lengths), copy(whole.labels, out.labels);
  if (out.borders) copy(whole.borders, out.borders);
  out.tokens = end - begin, out.sequences = count;
  PartOfBatch& part = out.part;
  part = {};
  part.tokens_before = begin, part.all_tokens = whole.tokens;
  part.read_before = whole.read ? read_before(whole, begin) : first;
  part.all_read = whole.read ? whole.read_rows : cuts.back();
  for (size_t r = 0; r + 1 < cuts.size(); ++r) {
    const int64_t from = whole.offsets[cuts[r]], to = whole.offsets[cuts[r + 1]];
    part.most_tokens = std::max(part.most_tokens, to - from);
    if (d.cut == CutParts::kTokens) part.most_sequences = std::max(part.most_sequences, cuts[r + 1] - cuts[r]);
    if (whole.read) part.most_read = std::max(part.most_read, read_before(whole, to) - read_before(whole, from));
  }
  if (whole.read) {
    const int64_t before = part.read_before;
    out.read_rows = read_before(whole, end) - before;
    std::transform(whole.read + before, whole.read + before + out.read_rows, out.read,
                   [&](int32_t row) { return row - begin; });
    std::copy_n(whole.targets + before, out.read_rows, out.targets);
  }
  if (!out.vocabulary) return;
  if (!d.ranks_order) return order_rows(out.ids, out.tokens, out.vocabulary, out.order);
  order_words_of_parts(whole, cuts, batch.most_words, out);
}

}  // namespace

int64_t launched_sequences(const BatchView& view, int64_t most) {
  if (view.part.most_sequences == 0) return most;
  return std::min(most, round_up(view.part.most_sequences, view.read ? 64 : 8));
}

BatchFeed part_of(const BatchFeed& whole, int rank, int ranks, int64_t bucket, bool exact, bool ranks_order) {
  if (ranks == 1) return whole;
  const bool masked = whole.masking.rate > 0;
  if (whole.sequences < ranks)
    fail_input("ranks: expected at most as many as a batch has sequences, {}, got {}", whole.sequences, ranks);
  const CutParts cut = !exact ? CutParts::kTokens : masked ? CutParts::kFirstTokens : CutParts::kSequences;
  BatchFeed part = whole;
  if (cut == CutParts::kSequences) {
    part.sequences = whole.sequences * (rank + 1) / ranks - whole.sequences * rank / ranks;
    part.tokens = std::min(whole.tokens, round_up((whole.sequences + ranks - 1) / ranks * whole.longest, bucket));
  } else {
    // A sequence more than an equal part; of short ones there may be nearly all.
    part.tokens = std::min(whole.tokens, round_up(whole.tokens / ranks + 1 + whole.longest, bucket));
    // Of few tokens all may be masked, while the whole batch has its rate of them.
    if (masked)
      part.masking.rows = std::min(round_up(masked_room(whole.masking, whole.tokens), kReadBucket),
                                   round_up(part.tokens, kReadBucket));
  }
  if (ranks_order) part.order_parts = ranks;
  const Division division{cut, ranks_order, rank, ranks};
  part.from = [whole, division](int64_t first) -> FillBatch {
    return [fill = whole.from(first), batch = std::make_shared<WholeBatch>(whole), division](BatchView& out) {
      if (!fill(batch->view)) return false;
      take_part(*batch, division, out);
      return true;
    };
  };
  return part;
}

}  // namespace glia
