// The edges of what ops take: extents of 0, choices and offsets that point outside, shapes that nothing can count.
#include <cmath>
#include <limits>

#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/loss/vocabulary_loss.h"
#include "engine/ops/moe/choose.h"
#include "engine/ops/moe/moe.h"
#include "engine/ops/products/matmul.h"
#include "engine/ops/rows/reduce.h"
#include "engine/ops/rows/rows.h"
#include "tests/device.h"
#include "tests/test.h"

using namespace glia;
using glia::test::contains;
using glia::test::error_of;

namespace {

using Values = std::vector<double>;

Tensor ints(Context& c, const std::vector<int32_t>& values) {
  return from_vector(c, values, {static_cast<int64_t>(values.size())});
}
Var parameter(Context& c, const Shape& shape, DType dtype = DType::kFloat32) {
  return Var::parameter(random_normal(c, shape, 1, 1, purpose::kTest, 0, dtype));
}
Values values(const Tensor& t) { return t.to_vector<double>(); }

}  // namespace

// Blocks come full of NaN: what is not written shows.
TEST_CASE("edges: what has no rows or no columns is written all the same") {
  Context c(Device::cpu());
  c.allocator().guard(true);
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kBFloat16}) {
    INFO(std::string(name(dtype)));
    {
      const Var x = parameter(c, {2, 0}, dtype), w = parameter(c, {3, 0}, dtype), b = parameter(c, {3}, dtype);
      const Var y = linear(x, w, b);
      EXPECT(values(y.value().rows(1, 2).reshape({3})) == values(b.value()));
      backward(y, full(c, {2, 3}, 1, dtype));
      EXPECT((x.grad().shape() == Shape{2, 0} && w.grad().shape() == Shape{3, 0}));
      EXPECT(values(b.grad()) == Values(3, 2.0));
    }
    {
      const Var x = parameter(c, {2, 5}, dtype), w = parameter(c, {0, 5}, dtype);
      backward(linear(x, w), empty(c, {2, 0}, dtype));
      EXPECT(values(x.grad()) == Values(10, 0.0));
    }
    EXPECT(values(gather_rows(empty(c, {0, 3}, dtype), ints(c, {-1})).value()) == Values(3, 0.0));
    EXPECT(std::isnan(values(gather_rows(empty(c, {0, 1}, dtype), ints(c, {0})).value())[0]));
    {
      const Var x = parameter(c, {2, 3}, dtype);
      backward(scatter_rows(x, ints(c, {-1, -1}), 0), empty(c, {0, 3}, dtype));
      EXPECT(values(x.grad()) == Values(6, 0.0));
    }
    const DType wide = accumulation_dtype(dtype);
    {
      const Var x = parameter(c, {0, 4}, dtype), w = parameter(c, {3, 4}, wide), b = parameter(c, {3}, wide);
      const Sequences none = make_sequences(c, {});
      backward(router_logits(x, w, b, {}, ContextMode::kNone, none), empty(c, {0, 3}, wide));
      EXPECT(values(w.grad()) == Values(12, 0.0));
      EXPECT(values(b.grad()) == Values(3, 0.0));
    }
    {
      const Var x = parameter(c, {0, 3}, dtype), w = parameter(c, {4, 3}, dtype), b = parameter(c, {4}, wide);
      const VocabularyLoss loss = vocabulary_loss(x, w, b, ints(c, {}));
      EXPECT(loss.loss.value().item() == 0);
      backward(loss.loss);
      EXPECT(values(w.grad()) == Values(12, 0.0));
      EXPECT(values(b.grad()) == Values(4, 0.0));
    }
  }
  EXPECT(c.allocator().overwritten() == 0);
}

TEST_CASE("edges: a choice or an offset that points outside is an error, not somebody else's memory") {
  Context c(Device::cpu());
  const Tensor chosen = from_vector<int32_t>(c, {0, 7, -1, 1}, {2, 2});
  EXPECT(contains(error_of([&] { make_dispatch(chosen, 3, 1); }),
                  "make_dispatch: wants experts below 3, got 7 as choice 1"));
  EXPECT(contains(error_of([&] { expert_counts(chosen, 7, DType::kFloat32); }), "experts below 7, got 7"));
  EXPECT(contains(error_of([&] {
                    load_losses(full(c, {2, 2}, 0.5), chosen, 2, make_sequences(c, {2}));
                  }),
                  "experts below 2, got 7"));
  const Var x = parameter(c, {3, 2}), w = parameter(c, {2, 3, 2});
  for (const std::vector<int32_t>& offsets : {std::vector<int32_t>{0, 2, 9}, {0, 2, 1}, {-1, 2, 3}})
    EXPECT(contains(error_of([&] { grouped_linear(x, w, {}, ints(c, offsets)); }),
                    "wants offsets that ascend from 0 to at most 3 rows"));
  const Var wide = parameter(c, {3, 2}, DType::kFloat64);
  EXPECT(contains(error_of([&] { linear(x, wide); }), "linear: wants weights in float32, got float64"));
  EXPECT(contains(error_of([&] {
                    linear(wide, zeros(c, {4, 2}));
                  }),
                  "linear: wants weights in float64, got float32"));
  EXPECT(linear(cast(x, DType::kBFloat16), zeros(c, {4, 2})).dtype() == DType::kBFloat16);
  Context other(Device::cpu());
  EXPECT(contains(error_of([&] { linear(x, zeros(other, {3, 2})); }), "linear: wants tensors of one context"));
  EXPECT(contains(error_of([&] { matmul(x, zeros(other, {2, 3})); }), "matmul: wants tensors of one context"));
}

TEST_CASE("edges: shapes that cannot be counted and numbers that are no int32 are errors") {
  Context c(Device::cpu());
  const auto uncounted = [](auto&& f) { return contains(error_of(f), "more elements than can be counted"); };
  EXPECT(uncounted([&] { empty(c, {int64_t{1} << 32, int64_t{1} << 32}); }));  // 2⁶⁴ counts as 0
  EXPECT(uncounted([&] { empty(c, {int64_t{1} << 60, 2}); }));                 // 2⁶¹ has no number of bytes
  EXPECT(uncounted([&] { zeros(c, {4, 4}).reshape({int64_t{1} << 33, int64_t{1} << 31, 4}); }));
  EXPECT(contains(error_of([&] { make_sequences(c, {2147483647, 1}); }), "more than 2147483647 rows"));
  const Tensor ten = from_vector<double>(c, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, {10});
  EXPECT(contains(error_of([&] { ten.rows(1, 10).copy_from(ten.rows(0, 9)); }),
                  "copy_from: wants two views that do not overlap"));
  ten.rows(5, 10).copy_from(ten.rows(0, 5));
  ten.rows(0, 5).copy_from(ten.rows(0, 5));
  EXPECT(values(ten) == Values{0, 1, 2, 3, 4, 0, 1, 2, 3, 4});
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const double v : {nan, 2147483648.0, -2147483649.0}) {
    EXPECT(contains(error_of([&] { from_vector<double>(c, {v}, {1}, DType::kInt32); }), "no int32"));
    EXPECT(contains(error_of([&] { full(c, {1}, v, DType::kInt32); }), "no int32"));
    EXPECT(contains(error_of([&] { full(c, {1}, v, DType::kFloat64).to_vector<int32_t>(); }), "no int32"));
  }
  EXPECT(full(c, {1}, -2147483648.0, DType::kInt32).to_vector<int32_t>()[0] == std::numeric_limits<int32_t>::min());
}
