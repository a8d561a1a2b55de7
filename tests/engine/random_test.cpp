// Random numbers as tensors: the same bits on both devices, and the distributions they claim.
#include <cmath>

#include "engine/core/random/rng_words.h"
#include "engine/ops/elementwise/dropout.h"
#include "engine/ops/elementwise/random_fill.h"
#include "tests/device.h"
#include "tests/test.h"

using namespace glia;

namespace {

UniformFill fill_of(double low, double high, uint32_t step) {
  UniformFill f;
  f.low = low, f.high = high, f.seed = 0x123456789abcull, f.purpose = purpose::kTest, f.step = step;
  return f;
}

}  // namespace

TEST_CASE("random: the device's Philox gives the host's bits") {
  Context c(test::device());
  const Tensor bits = empty(c, {1003}, DType::kInt32);
  fill_bits(bits, UniformFill{});
  const auto words = bits.to_vector<int32_t>();
  EXPECT(static_cast<uint32_t>(words[0]) == 0x6627e8d5u);  // Philox 4x32-10's known answer for key 0, counter 0
  EXPECT(static_cast<uint32_t>(words[3]) == 0x9b00dbd8u);
  const UniformFill f = fill_of(0, 1, 7);
  fill_bits(bits, f);
  const auto drawn = bits.to_vector<int32_t>();
  for (int i = 0; i < 1003; ++i)
    REQUIRE(static_cast<uint32_t>(drawn[i]) == random_bits(f.seed, f.purpose, f.step, i));
}

TEST_CASE("random: many words at a time are the words one by one") {
  std::vector<uint32_t> words(4 * 37);
  random_words(99, 5, 6, (uint64_t{1} << 32) - 10, 37, words.data());  // the counter's low half runs over
  for (uint64_t i = 0; i < words.size(); ++i)
    REQUIRE(words[i] == random_bits(99, 5, 6, 4 * ((uint64_t{1} << 32) - 10) + i));
}

TEST_CASE("random: uniform, normal and Bernoulli fills are the host's numbers, to the bit, in every dtype") {
  Context c(test::device()), host(Device::cpu());
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kBFloat16}) {
    const Tensor there = empty(c, {77, 13}, dtype), here = empty(host, {77, 13}, dtype);
    const NormalFill normal{0.5, 11, purpose::kTest, 2, false};
    fill_normal(there, normal), fill_normal(here, normal);
    EXPECT(there.to_vector<double>() == here.to_vector<double>());
    EXPECT(there.to_vector<double>() ==
           random_normal(host, {77, 13}, 0.5, 11, purpose::kTest, 2, dtype).to_vector<double>());
    fill_uniform(there, fill_of(-3, 5, 1)), fill_uniform(here, fill_of(-3, 5, 1));
    EXPECT(there.to_vector<double>() == here.to_vector<double>());
    fill_bernoulli(there, 0.2, fill_of(0, 1, 3)), fill_bernoulli(here, 0.2, fill_of(0, 1, 3));
    EXPECT(there.to_vector<double>() == here.to_vector<double>());
  }
}

TEST_CASE("random: moments of the fills") {
  Context c(test::device());
  const Tensor x = empty(c, {200000});
  const auto moments = [&] {
    double mean = 0, square = 0;
    for (double v : x.to_vector<double>()) mean += v, square += v * v;
    return std::pair{mean / 200000, square / 200000};
  };
  fill_uniform(x, fill_of(-1, 3, 0));
  EXPECT(std::abs(moments().first - 1) < 0.01);
  EXPECT(std::abs(moments().second - (1 + 16.0 / 12)) < 0.03);
  fill_bernoulli(x, 0.3, fill_of(0, 1, 0));
  EXPECT(std::abs(moments().first - 0.3) < 0.005);
  fill_normal(x, {2, 1, purpose::kTest, 0, false});
  EXPECT(std::abs(moments().first) < 0.02);
  EXPECT(std::abs(moments().second - 4) < 0.06);
}

TEST_CASE("dropout: drops its share, scales the rest, and draws anew with the step") {
  Context c(test::device(), 42);
  const Var x(full(c, {1000, 100}, 1));
  const auto values = [&] { return dropout(x, 0.1, c.random_key(purpose::kDropout)).value().to_vector<float>(); };
  const auto first = values();
  double dropped = 0;
  for (float v : first) {
    dropped += v == 0;
    REQUIRE((v == 0 || v == 1 / 0.9f));
  }
  EXPECT(std::abs(dropped / 1e5 - 0.1) < 0.005);
  EXPECT(values() == first);
  c.set_step(1);
  EXPECT(values() != first);
  c.set_step(0);
  EXPECT(values() == first);
}
