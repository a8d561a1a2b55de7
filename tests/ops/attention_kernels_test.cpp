// The CPU attention kernels against attention written as plain loops, and their gradients against differences.
#include <omp.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include "engine/ops/attention/attention_kernels.h"
#include "tests/test.h"

namespace glia {
namespace {

struct Setup {
  std::vector<int> lengths;
  int heads, head_size;
  bool causal;
  double dropout;
  std::vector<int32_t> key_lengths;  // empty: none
  int tail = 3;
};

template <class T> struct Case {
  std::vector<int32_t> offsets{0};
  std::vector<int32_t> key_lengths;
  uint32_t step = 7;
  AttentionArgs args;
  std::vector<T> qkv, dout;

  explicit Case(const Setup& s) : key_lengths(s.key_lengths) {
    for (int n : s.lengths) offsets.push_back(offsets.back() + n), args.max_length = std::max(args.max_length, n);
    args.rows = offsets.back() + s.tail;
    args.sequences = static_cast<int>(s.lengths.size());
    args.heads = s.heads, args.head_size = s.head_size, args.causal = s.causal, args.dropout = s.dropout;
    args.key = {.seed = 42, .purpose = purpose::kTest + 1, .step = &step};
    args.offsets = offsets.data();
    args.key_lengths = key_lengths.empty() ? nullptr : key_lengths.data();
    const auto fill = [&](std::vector<T>& x, int64_t width, uint64_t salt) {
      x.resize(args.rows * width);
      for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<T>(random_normal(1 + salt, purpose::kTest, 0, i));
      // The tail is poisoned: whoever reads it shows.
      for (size_t i = offsets.back() * width; i < x.size(); ++i) x[i] = static_cast<T>(NAN);
    };
    fill(qkv, 3 * args.hidden(), 0);
    fill(dout, args.hidden(), 1);
  }
  Case(const Case&) = delete;
};

template <class T> struct Result {
  std::vector<T> out, dqkv;
  std::vector<Accumulator<T>> lse;
};

constexpr int kGuard = 8;

template <class T> Result<T> run(const Case<T>& c) {
  const int64_t t = c.args.rows, h = c.args.hidden();
  Result<T> r;
  r.out.assign(t * h + kGuard, static_cast<T>(-77.0f));
  r.dqkv.assign(3 * t * h + kGuard, static_cast<T>(-77.0f));
  r.lse.assign(t * c.args.heads + kGuard, -77);
  cpu::attention_forward<T>(c.args, c.qkv.data(), r.out.data(), r.lse.data());
  cpu::attention_backward<T>(c.args, c.qkv.data(), r.out.data(), r.lse.data(), c.dout.data(), r.dqkv.data());
  for (int i = 0; i < kGuard; ++i) {
    EXPECT(static_cast<double>(r.out[t * h + i]) == -77.0);
    EXPECT(static_cast<double>(r.dqkv[3 * t * h + i]) == -77.0);
    EXPECT(static_cast<double>(r.lse[t * c.args.heads + i]) == -77.0);
  }
  return r;
}

// Loops in double, straight from the definition; the gradient by the chain rule through each line.
template <class T> Result<double> reference(const Case<T>& c) {
  const AttentionArgs& a = c.args;
  const int64_t h = a.hidden(), d = a.head_size;
  Result<double> r;
  r.out.assign(a.rows * h, 0), r.dqkv.assign(3 * a.rows * h, 0), r.lse.assign(a.rows * a.heads, 0);
  const auto at = [&](int64_t row, int part, int head, int64_t x) {
    return static_cast<double>(c.qkv[row * 3 * h + part * h + head * d + x]);
  };
  for (int b = 0; b < a.sequences; ++b) {
    const int64_t start = c.offsets[b], n = c.offsets[b + 1] - start;
    const int64_t keys = a.key_lengths ? std::min<int64_t>(a.key_lengths[b], n) : n;
    for (int head = 0; head < a.heads; ++head) {
      for (int64_t i = 0; i < n; ++i) {
        const int64_t seen = a.causal ? std::min(keys, i + 1) : keys;
        std::vector<double> s(seen), m(seen, 1.0), p(seen), dp(seen);
        double sum = 0;
        for (int64_t j = 0; j < seen; ++j) {
          for (int64_t x = 0; x < d; ++x) s[j] += at(start + i, 0, head, x) * at(start + j, 1, head, x);
          s[j] /= std::sqrt(static_cast<double>(d));
          sum += std::exp(s[j]);
          const uint64_t element = (static_cast<uint64_t>(start + i) * a.heads + head) * 1024 + j;
          const uint32_t bits = random_bits(a.key.seed, a.key.purpose, *a.key.step, element);
          if (a.dropout > 0) m[j] = bits >= bernoulli_threshold(a.dropout) ? 1 / (1 - a.dropout) : 0;
        }
        r.lse[(start + i) * a.heads + head] = seen ? std::log(sum) : -std::numeric_limits<double>::infinity();
        double delta = 0;
        for (int64_t j = 0; j < seen; ++j) {
          p[j] = std::exp(s[j]) / sum;
          for (int64_t x = 0; x < d; ++x) {
            const double g = static_cast<double>(c.dout[(start + i) * h + head * d + x]);
            r.out[(start + i) * h + head * d + x] += p[j] * m[j] * at(start + j, 2, head, x);
            dp[j] += g * at(start + j, 2, head, x) * m[j];
            r.dqkv[(start + j) * 3 * h + 2 * h + head * d + x] += p[j] * m[j] * g;
          }
          delta += p[j] * dp[j];
        }
        for (int64_t j = 0; j < seen; ++j) {
          const double ds = p[j] * (dp[j] - delta) / std::sqrt(static_cast<double>(d));
          for (int64_t x = 0; x < d; ++x) {
            r.dqkv[(start + i) * 3 * h + head * d + x] += ds * at(start + j, 1, head, x);
            r.dqkv[(start + j) * 3 * h + h + head * d + x] += ds * at(start + i, 0, head, x);
          }
        }
      }
    }
  }
  return r;
}

// ‖x − y‖ / ‖y‖; a NaN makes it NaN, which fails every comparison. Equal infinities count as equal.
template <class A, class B> double distance(const std::vector<A>& x, const std::vector<B>& y) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < y.size(); ++i) {
    const double a = static_cast<double>(x[i]), b = static_cast<double>(y[i]);
    if (std::isinf(b) && a == b) continue;
    difference += (a - b) * (a - b), norm += b * b;
  }
  return std::sqrt(difference / std::max(norm, 1e-300));
}

