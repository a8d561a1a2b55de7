// The tape itself: long chains, accumulation, scopes, and what it says when it is used wrongly.
#include "engine/autograd.h"

#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/products/matmul.h"
#include "engine/ops/rows/reduce.h"
#include "tests/device.h"
#include "tests/test.h"

using namespace glia;
using glia::test::contains;
using glia::test::error_of;

namespace {

Var leaf(Context& c, const std::vector<double>& values, DType dtype = DType::kFloat32) {
  return Var::parameter(from_vector(c, values, {static_cast<int64_t>(values.size())}, dtype));
}

}  // namespace

TEST_CASE("autograd: a chain of a million nodes trains and dies cleanly") {
  Context c(Device::cpu());
  const int64_t active = c.allocator().stats().active;
  {
    const Var x = leaf(c, {2});
    Var y = x;
    for (int i = 0; i < 1000000; ++i) y = add_scalar(y, 1e-6);
    backward(sum(y));
    EXPECT(x.grad().item() == 1);
    Var abandoned = x;  // a tape that nobody walks backwards
    for (int i = 0; i < 1000000; ++i) abandoned = reshape(abandoned, {1});
  }
  EXPECT(c.allocator().stats().active == active);
}

TEST_CASE("autograd: a float32 leaf with a bfloat16 gradient buffer takes bfloat16 gradients, and no others") {
  Context c(test::device());
  const Tensor value = full(c, {2, 3}, 1.5), buffer = full(c, {2, 3}, 9, DType::kBFloat16);
  const Tensor x = full(c, {4, 3}, 1, DType::kBFloat16);
  const auto loss = [](const Var& y) { return sum(cast(y, DType::kFloat32)); };
  Var w = Var::parameter(value, buffer);
  EXPECT(w.dtype() == DType::kFloat32);
  backward(loss(linear(x, w)));
  EXPECT(w.grad().dtype() == DType::kBFloat16);
  EXPECT(w.grad().raw() == buffer.raw());
  EXPECT(buffer.to_vector<double>() == std::vector<double>(6, 4));
  w.clear_grad();
  backward(add(loss(linear(x, w)), loss(linear(x, w))));  // two consumers
  EXPECT(buffer.to_vector<double>() == std::vector<double>(6, 8));
  w.clear_grad();
  EXPECT(contains(error_of([&] { backward(sum(scale(w, 2))); }), "bfloat16"));
  EXPECT(contains(error_of([&] { backward(sum(linear(full(c, {4, 3}, 1), w))); }), "bfloat16"));
  EXPECT(contains(error_of([&] { backward(w, full(c, {2, 3}, 1)); }), "bfloat16"));
  EXPECT(!w.grad().defined());
  EXPECT(contains(error_of([&] { Var::parameter(value, zeros(c, {2, 3}, DType::kFloat64)); }), "gradient buffer"));
  EXPECT(contains(error_of([&] { Var::parameter(value, zeros(c, {3, 2}, DType::kBFloat16)); }), "gradient buffer"));
}

TEST_CASE("autograd: gradients of several consumers add up, at leaves and inside") {
  Context c(test::device());
  const Var x = leaf(c, {1, 2, 3}, DType::kFloat64);
  const Var y = scale(x, 2);
  backward(sum(add(add(mul(y, y), y), add(x, add(y, mul(x, y))))));  // 4x² + 2x + x + 2x + 2x² → 12x + 5
  EXPECT(x.grad().to_vector<double>() == std::vector<double>{17, 29, 41});
  backward(sum(x));  // a second loss adds to what is there
  EXPECT(x.grad().to_vector<double>() == std::vector<double>{18, 30, 42});
}

TEST_CASE("autograd: shared gradient tensors are never added to in place") {
  Context c(test::device());
  const Var a = leaf(c, {1, 1}), b = leaf(c, {2, 2});
  const Var s = add(a, b);  // both leaves are handed the same tensor
  backward(sum(add(s, scale(a, 10))));
  EXPECT(a.grad().to_vector<double>() == std::vector<double>{11, 11});
  EXPECT(b.grad().to_vector<double>() == std::vector<double>{1, 1});
}

