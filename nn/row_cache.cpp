#include "nn/row_cache.h"

namespace glia {

RowCache::RowCache(Context& context, const BertConfig& config, DType compute, int64_t capacity, int64_t border)
    : context_(context), capacity_(capacity), border_(border) {
  CHECK(config.causal, "row cache: wants a causal model");
  CHECK(capacity >= 1 && capacity <= config.positions, "row cache: wants 1 to {} rows, got {}", config.positions,
        capacity);
  CHECK(border >= 0 && border <= capacity, "row cache: wants a border within {} rows, got {}", capacity, border);
  std::vector<int32_t> pairs;
  for (int64_t n = 0; n <= capacity; ++n) pairs.push_back(0), pairs.push_back(static_cast<int32_t>(n));
  offsets_ = from_vector(context, pairs, {capacity + 1, 2});
  for (int64_t l = 0; l < config.layers; ++l)
    qkv_.push_back(zeros(context, {capacity, 3 * config.hidden}, compute));
}

Tensor RowCache::append(Tensor& all, const Tensor& of_new) {
  const int64_t end = rows_ + of_new.size(0);
  CHECK(end <= capacity_, "row cache: wants room for {} rows, has it for {}", end, capacity_);
  all.rows(rows_, end).copy_from(of_new);
  return all.rows(0, end);
}

void RowCache::advance(int64_t n) {
  CHECK(n >= 1 && rows_ + n <= capacity_, "row cache: wants at most {} rows, got {} more behind {}", capacity_, n,
        rows_);
  rows_ += n;
}

Tensor RowCache::with_rows(int layer, const Tensor& of_new) {
  return append(qkv_.at(static_cast<size_t>(layer)), of_new);
}

Tensor RowCache::offsets_of(int64_t length) const { return offsets_.rows(length, length + 1).reshape({2}); }

Tensor RowCache::router_rows(int layer, const std::string& name, const Tensor& of_new) {
  Tensor& all = of_router_[{layer, name}];
  if (!all.defined()) all = zeros(context_, of_new.shape().with(0, capacity_), of_new.dtype());
  return append(all, of_new);
}

Tensor RowCache::once(int layer, const std::string& name, const std::function<Tensor()>& make) {
  Tensor& kept = of_router_[{layer, name}];
  if (!kept.defined()) kept = make();
  return kept;
}

}  // namespace glia