const std::vector<Setup>& setups() {
  static const std::vector<Setup> all = {
      {{5}, 1, 4, false, 0.0, {}},
      {{1, 2, 15, 16, 17, 33}, 2, 64, false, 0.0, {}},
      {{1, 2, 15, 16, 17, 33}, 2, 64, true, 0.1, {}},
      {{7, 3, 20}, 3, 5, false, 0.25, {4, 3, 0}},
      {{7, 0, 20}, 3, 96, true, 0.25, {4, 0, 17}},
      {{130, 9}, 2, 7, false, 0.1, {}, 0},
      {{}, 2, 8, false, 0.1, {}},
  };
  return all;
}

TEST_CASE("attention kernels: values and gradients against plain loops, in every dtype") {
  for (const Setup& s : setups()) {
    const Case<double> c64(s);
    const Result<double> want64 = reference(c64), got64 = run(c64);
    EXPECT(distance(got64.out, want64.out) < 1e-13);
    EXPECT(distance(got64.lse, want64.lse) < 1e-13);
    EXPECT(distance(got64.dqkv, want64.dqkv) < 1e-13);

    const Case<float> c32(s);
    const Result<double> want32 = reference(c32);
    const Result<float> got32 = run(c32);
    EXPECT(distance(got32.out, want32.out) < 1e-6);
    EXPECT(distance(got32.lse, want32.lse) < 1e-6);
    EXPECT(distance(got32.dqkv, want32.dqkv) < 1e-6);

    const Case<bfloat16> c16(s);
    const Result<double> want16 = reference(c16);
    const Result<bfloat16> got16 = run(c16);
    EXPECT(distance(got16.out, want16.out) < 2.5e-3);  // 2^-9 rounding of the result, mostly
    EXPECT(distance(got16.lse, want16.lse) < 1e-6);
    EXPECT(distance(got16.dqkv, want16.dqkv) < 4e-3);
  }
}