TEST_CASE("autograd: a parameter's gradient lies in its own buffer") {
  Context c(test::device());
  const Tensor buffer = zeros(c, {2});
  Var x = Var::parameter(from_vector<float>(c, {1, 2}, {2}), buffer);
  backward(sum(add(mul(x, x), x)));
  EXPECT(buffer.to_vector<double>() == std::vector<double>{3, 5});
  EXPECT(x.grad().raw() == buffer.raw());
  x.clear_grad();
  EXPECT(!x.grad().defined());
  backward(sum(x));  // overwrites what the buffer held
  EXPECT(buffer.to_vector<double>() == std::vector<double>{1, 1});
}

TEST_CASE("autograd: nothing is recorded under NoGrad, nor for constants") {
  Context c(test::device());
  const Var x = leaf(c, {1, 2});
  {
    const NoGrad no_grad(c);
    EXPECT(!mul(x, x).requires_grad());
    const NoGrad nested(c);
  }
  EXPECT(mul(x, x).requires_grad());
  EXPECT(!exp(Var(x.value())).requires_grad());
}

TEST_CASE("autograd: saved tensors are freed while backward runs") {
  Context c(test::device());
  const Var x = Var::parameter(full(c, {1 << 16}, 0.5));
  const int64_t before = c.allocator().stats().active;
  Var y = x;
  for (int i = 0; i < 20; ++i) y = exp(scale(y, 0.1));
  const Var loss = sum(y);
  y = {};
  c.allocator().reset_peak();
  const int64_t forward = c.allocator().stats().active;
  backward(loss);
  EXPECT(c.allocator().stats().peak < forward + 4 * x.value().bytes());
  EXPECT(c.allocator().stats().active <= before + x.value().bytes() + 4096);  // the gradient, and the loss
}

TEST_CASE("autograd: wrong uses are named") {
  Context c(test::device());
  const Var x = leaf(c, {1, 2});
  const Var y = sum(mul(x, x));
  backward(y);
  EXPECT(contains(error_of([&] { backward(y); }), "consumed by an earlier backward()"));
  EXPECT(contains(error_of([&] { backward(sum(scale(y, 2))); }), "consumed by backward()"));
  EXPECT(contains(error_of([&] { backward(mul(x, x)); }), "a value of shape [2] needs a gradient to start from"));
  EXPECT(contains(error_of([&] { backward(Var(x.value())); }), "nothing that wants a gradient"));
  EXPECT(contains(error_of([&] { backward(mul(x, x), zeros(c, {3})); }),
                  "wants a gradient float32 [2], got float32 [3]"));
  EXPECT(contains(error_of([&] { mul(x, x).grad(); }), "only leaves keep a gradient"));
  EXPECT(contains(error_of([&] { Var::parameter(zeros(c, {2}, DType::kInt32)); }),
                  "wants a floating dtype, got int32"));

  // An op whose lambda hands over the wrong gradient is caught where it does.
  const auto wrong = [&](Tensor g) {
    const Var z = record("my_op", x.value().clone(), {x}, [g](const Tensor&, Grads& in) { in.add(0, g); });
    return error_of([&] { backward(sum(z)); });
  };
  EXPECT(contains(wrong(zeros(c, {3})), "gradient of my_op: input 0 wants float32 [2]"));
  EXPECT(contains(wrong(zeros(c, {2}, DType::kFloat64)), "got float64 [2]"));
  EXPECT(contains(wrong({}), "input 0 was given an undefined tensor"));
}

TEST_CASE("autograd: the finiteness check names the first op that made a NaN or an infinity") {
  Context c(test::device());
  c.check_finite = true;
  const Var x = leaf(c, {-1, 2});
  EXPECT(contains(error_of([&] { exp(log(scale(x, 3))); }), "log: the first op whose output is not finite"));
  EXPECT(contains(error_of([&] { exp(scale(x, 1e4)); }), "exp: the first op"));
  EXPECT(error_of([&] { exp(x); }).empty());
  c.check_finite = false;
  EXPECT(error_of([&] { log(x); }).empty());
}

TEST_CASE("allocator: out of memory says what was asked for, what is held and what to lower") {
  Context c(test::device());
  const Tensor held = zeros(c, {1 << 20});
  const std::string message = error_of([&] { empty(c, {int64_t{1} << 50}); });
  EXPECT(contains(message, "out of memory on " + c.device().str()));
  EXPECT(contains(message, "4503599627370496 bytes asked for"));
  EXPECT(contains(message, "active 4194304"));
  EXPECT(contains(message, "lower the batch size"));
  EXPECT(c.allocator().stats().active == 4194304);
  EXPECT(error_of([&] { zeros(c, {1 << 20}); }).empty());  // and it goes on
}

