#include "data/batches/batching.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "engine/core/check.h"
#include "engine/core/random/rng.h"

namespace glia {

void fill_targets(const Masking& masking, uint32_t epoch, uint32_t batch, int64_t sequences, const int32_t* spans,
                  BatchView& view) {
  if (masking.rate <= 0) return;
  CHECK(view.read && view.targets, "batch: words that are to be predicted want room");
  CHECK(masking.sequences == 0 || masking.sequences >= sequences,
        "batch: wants labels of at most {} sequences, got {} sequences", masking.sequences, sequences);
  for (int64_t b = 0; b < masking.sequences; ++b) {
    view.read[b] = b < sequences ? view.offsets[b] : -1;
    view.targets[b] = b < sequences ? view.labels[b] : -1;
  }
  int32_t *read = view.read + masking.sequences, *targets = view.targets + masking.sequences;
  view.read_rows = masking.sequences;
  view.read_rows +=
      masking.next_words
          ? find_next_words(view.ids, view.offsets, spans, view.borders, sequences, read, targets)
          : mask_words(masking, epoch, batch, view.ids, view.offsets, view.lengths, sequences, read, targets);
}

BatchPlan::BatchPlan(const TokenSplit& split, const BatchOptions& options) : split_(split), options_(options) {
  CHECK(options.batch_size > 0, "batch plan: wants a batch size of at least 1, got {}", options.batch_size);
  CHECK(options.epoch >= 0 && options.epoch < (int64_t{1} << 32), "batch plan: wants a 32-bit epoch, got {}",
        options.epoch);
  CHECK(options.layout == BatchLayout::kPacked || options.pad_id >= 0,
        "batch plan: the padded layout wants a [PAD] token, the vocabulary has none (pad id {})", options.pad_id);
  if (options.shuffle) {
    order_ =
        random_permutation(split.size(), options.seed, purpose::kShuffle, static_cast<uint32_t>(options.epoch));
  } else {
    order_.resize(static_cast<size_t>(split.size()));
    std::iota(order_.begin(), order_.end(), 0);
  }
  CHECK(options.batches_a_step > 0, "batch plan: wants at least 1 batch a step, got {}", options.batches_a_step);
  if (options.drop_last)
    order_.resize(order_.size() - order_.size() % static_cast<size_t>(options.batch_size * options.batches_a_step));
  for (size_t first = 0; first < order_.size(); first += static_cast<size_t>(options.batch_size)) {
    const size_t last = std::min(order_.size(), first + static_cast<size_t>(options.batch_size));
    int64_t tokens = 0;
    for (size_t i = first; i < last; ++i) {
      const int64_t length = split.length(order_[i]);
      if (options.layout == BatchLayout::kPadded)
        CHECK(length <= options.padded_length, "batch plan: row {} has {} tokens, more than the padded length {}",
              order_[i], length, options.padded_length);
      tokens += options.layout == BatchLayout::kPadded ? options.padded_length : length;
    }
    CHECK(tokens <= INT32_MAX, "batch plan: {} tokens in a batch do not fit 32-bit offsets", tokens);
    tokens_.push_back(tokens);
  }
}

int64_t BatchPlan::tokens(int64_t batch) const {
  CHECK(batch >= 0 && batch < batches(), "batch plan: wants a batch below {}, got {}", batches(), batch);
  return tokens_[static_cast<size_t>(batch)];
}

int64_t BatchPlan::max_tokens() const {
  return tokens_.empty() ? 0 : *std::max_element(tokens_.begin(), tokens_.end());
}

int64_t BatchPlan::total_tokens() const { return std::accumulate(tokens_.begin(), tokens_.end(), int64_t{0}); }

std::span<const int32_t> BatchPlan::rows(int64_t batch) const {
  CHECK(batch >= 0 && batch < batches(), "batch plan: wants a batch below {}, got {}", batches(), batch);
  const size_t first = static_cast<size_t>(batch * options_.batch_size);
  return std::span(order_).subspan(first,
                                   std::min(static_cast<size_t>(options_.batch_size), order_.size() - first));
}

void BatchPlan::fill(int64_t batch, BatchView& out) const {
  const std::span<const int32_t> rows = this->rows(batch);
  const auto sequences = static_cast<int64_t>(rows.size());
  CHECK(out.token_capacity >= tokens(batch) && out.sequence_capacity >= sequences,
        "batch plan: batch {} wants room for {} tokens and {} sequences, got {} and {}", batch, tokens(batch),
        sequences, out.token_capacity, out.sequence_capacity);
  const bool padded = options_.layout == BatchLayout::kPadded;
  int64_t at = 0;
  for (int64_t b = 0; b < sequences; ++b) {
    const int64_t row = rows[b], length = split_.length(row), room = padded ? options_.padded_length : length;
    std::memcpy(out.ids + at, split_.ids.data() + split_.offsets[row],
                static_cast<size_t>(length) * sizeof(int32_t));
    std::fill(out.ids + at + length, out.ids + at + room, options_.pad_id);
    out.offsets[b] = static_cast<int32_t>(at);
    out.lengths[b] = static_cast<int32_t>(length);
    out.labels[b] = split_.labels[row];
    if (out.borders) out.borders[b] = split_.borders.empty() ? 0 : split_.borders[static_cast<size_t>(row)];
    at += room;
  }
  out.offsets[sequences] = static_cast<int32_t>(at);
  out.tokens = at;
  out.sequences = sequences;
  fill_targets(options_.masking, static_cast<uint32_t>(options_.epoch), static_cast<uint32_t>(batch), sequences,
               out.lengths, out);
  if (out.vocabulary) order_rows(out.ids, at, out.vocabulary, out.order);
}

PackedBatch BatchPlan::make(int64_t batch) const {
  PackedBatch made;
  const auto t = static_cast<size_t>(tokens(batch)), b = static_cast<size_t>(sequences(batch));
  made.ids.resize(t), made.offsets.resize(b + 1), made.lengths.resize(b), made.labels.resize(b);
  BatchView view;
  view.ids = made.ids.data(), view.offsets = made.offsets.data(), view.lengths = made.lengths.data();
  view.labels = made.labels.data();
  view.token_capacity = static_cast<int64_t>(t), view.sequence_capacity = static_cast<int64_t>(b);
  fill(batch, view);
  made.tokens = view.tokens, made.sequences = view.sequences;
  return made;
}

std::vector<BatchPlan> plan_run(const TokenSplit& split, BatchOptions options, int64_t epochs) {
  std::vector<BatchPlan> plans;
  plans.reserve(static_cast<size_t>(epochs));
  for (options.epoch = 0; options.epoch < epochs; ++options.epoch) plans.emplace_back(split, options);
  return plans;
}

int64_t max_tokens(const std::vector<BatchPlan>& plans) {
  int64_t most = 0;
  for (const BatchPlan& plan : plans) most = std::max(most, plan.max_tokens());
  return most;
}

FillBatch fill_from(std::span<const BatchPlan> plans, int64_t first_batch) {
  return [plans, batch = first_batch, plan = size_t{0}](BatchView& view) mutable {
    while (plan < plans.size() && batch >= plans[plan].batches()) batch = 0, ++plan;
    if (plan == plans.size()) return false;
    plans[plan].fill(batch++, view);
    return true;
  };
}

Prefetcher::Prefetcher(std::span<const BatchPlan> plans, std::vector<BatchView> slots, int64_t first_batch)
    : Prefetcher(fill_from(plans, first_batch), std::move(slots)) {}

Prefetcher::Prefetcher(FillBatch fill, std::vector<BatchView> slots)
    : fill_(std::move(fill)), slots_(std::move(slots)) {
  CHECK(!slots_.empty(), "prefetcher: wants at least one slot, got none");
  for (int64_t i = static_cast<int64_t>(slots_.size()) - 1; i >= 0; --i) free_.push_back(i);
  thread_ = std::thread([this] { work(); });
}

Prefetcher::~Prefetcher() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Prefetcher::work() {
  try {
    for (int64_t batch = 0;; ++batch) {
      int64_t slot;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return stop_ || !free_.empty(); });
        if (stop_) return;
        slot = free_.back();
        free_.pop_back();
      }
      BatchView view = slots_[slot];  // the slot is this thread's until it is announced
      if (!fill_(view)) break;
      {
        const std::lock_guard lock(mutex_);
        ready_.push_back({batch, slot, view});
      }
      changed_.notify_all();
    }
  } catch (...) {
    const std::lock_guard lock(mutex_);
    error_ = std::current_exception();
  }
  {
    const std::lock_guard lock(mutex_);
    finished_ = true;
  }
  changed_.notify_all();
}

std::optional<Prefetcher::Ready> Prefetcher::next() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return !ready_.empty() || finished_; });
  if (!ready_.empty()) {
    const Ready first = ready_.front();
    ready_.erase(ready_.begin());
    return first;
  }
  if (error_) std::rethrow_exception(error_);
  return std::nullopt;
}

void Prefetcher::release(int64_t slot) {
  {
    const std::lock_guard lock(mutex_);
    CHECK(slot >= 0 && slot < static_cast<int64_t>(slots_.size()) &&
              std::count(free_.begin(), free_.end(), slot) == 0,
          "prefetcher: slot {} is not in use", slot);
    free_.push_back(slot);
  }
  changed_.notify_all();
}

}  // namespace glia