TEST_CASE("attention kernels: the gradient is the derivative of the forward pass (central differences, float64)") {
  for (const Setup& s : {Setup{{1, 6, 9}, 2, 5, false, 0.3, {}}, Setup{{6, 9}, 2, 4, true, 0.0, {4, 9}}}) {
    Case<double> c(s);
    const Result<double> got = run(c);
    const int64_t h = c.args.hidden(), live = c.offsets.back();
    double worst = 0;
    for (int64_t i = 0; i < live * 3 * h; i += 3) {
      const double x = c.qkv[i], e = 1e-5;
      double loss[2];
      for (int side = 0; side < 2; ++side) {
        c.qkv[i] = side ? x + e : x - e;
        std::vector<double> out(c.args.rows * h), lse(c.args.rows * c.args.heads);
        cpu::attention_forward<double>(c.args, c.qkv.data(), out.data(), lse.data());
        loss[side] = std::inner_product(out.begin(), out.begin() + live * h, c.dout.begin(), 0.0);
      }
      c.qkv[i] = x;
      worst = std::max(worst, std::abs((loss[1] - loss[0]) / (2 * e) - got.dqkv[i]));
    }
    EXPECT(worst < 1e-8);
  }
}

TEST_CASE("attention kernels: the same bits for any number of threads") {
  const Case<float> c({{40, 3, 17, 64, 1, 0, 25}, 3, 64, false, 0.1, {}});
  const int before = omp_get_max_threads();
  omp_set_num_threads(1);
  const Result<float> one = run(c);
  for (int threads : {2, 3, 5}) {
    omp_set_num_threads(threads);
    const Result<float> many = run(c);
    EXPECT(std::memcmp(one.out.data(), many.out.data(), one.out.size() * 4) == 0);
    EXPECT(std::memcmp(one.dqkv.data(), many.dqkv.data(), one.dqkv.size() * 4) == 0);
  }
  omp_set_num_threads(before);
}

TEST_CASE("attention kernels: capacity beyond the last row changes nothing but zeros") {
  const Setup tight{{11, 30}, 2, 64, false, 0.2, {}, 0};
  Setup roomy = tight;
  roomy.tail = 19;
  const Case<float> a(tight), b(roomy);
  const Result<float> x = run(a), y = run(b);
  const size_t live = a.offsets.back() * a.args.hidden();
  EXPECT(std::memcmp(x.out.data(), y.out.data(), live * 4) == 0);
  EXPECT(std::memcmp(x.dqkv.data(), y.dqkv.data(), 3 * live * 4) == 0);
  for (size_t i = live; i < y.out.size() - kGuard; ++i) REQUIRE(y.out[i] == 0.0f);
  for (size_t i = 3 * live; i < y.dqkv.size() - kGuard; ++i) REQUIRE(y.dqkv[i] == 0.0f);
}

TEST_CASE("attention kernels: another step draws another mask; dropout keeps the expected share") {
  Case<float> c({{64, 64, 64, 64}, 4, 8, false, 0.1, {}});
  const Result<float> first = run(c);
  c.step = 8;
  EXPECT(std::memcmp(first.out.data(), run(c).out.data(), first.out.size() * 4) != 0);
  // With v = 1 and q = 0 the output is the share of kept keys over 1 − p.
  std::fill(c.qkv.begin(), c.qkv.end(), 0.0f);
  const int64_t h = c.args.hidden();
  for (int64_t i = 0; i < c.args.rows; ++i) std::fill_n(c.qkv.begin() + i * 3 * h + 2 * h, h, 1.0f);
  const Result<float> shares = run(c);
  const int64_t live = c.offsets.back() * h;
  const double mean =
      std::accumulate(shares.out.begin(), shares.out.begin() + live, 0.0) / static_cast<double>(live);
  EXPECT(std::abs(mean - 1.0) < 0.01);  // 65,536 draws: one standard deviation is 0.0013
}

TEST_CASE("attention kernels: bad sizes are named") {
  Case<float> c({{4, 5}, 2, 4, false, 0.0, {}});
  const auto message = [&] { return test::error_of([&] { run(c); }); };
  c.args.max_length = 4;
  EXPECT(test::contains(message(), "sequence 1 has 5 rows"));
  c.args.max_length = 2000;
  EXPECT(test::contains(message(), "at most 1024 rows, got 2000"));
  c.args.max_length = 5, c.args.head_size = 256;
  EXPECT(test::contains(message(), "head size in [1, 128], got 256"));
  c.args.head_size = 4, c.args.dropout = 1.0;
  EXPECT(test::contains(message(), "probability in [0, 1), got 1"));
}

}  // namespace
}  // namespace glia
