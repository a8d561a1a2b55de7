// AdamW's moments in bfloat16: rounding without bias, what it errs by, the same bits however the work is cut, and checkpoints.
#include <omp.h>

#include <cmath>
#include <limits>

#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/rows/reduce.h"
#include "experiments/training/feed/data_source.h"
#include "experiments/training/presets.h"
#include "experiments/training/training.h"
#include "nn/optimizer.h"
#include "nn/weights/checkpoint.h"
#include "tests/nn/helpers.h"
#include "tests/temporary_folder.h"
#include "tests/training/flag_words.h"

namespace glia::test {
namespace {

TEST_CASE("adam state: over all random bits the mean of what is kept is the number itself") {
  for (const float x : {1.0f, 1.00001f, -3.1415927f, 1e-30f, 6.1e-39f, 0.0f, 65504.0f, 1.999f}) {
    double sum = 0;
    for (uint32_t bits = 0; bits < 1u << 16; ++bits) {
      const auto y = static_cast<double>(static_cast<float>(round_at_random(x, bits | 0xabcd0000u)));
      EXPECT(std::abs(y - static_cast<double>(x)) <= std::abs(static_cast<double>(x)) * 0x1p-7 + 1e-40);
      sum += y;
    }
    EXPECT(sum / 65536 == doctest::Approx(static_cast<double>(x)).epsilon(1e-12));
  }
  for (const uint32_t bits : {0u, 1u, 0xffffu}) {
    EXPECT(std::isinf(static_cast<float>(round_at_random(INFINITY, bits))));
    EXPECT(std::isnan(static_cast<float>(round_at_random(NAN, bits))));
    EXPECT(std::isnan(static_cast<float>(round_at_random(-std::numeric_limits<float>::quiet_NaN(), bits))));
  }
}

AdamWBuffers buffers(Context& context, int64_t n, DType moments, DType dtype = DType::kFloat32) {
  AdamWBuffers b;
  b.p = random_normal(context, {n}, 1, 3, purpose::kTest, 50, dtype);
  b.m = zeros(context, {n}, moments), b.v = zeros_like(b.m);
  b.g = zeros(context, {n}, dtype);
  b.copy = zeros(context, {n}, DType::kBFloat16);
  b.decayed = n / 128 * 64;
  b.partial = zeros(context, {norm_chunks(n)}, DType::kFloat64);
  b.factors = zeros(context, {adamw_factor::kCount}, DType::kFloat64);
  b.ticket = zeros(context, {1}, DType::kInt32);
  return b;
}

struct Errors {
  double mean = 0, rms = 0;
};
Errors relative_errors(const Tensor& a, const Tensor& exact) {
  const std::vector<double> x = values(a), y = values(exact);
  double sum = 0, squares = 0, size = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    sum += x[i] - y[i], squares += (x[i] - y[i]) * (x[i] - y[i]), size += y[i] * y[i];
  }
  const double scale = std::sqrt(size / static_cast<double>(x.size())), n = static_cast<double>(x.size());
  return {sum / n / scale, std::sqrt(squares / n) / scale};
}

// A thousand steps, of which the last six hundred have gradients a tenth as large: what rounding to nearest would not follow.
TEST_CASE(
    "adam state: moments and weights stay beside a float64 optimiser's, without bias, where nearest rounding is stuck") {
  constexpr int64_t n = 64 * 320;
  Context context(test_device(), 11);
  AdamWBuffers small = buffers(context, n, DType::kBFloat16),
               exact = buffers(context, n, DType::kFloat64, DType::kFloat64);
  exact.p.copy_from(cast(small.p, DType::kFloat64));
  const std::vector<double> begin = values(exact.p);
  AdamWOptions o;
  o.learning_rate = 1e-3, o.clip = 0;
  double nearest = 0;  // v of one element with g² = 1, later 0.01, rounded to nearest
  for (uint32_t step = 0; step < 1000; ++step) {
    const double size = step < 400 ? 1 : 0.1;
    exact.g = random_normal(context, {n}, size, 5, purpose::kTest, step, DType::kFloat64);
    small.g.copy_from(cast(exact.g, DType::kFloat32));
    context.set_step(step);
    adamw_step(small, o);
    adamw_step(exact, o);
    nearest = static_cast<double>(bfloat16(static_cast<float>(0.999 * nearest + 0.001 * size * size)));
  }
  const Errors m = relative_errors(small.m, exact.m), v = relative_errors(small.v, exact.v);
  INFO("m ", m.mean, " ", m.rms, " v ", v.mean, " ", v.rms, " nearest ", nearest);
  // √n below an element's error is a mean's: five times that.
  EXPECT(std::abs(m.mean) < 5 * m.rms / std::sqrt(double{n}));
  EXPECT(std::abs(v.mean) < 5 * v.rms / std::sqrt(double{n}) + 1e-4);
  // A rounding's variance is u² / 4 at most, u at most 2^−7, and decays with β².
  const auto bound = [](double beta) { return 0x1p-8 / std::sqrt(1 - beta * beta); };
  EXPECT(m.rms < bound(o.beta1));
  EXPECT(v.rms < bound(o.beta2));
  EXPECT(v.rms > 1e-4);  // or nothing was rounded
  double mean_v = 0;
  for (const double x : values(exact.v)) mean_v += x / n;
  EXPECT(nearest > 1.3 * mean_v);
  double moved = 0, apart = 0;
  const std::vector<double> p = values(small.p), q = values(exact.p);
  for (size_t i = 0; i < q.size(); ++i)
    moved += (q[i] - begin[i]) * (q[i] - begin[i]), apart += (p[i] - q[i]) * (p[i] - q[i]);
  EXPECT(std::sqrt(apart / moved) < bound(o.beta2) / 2);  // a step has √v below
  EXPECT(values(small.copy) == values(cast(small.p, DType::kBFloat16)));
}

TEST_CASE("adam state: the same bits at any number of threads, for whole buffers and for parts of them") {
  constexpr int64_t n = 64 * 1000;
  const auto train = [&](int threads, uint64_t seed, bool parts) {
    omp_set_num_threads(threads);
    Context context(test_device(), seed);
    AdamWBuffers b = buffers(context, n, DType::kBFloat16);
    std::vector<AdamWBuffers> of = {b};
    if (parts) {  // two that share b's weights, each with the moments of its own elements
      constexpr int64_t cut = 64 * 333;
      of = {b, b};
      of[0].spans = {{0, cut, 0}}, of[0].m = b.m.rows(0, cut), of[0].v = b.v.rows(0, cut);
      of[1].spans = {{cut, n, 0}}, of[1].m = b.m.rows(cut, n), of[1].v = b.v.rows(cut, n);
      of[1].factors = zeros_like(b.factors), of[1].ticket = zeros_like(b.ticket);
    }
    for (uint32_t step = 0; step < 5; ++step) {
      b.g.copy_from(random_normal(context, {n}, 1, 5, purpose::kTest, step));
      context.set_step(step);
      for (const AdamWBuffers& one : of) adamw_step(one, {});
    }
    std::vector<double> all;
    for (const Tensor& t : {b.p, b.m, b.v, b.copy}) {
      const std::vector<double> x = values(t);
      all.insert(all.end(), x.begin(), x.end());
    }
    return all;
  };
  const int before = omp_get_max_threads();
  const std::vector<double> one = train(1, 42, false);
  EXPECT(train(3, 42, false) == one);
  EXPECT(train(1, 42, true) == one);
  EXPECT(train(1, 43, false) != one);  // the seed is read
  omp_set_num_threads(before);
}

TEST_CASE("adam state: wrong tensors, and weights that are not float32, are errors") {
  Context context(test_device());
  AdamWBuffers b = buffers(context, 256, DType::kBFloat16);
  b.v = zeros(context, {256});
  EXPECT(contains(error_of([&] { adamw_step(b, {}); }), "wants moments"));
  b = buffers(context, 256, DType::kBFloat16, DType::kFloat64);
  EXPECT(contains(error_of([&] { adamw_step(b, {}); }), "wants float32 beside moments of bfloat16, got float64"));
  ParameterSet set;
  set.add("w", {8, 8}, Init::normal(1), true);
  set.materialise(context, 1, DType::kFloat64);
  AdamWOptions o;
  o.bfloat16_moments = true;
  EXPECT(contains(error_of([&] { AdamW optimiser(set, o); }), "(--adam-state) want weights of float32"));
}

TEST_CASE("adam state: a checkpoint has the moments' two bytes, and moments of the other kind are refused") {
  const TemporaryFolder folder("adam-state");
  Context context(test_device(), 42);
  ParameterSet set;
  Parameter* w = set.add("w", {100, 7}, Init::normal(1), true);
  set.materialise(context, 1);
  AdamWOptions o;
  AdamW wide(set, o);
  o.bfloat16_moments = true;
  AdamW small(set, o);
  const auto step = [&](AdamW& optimiser, uint32_t i) {
    set.clear_gradients();
    backward(sum(mul(w->var, random_normal(context, w->shape, 1, 3, purpose::kTest, i))));
    context.set_step(i);
    optimiser.step();
  };
  step(wide, 0), step(small, 0);
  save_checkpoint(folder / "wide", set, &wide, {}, {1, 42, "", ""});
  save_checkpoint(folder / "small", set, &small, {}, {1, 42, "", ""});
  EXPECT(SafetensorsFile(folder / "small").entry("adamw.v.w").dtype == "BF16");
  const std::vector<double> m = values(small.m());
  EXPECT(contains(error_of([&] { load_checkpoint(folder / "wide", set, &small, {}); }),
                  "expected moments of bfloat16 (--adam-state), got a wider type"));
  EXPECT(contains(error_of([&] { load_checkpoint(folder / "small", set, &wide, {}); }),
                  "expected moments of float32 (--adam-state), got bfloat16"));
  EXPECT(values(small.m()) == m);
  EXPECT(small.moment_bytes() * 2 == wide.moment_bytes());
  step(small, 1);
  load_checkpoint(folder / "small", set, &small, {});
  EXPECT(values(small.m()) == m);
}

TEST_CASE("adam state: on a GPU, replayed graphs have the bits of eager steps, and the CPU agrees") {
  if (cuda_device_count() == 0) SKIP("no GPU here");
  for (const char* precision : {"float32", "bfloat16"}) {
    INFO(precision);
    std::vector<std::string> words = words_of(
        "run_all " + std::string(kTinyFlags) +
        "--layers 2 --progress off --synthetic-rows 160 --synthetic-test-rows 48 --vocab-size 400 --batch 8 --epochs 3 --hidden 64 "
        "--heads 1 --ffn 128 --bucket 128 --lr 0.003 --log-every 100 --adam-state bfloat16 --precision " +
        precision);
    const Options o =
        resolve(parse_command_line(static_cast<int>(words.size()), pointers_to(words).data(), Flag::kRunAll, ""));
    const Dataset data = load_data(o);
    const RunModel run = run_model(o, configuration("astrocyte-hierarchical"));
    const auto losses = [&](Device device, bool graphs) {
      Options with = o;
      with.graphs = graphs;
      Context context(device, 42);
      Trainer trainer(context, data, with, run, 42);
      EXPECT(trainer.optimiser().moments() == DType::kBFloat16);
      for (int i = 0; i < 40; ++i) trainer.step();
      std::vector<double> all;
      for (const StepLosses& s : trainer.read_losses()) all.push_back(s.loss);
      return all;
    };
    const auto eager = losses(Device::cuda(), false);
    EXPECT(losses(Device::cuda(), true) == eager);
    const auto cpu = losses(Device::cpu(), false);
    for (size_t i = 0; i < 5; ++i)
      EXPECT(eager[i] == doctest::Approx(cpu[i]).epsilon(std::string(precision) == "float32" ? 1e-3 : 3e-2));
  }
}

}  // namespace
}  // namespace glia::test
