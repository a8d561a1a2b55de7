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

 private:
  std::vector<int32_t> ids_, offsets_, lengths_, labels_, borders_, read_, targets_;
};

struct Bounds {
  int64_t first, end;  // sequences
};
Bounds bounds_of(const BatchView& whole, bool by_tokens, int rank, int ranks) {
  const auto bound = [&](int64_t r) -> int64_t {
    if (!by_tokens) return whole.sequences * r / ranks;
    if (r == ranks) return whole.sequences;
    const auto token = static_cast<int32_t>(whole.tokens * r / ranks);
    return std::lower_bound(whole.offsets, whole.offsets + whole.sequences, token) - whole.offsets;
  };
  return {bound(rank), bound(rank + 1)};
}

// The masked rows before a token.
int64_t read_before(const BatchView& whole, int64_t token) {
  return std::lower_bound(whole.read, whole.read + whole.read_rows, static_cast<int32_t>(token)) - whole.read;
}

// The ids of all parts, −1 where none is, in the places that the parts have when they are gathered.
std::vector<int32_t> gathered_ids(const BatchView& whole, bool by_tokens, int ranks, int64_t room) {
  std::vector<int32_t> ids(static_cast<size_t>(ranks * room), -1);
  for (int r = 0; r < ranks; ++r) {
    const Bounds part = bounds_of(whole, by_tokens, r, ranks);
    std::copy(whole.ids + whole.offsets[part.first], whole.ids + whole.offsets[part.end], ids.begin() + r * room);
  }
  return ids;
}

struct Division {
  bool by_tokens, ranks_order;
  int rank, ranks;
  int64_t bucket;
};

void take_part(const BatchView& whole, const Division& d, BatchView& out) {
  const auto [by_tokens, ranks_order, rank, ranks, bucket] = d;
  const Bounds own = bounds_of(whole, by_tokens, rank, ranks);
  const int32_t begin = whole.offsets[own.first], end = whole.offsets[own.end];
  const int64_t count = own.end - own.first, room = by_tokens ? out.sequence_capacity : count;
  CHECK(count <= out.sequence_capacity && end - begin <= out.token_capacity,
        "part of a batch: wants room for {} sequences and {} tokens, got {} and {}", count, end - begin,
        out.sequence_capacity, out.token_capacity);
  std::copy(whole.ids + begin, whole.ids + end, out.ids);
  for (int64_t b = 0; b <= room; ++b) out.offsets[b] = whole.offsets[own.first + std::min(b, count)] - begin;
  const auto copy = [&](const int32_t* from, int32_t* to) {
    std::copy(from + own.first, from + own.end, to);
    std::fill(to + count, to + room, 0);
  };
  copy(whole.lengths, out.lengths), copy(whole.labels, out.labels);
  if (out.borders) copy(whole.borders, out.borders);
  out.tokens = end - begin, out.sequences = room;
  PartOfBatch& part = out.part;
  part = {begin,
          whole.read ? read_before(whole, begin) : own.first,
          whole.tokens,
          whole.read ? whole.read_rows : whole.sequences,
          0,
          0};
  for (int r = 0; r < ranks; ++r) {
    const Bounds other = bounds_of(whole, by_tokens, r, ranks);
    const int64_t first = whole.offsets[other.first], last = whole.offsets[other.end];
    part.most_tokens = std::max(part.most_tokens, last - first);
    if (whole.read) part.most_read = std::max(part.most_read, read_before(whole, last) - read_before(whole, first));
  }
  if (whole.read) {
    const int64_t first = part.read_before;
    out.read_rows = read_before(whole, end) - first;
    std::transform(whole.read + first, whole.read + first + out.read_rows, out.read,
                   [&](int32_t row) { return row - begin; });
    std::copy_n(whole.targets + first, out.read_rows, out.targets);
  }
  if (!out.vocabulary) return;
  if (!ranks_order) return order_rows(out.ids, out.tokens, out.vocabulary, out.order);
  const std::vector<int32_t> ids = gathered_ids(whole, by_tokens, ranks, round_up(part.most_tokens, bucket));
  order_rows(ids.data(), static_cast<int64_t>(ids.size()), out.vocabulary, out.order);
}

}  // namespace

BatchFeed part_of(const BatchFeed& whole, int rank, int ranks, int64_t bucket, bool ranks_order) {
  if (ranks == 1) return whole;
  const bool by_tokens = whole.masking.rate > 0;
  if (whole.sequences < ranks)
    fail_input("ranks: expected at most as many as a batch has sequences, {}, got {}", whole.sequences, ranks);
  BatchFeed part = whole;
  const int64_t most = (whole.sequences + ranks - 1) / ranks;
  if (by_tokens) {
    // A sequence more than an equal part, which begins before its end.
    part.tokens = std::min(whole.tokens, round_up(whole.tokens / ranks + 1 + whole.longest, bucket));
    // Of few tokens all may be masked, while the whole batch has its rate of them.
    part.masking.rows = std::min(round_up(masked_room(whole.masking, whole.tokens), kReadBucket),
                                 round_up(part.tokens, kReadBucket));
  } else {
    part.sequences = whole.sequences * (rank + 1) / ranks - whole.sequences * rank / ranks;
    part.tokens = std::min(whole.tokens, round_up(most * whole.longest, bucket));
  }
  if (ranks_order) part.order_parts = ranks;
  const Division division{by_tokens, ranks_order, rank, ranks, bucket};
  part.from = [whole, division](int64_t first) -> FillBatch {
    return [fill = whole.from(first), batch = std::make_shared<WholeBatch>(whole), division](BatchView& out) {
      if (!fill(batch->view)) return false;
      take_part(batch->view, division, out);
      return true;
    };
  };
  return part;
}

}  // namespace glia