TEST_CASE("a joint op gets the gradient of each of its outputs, and none for those that nobody uses") {
  Context c(test::device());
  const Var x = Var::parameter(full(c, {2}, 3.0));
  // (2x, x²) with different shapes on purpose: the second is [2, 1].
  const auto both = [&] {
    return record_joint("both", {scale(x, 2).value(), square(x).value().reshape({2, 1})}, {x},
                        [v = x.value()](std::span<const Tensor> dy, Grads& in) {
                          if (dy[0].defined()) in.add(0, scale(Var(dy[0]), 2).value());
                          if (dy[1].defined()) in.add(0, scale(mul(Var(dy[1].reshape({2})), Var(v)), 2).value());
                        });
  };
  std::vector<Var> y = both();
  backward(add(sum(y[0]), scale(sum(y[1]), 10)));
  EXPECT(x.grad().to_vector<float>() == std::vector<float>{62, 62});
  Var(x).clear_grad();
  y = both();
  backward(add(sum(y[1]), sum(y[1])));  // one output twice, the other not at all
  EXPECT(x.grad().to_vector<float>() == std::vector<float>{12, 12});
  {
    const NoGrad off(c);
    EXPECT(!both()[0].requires_grad());
  }
  Var(x).clear_grad();
  std::vector<Tensor> values;  // of more outputs than one node's gradient has terms
  for (int i = 0; i < 7; ++i) values.push_back(scale(x, i).value());
  y = record_joint("seven", values, {x}, [](std::span<const Tensor> dy, Grads& in) {
    for (int i = 0; i < 7; ++i) in.add(0, scale(Var(dy[static_cast<size_t>(i)]), i).value());
  });
  Var total = y[0];
  for (size_t i = 1; i < 7; ++i) total = add(total, scale(y[i], std::pow(10.0, static_cast<double>(i))));
  backward(sum(total));
  EXPECT(x.grad().to_vector<float>() == std::vector<float>{6543210, 6543210});
}

TEST_CASE("allocator: after the first round nothing is asked of the device") {
  Context c(test::device());
  const auto round = [&](int64_t n) {
    const Var x = Var::parameter(full(c, {n}, 0.5));
    backward(sum(tanh(mul(x, x))));
  };
  round(100000);
  const int64_t calls = c.allocator().stats().system_allocations;
  for (int i = 0; i < 5; ++i) round(100000 + 3 * i);  // nearly equal sizes share size classes
  EXPECT(c.allocator().stats().system_allocations == calls);
  c.allocator().trim();
  EXPECT(c.allocator().stats().cached == 0);
}

TEST_CASE("allocator: the guard sees a write behind the end and a read of fresh memory") {
  Context c(Device::cpu());
  c.allocator().guard(true);
  {
    const Tensor x = empty(c, {3});
    EXPECT(std::isnan(x.to_vector<float>()[2]));
    x.data<float>()[3] = 1;
  }
  EXPECT(c.allocator().overwritten() == 1);
  { const Tensor x = zeros(c, {3}); }
  EXPECT(c.allocator().overwritten() == 1);
}

TEST_CASE("autograd: backward from a leaf adds to what the leaf holds, in its buffer") {
  Context c(test::device());
  const Var x = leaf(c, {2});
  backward(sum(scale(x, 3)));
  backward(x);
  EXPECT(x.grad().item() == 4);
  const Tensor buffer = full(c, {1}, 9);
  const Var y = Var::parameter(full(c, {1}, 2), buffer);
  backward(y);
  backward(y, full(c, {1}, 5));
  EXPECT(buffer.item() == 6);
  EXPECT(y.grad().same_storage(buffer));
}

TEST_CASE("autograd: a gradient that is changed in place is nobody else's") {
  Context c(test::device());
  const Var a = leaf(c, {1, 2}), b = leaf(c, {3, 4});
  const Tensor dy = full(c, {2}, 1.0);
  backward(add(a, reshape(b, {2})), dy);
  a.grad().zero();
  EXPECT(b.grad().to_vector<double>() == std::vector<double>{1, 1});
  EXPECT(dy.to_vector<double>() == std::vector<double>{1, 1});
  Context other(Device::cpu());
  EXPECT(contains(error_of([&] { backward(scale(a, 2), full(other, {2}, 1.0)); }), "two contexts"));
}
