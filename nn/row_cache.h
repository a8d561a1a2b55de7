// What a causal model keeps of one sequence while it grows, so that each pass has the new rows alone: every layer's queries,
// keys and values, and what its router reads of earlier rows. For evaluation; nothing here has a gradient.
#pragma once
#include <functional>
#include <map>
#include <string>

#include "nn/bert_config.h"
#include "nn/pass.h"

namespace glia {

class RowCache {
 public:
  // Room for `capacity` rows, the first `border` of which are the prompt; 0: there is none.
  RowCache(Context& context, const BertConfig& config, DType compute, int64_t capacity, int64_t border = 0);

  int64_t rows() const { return rows_; }  // that earlier passes have had
  int64_t border() const { return border_; }
  // After a pass over n rows.
  void advance(int64_t n);

  // The layer's q | k | v of all rows, with those of the new ones.     of_new [n, 3H] → [rows + n, 3H]
  Tensor with_rows(int layer, const Tensor& of_new);
  // Offsets of one sequence of `length` rows.     → int32 [2]
  Tensor offsets_of(int64_t length) const;

  // What a layer's router keeps under a name: the rows so far with the new ones, [rows + n, N]; or what `make` says the first
  // time and is not asked again.
  Tensor router_rows(int layer, const std::string& name, const Tensor& of_new);
  Tensor once(int layer, const std::string& name, const std::function<Tensor()>& make);

 private:
  Tensor append(Tensor& all, const Tensor& of_new);

  Context& context_;
  int64_t capacity_, border_, rows_ = 0;
  Tensor offsets_;                                           // int32 [capacity + 1, 2]: row n is {0, n}
  std::vector<Tensor> qkv_;                                  // [L] of [capacity, 3H]
  std::map<std::pair<int, std::string>, Tensor> of_router_;  // [capacity, N], or what once() made
};

}  // namespace glia
