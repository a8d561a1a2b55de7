// The checks that many ops share; `op` is the name that the message begins with.
#pragma once
#include "engine/autograd.h"

namespace glia {

inline void check_same(const char* op, const Var& a, const Var& b) {
  CHECK(a.shape() == b.shape() && a.dtype() == b.dtype() && &a.context() == &b.context(),
        "{}: wants two operands of one shape, dtype and device, got {} {} on {} and {} {} on {}", op, a.dtype(),
        a.shape(), a.context().device().str(), b.dtype(), b.shape(), b.context().device().str());
}

// Of tensors that are there; a kernel that is given another device's memory ends the program.
inline void check_one_context(const char* op, const Var& x, std::initializer_list<const Var*> others) {
  for (const Var* v : others)
    CHECK(!v->defined() || &v->context() == &x.context(),
          "{}: wants tensors of one context, got one on {} and one on {}", op, x.context().device().str(),
          v->context().device().str());
}

// Of x's dtype, or the float32 masters of a bfloat16 x: the products of a gradient have no other types.
inline void check_weights(const char* op, const Var& x, std::initializer_list<const Var*> weights) {
  for (const Var* w : weights)
    CHECK(!w->defined() || w->dtype() == x.dtype() || w->dtype() == accumulation_dtype(x.dtype()),
          "{}: wants weights in {}{}, got {}", op, x.dtype(), x.dtype() == DType::kBFloat16 ? " or float32" : "",
          w->dtype());
}

inline void check_index(const char* op, const char* what, const Tensor& index, const Shape& shape,
                        Context& context) {
  CHECK(index.dtype() == DType::kInt32 && index.shape() == shape && &index.context() == &context,
        "{}: wants {} int32 {} on {}, got {} {} on {}", op, what, shape, context.device().str(), index.dtype(),
        index.shape(), index.context().device().str());
}

// A vector along the last axis of x: of x's dtype, or the float32 master of a bfloat16 x.
inline void check_along_last(const char* op, const char* what, const Var& x, const Var& v) {
  CHECK(x.rank() >= 1 && v.shape() == Shape{x.size(-1)}, "{}: wants x [.., N] and {} [N], got {} and {}", op, what,
        x.shape(), v.shape());
  CHECK(v.dtype() == x.dtype() || v.dtype() == accumulation_dtype(x.dtype()), "{}: wants {} in {} or {}, got {}",
        op, what, x.dtype(), accumulation_dtype(x.dtype()), v.dtype());
  CHECK(&x.context() == &v.context(), "{}: x is on {}, {} on {}", op, x.context().device().str(), what,
        v.context().device().str());
}

// On a CPU, whose kernels write where a choice says: a router of one's own may be wrong.
inline void check_chosen(const char* op, const int32_t* chosen, int64_t pairs, int64_t experts) {
  for (int64_t i = 0; i < pairs; ++i)
    CHECK(chosen[i] < experts, "{}: wants experts below {}, got {} as choice {}", op, experts, chosen[i], i);
}

// The key of an op that draws `width` numbers a row.
inline RandomKey row_key(const char* op, RandomKey key, int64_t width) {
  CHECK(!key.first_row || (width % 4 == 0 && width < int64_t{1} << 34),
        "{}: the random numbers of a part's rows want rows of a multiple of 4, got {}", op, width);
  key.row_blocks = static_cast<uint32_t>(width / 4);
  return key;
}

// Rows of a tensor seen as a matrix [R, N] along its last axis; also where N = 0.
inline int64_t leading_rows(const Tensor& x) { return x.shape().without(-1).numel(); }

}  // namespace glia
