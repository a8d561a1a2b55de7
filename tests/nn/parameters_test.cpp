#include "nn/parameters.h"
#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/products/matmul.h"
#include "engine/ops/rows/reduce.h"
#include "tests/nn/helpers.h"

namespace glia::test {
namespace {

TEST_CASE("parameters: decayed ones come first, every tensor starts on a multiple of 64, padding is zero") {
  Context context(test_device());
  ParameterSet set;
  Parameter* w = set.add("w", {3, 7}, Init::normal(2), true);
  Parameter* b = set.add("b", {7}, Init::one(), false);
  Parameter* u = set.add("u", {65}, Init::normal(1), true);
  set.materialise(context, 42);
  EXPECT(w->offset == 0);
  EXPECT(u->offset == 64);
  EXPECT(set.decayed_size() == 192);
  EXPECT(b->offset == 192);
  EXPECT(set.flat_size() == 256);
  EXPECT(set.count() == 21 + 7 + 65);
  const std::vector<double> flat = values(set.values());
  for (int i = 21; i < 64; ++i) EXPECT(flat[i] == 0);
  for (int i = 64 + 65; i < 192; ++i) EXPECT(flat[i] == 0);
  for (int i = 192; i < 199; ++i) EXPECT(flat[i] == 1);
  EXPECT(flat[0] != 0);
  EXPECT(flat[64 + 64] != 0);
}

TEST_CASE("parameters: the numbers depend on seed and name, not on the other modules or the device") {
  Context context(test_device()), cpu(Device::cpu());
  const auto draw = [](Context& c, uint64_t seed, bool more) {
    ParameterSet set;
    if (more) set.add("another", {1000}, Init::normal(1), true);
    const Parameter* w = set.add("w", {100}, Init::normal(0.02), true);
    set.materialise(c, seed);
    return values(w->var.value());
  };
  EXPECT(draw(context, 42, false) == draw(context, 42, true));
  EXPECT(draw(context, 42, false) == draw(cpu, 42, false));
  EXPECT(draw(context, 42, false) != draw(context, 43, false));
}

TEST_CASE(
    "parameters: a gradient lies in the arena; one that no path reached is zeroed before the optimiser sees it") {
  Context context(test_device());
  ParameterSet set;
  Parameter* a = set.add("a", {4}, Init::one(), true);
  Parameter* b = set.add("b", {4}, Init::one(), false);
  set.materialise(context, 1);
  backward(sum(mul(scale(a->var, 3), b->var)));
  EXPECT(values(set.gradients())[0] == 3);
  EXPECT(values(set.gradients())[64] == 3);
  set.clear_gradients();
  backward(sum(square(a->var)));
  set.complete_gradients();
  EXPECT(values(set.gradients())[3] == 2);
  EXPECT(values(set.gradients())[64] == 0);
}

TEST_CASE("parameters: bfloat16 gradients lie first; values, and everything without them, stay as they were") {
  Context context(test_device());
  std::vector<double> drawn[2];
  int64_t bytes[2];
  for (const bool low : {false, true}) {
    ParameterSet set;
    Parameter* table = set.add("table", {10, 8}, Init::normal(1), true);
    Parameter* b = set.add("b", {7}, Init::one(), false);
    Parameter* w = set.add("w", {1024, 1024}, Init::normal(1), true, true);
    Parameter* unused = set.add("unused", {3, 8}, Init::normal(1), true, true);
    const int64_t before = context.allocator().stats().active;
    set.materialise(context, 42, DType::kFloat32, true, low);
    bytes[low] = context.allocator().stats().active - before;
    drawn[low] = values(w->var.value());
    EXPECT(table->offset == (low ? 1024 * 1024 + 64 : 0));
    EXPECT(w->offset == (low ? 0 : 128));
    EXPECT(set.decayed_size() == 128 + 1024 * 1024 + 64);
    EXPECT(b->offset == set.decayed_size());
    EXPECT(set.low_size() == (low ? 1024 * 1024 + 64 : 0));
    EXPECT(set.low_gradients().defined() == low);
    EXPECT(set.gradients().bytes() == 4 * (set.flat_size() - set.low_size()));
    if (low) EXPECT(set.low_gradients().bytes() == 2 * set.low_size());
    // Each gradient lies where gradient() says, and what no path reached is zeroed there.
    if (low) fill(set.low_gradients(), 7);
    fill(set.gradients(), 7);
    const Tensor x = full(context, {2, 1024}, 1, DType::kBFloat16);
    backward(
        add(sum(cast(linear(x, w->var), DType::kFloat32)), add(sum(scale(table->var, 3)), sum(scale(b->var, 5)))));
    set.complete_gradients();
    EXPECT(w->var.grad().dtype() == (low ? DType::kBFloat16 : DType::kFloat32));
    EXPECT(w->var.grad().raw() == set.gradient(*w).raw());
    EXPECT(values(set.gradient(*w)) == std::vector<double>(1024 * 1024, 2));
    EXPECT(values(set.gradient(*unused)) == std::vector<double>(24, 0));
    EXPECT(values(set.gradient(*table)) == std::vector<double>(80, 3));
    EXPECT(values(set.gradient(*b)) == std::vector<double>(7, 5));
    EXPECT(set.gradient(*table).dtype() == DType::kFloat32);
  }
  EXPECT(drawn[0] == drawn[1]);
  // 2 bytes a weight less, but for the allocator's rounding of blocks.
  EXPECT(std::abs(bytes[0] - bytes[1] - 2 * 1024 * 1024) < 2 * 1024 * 1024 / 4);
  ParameterSet set;
  set.add("w", {2}, Init::zero(), true, true);
  EXPECT(contains(error_of([&] { set.materialise(context, 1, DType::kFloat32, false, true); }), "bfloat16 copy"));
}

TEST_CASE("parameters: a name that is taken, and declaring too late, are errors") {
  Context context(test_device());
  ParameterSet set;
  set.add("w", {2}, Init::zero(), true);
  EXPECT(contains(error_of([&] { set.add("w", {2}, Init::zero(), true); }), "'w' was declared twice"));
  set.materialise(context, 1);
  EXPECT(contains(error_of([&] { set.add("v", {2}, Init::zero(), true); }), "after materialise"));
  EXPECT(contains(error_of([&] { set.get("x"); }), "no 'x'"));
}

}  // namespace
}  // namespace glia::test
