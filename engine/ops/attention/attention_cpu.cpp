// Attention over packed sequences on the CPU: one task a (sequence, head), so results do not depend on the threads.
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "engine/core/check.h"
#include "engine/core/clones.h"
#include "engine/ops/attention/attention_kernels.h"
#include "engine/ops/elementwise/dropout_words.h"

// a · b + c on vectors becomes one instruction; g++ 12 contracts nothing under the build's -ffp-contract=on.
#pragma GCC optimize("fp-contract=fast")

namespace glia {

void check_attention_args(const AttentionArgs& a) {
  CHECK(a.rows >= 0 && a.sequences >= 0 && a.heads >= 1, "attention: wants T >= 0, B >= 0, A >= 1, got {}, {}, {}",
        a.rows, a.sequences, a.heads);
  CHECK(a.head_size >= 1 && a.head_size <= kAttentionMaxHeadSize, "attention: wants a head size in [1, {}], got {}",
        kAttentionMaxHeadSize, a.head_size);
  CHECK(a.max_length >= 0 && a.max_length <= kAttentionMaxLength,
        "attention: wants sequences of at most {} rows, got {}", kAttentionMaxLength, a.max_length);
  CHECK(a.dropout >= 0.0 && a.dropout < 1.0, "attention: wants a dropout probability in [0, 1), got {}", a.dropout);
  CHECK(a.offsets != nullptr, "attention: wants offsets [B + 1], got none");
}

namespace cpu {
namespace {

// Rows of all work buffers are padded with zeros to a multiple of a 64-byte vector (two instructions on CPUs
// without AVX-512): no inner loop has a remainder.
template <class F> constexpr int kLanes = 64 / static_cast<int>(sizeof(F));
template <class F> constexpr int padded(int n) { return (n + kLanes<F> - 1) / kLanes<F> * kLanes<F>; }

template <class F> struct VectorOf {
  typedef F type __attribute__((vector_size(64), aligned(sizeof(F)), may_alias));
};
template <class F> using Vector = typename VectorOf<F>::type;

// C[R, 1 vector] = A B for one block, or += where `add`; R rows of accumulators stay in registers.
template <int R, class F>
[[gnu::always_inline]] inline void gemm_block(int k, const F* a, int a_row, int a_k, const F* b, int ldb, F* c,
                                              int ldc, bool add) {
  Vector<F> sum[R] = {};
  for (int x = 0; x < k; ++x) {
    const Vector<F> line = *reinterpret_cast<const Vector<F>*>(b + static_cast<int64_t>(x) * ldb);
    for (int r = 0; r < R; ++r) sum[r] += a[static_cast<int64_t>(r) * a_row + static_cast<int64_t>(x) * a_k] * line;
  }
  for (int r = 0; r < R; ++r) {
    auto* to = reinterpret_cast<Vector<F>*>(c + static_cast<int64_t>(r) * ldc);
    *to = add ? *to + sum[r] : sum[r];
  }
}

// Terms of a sum that are added one after another. Longer sums are sums of such: the error of one long chain in float
// grows past what the plain implementation's is. Up to 128 keys stay one chain, whose bits older results have.
constexpr int kPart = 64;
inline int part_of_rows(int n) { return n <= 2 * kPart ? 2 * kPart : kPart; }

// C[m, n] = A[m, k] B[k, n] in parts of the sum: element (i, x) of A at a[i·a_row + x·a_k], so a transposed A costs
// nothing; n is padded.
template <class F>
GLIA_CLONES void gemm(int m, int n, int k, int part, const F* a, int a_row, int a_k, const F* b, int ldb, F* c,
                      int ldc) {
  constexpr int kRows = 6;  // accumulators: 12 of 16 registers in halves
  int x = 0;
  do {
    const int terms = std::min(part, k - x);
    const F *ax = a + static_cast<int64_t>(x) * a_k, *bx = b + static_cast<int64_t>(x) * ldb;
    for (int j = 0; j < n; j += kLanes<F>) {
      int i = 0;
      for (; i + kRows <= m; i += kRows)
        gemm_block<kRows>(terms, ax + static_cast<int64_t>(i) * a_row, a_row, a_k, bx + j, ldb,
                          c + static_cast<int64_t>(i) * ldc + j, ldc, x > 0);
      for (; i + 2 <= m; i += 2)
        gemm_block<2>(terms, ax + static_cast<int64_t>(i) * a_row, a_row, a_k, bx + j, ldb,
                      c + static_cast<int64_t>(i) * ldc + j, ldc, x > 0);
      for (; i < m; ++i)
        gemm_block<1>(terms, ax + static_cast<int64_t>(i) * a_row, a_row, a_k, bx + j, ldb,
                      c + static_cast<int64_t>(i) * ldc + j, ldc, x > 0);
    }
    x += terms;
  } while (x < k);
}

// exp for x <= 0 in straight-line float arithmetic, so that a loop over it vectorises; error below 2 ulp, and 0
// below −87.
[[gnu::always_inline]] inline float exp_nonpositive(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 · 2^23: adding it rounds to an integer
  const float y = x < -87.0f ? -87.0f : x;
  const float shifted = y * 1.44269504f + kRound, n = shifted - kRound;
  const float r = (y - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts, |r| <= 0.35
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const int32_t exponent = static_cast<int32_t>(n);
  const float scale = std::bit_cast<float>((exponent + 127) << 23);
  return x < -87.0f ? 0.0f : p * scale;
}
[[gnu::always_inline]] inline double exp_nonpositive(double x) { return std::exp(x); }

// Maximum and sum of n padded elements, lane by lane: the compiler may not reorder a plain loop's additions.
template <class F> GLIA_CLONES F largest(const F* x, int n) {
  Vector<F> lanes = *reinterpret_cast<const Vector<F>*>(x);
  for (int j = kLanes<F>; j < n; j += kLanes<F>) {
    const Vector<F> y = *reinterpret_cast<const Vector<F>*>(x + j);
    lanes = lanes > y ? lanes : y;
  }
  F top = lanes[0];
  for (int l = 1; l < kLanes<F>; ++l) top = std::max(top, lanes[l]);
  return top;
}
template <class F> GLIA_CLONES F total(const F* x, int n) {
  Vector<F> lanes = {};
  for (int j = 0; j < n; j += kLanes<F>) lanes += *reinterpret_cast<const Vector<F>*>(x + j);
  F sum = 0;
  for (int l = 0; l < kLanes<F>; ++l) sum += lanes[l];
  return sum;
}

// row = exp(row − shift), of what is not positive.
template <class F> GLIA_CLONES void exp_row(F* row, F shift, int n) {
#pragma GCC ivdep
  for (int j = 0; j < n; ++j) row[j] = exp_nonpositive(std::min(row[j] - shift, F(0)));
}
// row = row · factor; where the element's word is below the threshold (words nullptr: nowhere) 0.
template <class F> GLIA_CLONES void scale_row(F* row, F factor, const uint32_t* words, uint32_t threshold, int n) {
  if (words) {
#pragma GCC ivdep
    for (int j = 0; j < n; ++j) row[j] = keep(words[j], threshold, row[j] * factor);
  } else {
#pragma GCC ivdep
    for (int j = 0; j < n; ++j) row[j] *= factor;
  }
}
// dp = p ∘ (dp ∘ M − δ), then p = p ∘ M with M = keep · factor.
template <class F>
GLIA_CLONES void gradient_row(F* p, F* dp, F delta, F factor, const uint32_t* words, uint32_t threshold, int n) {
  if (words) {
#pragma GCC ivdep
    for (int j = 0; j < n; ++j) {
      const F mask = keep(words[j], threshold, factor);
      dp[j] = p[j] * (dp[j] * mask - delta);
      p[j] *= mask;
    }
  } else {
#pragma GCC ivdep
    for (int j = 0; j < n; ++j) dp[j] = p[j] * (dp[j] - delta);
  }
}

// Keys that query i sees: positions 0 … visible−1.
inline int visible_keys(const AttentionArgs& args, int keys, int i) {
  return args.causal ? std::min(keys, i + 1) : keys;
}

// A causal row's sum over its keys has one order, however many rows follow it: a text that grows keeps its bits.
inline int part_of_keys(const AttentionArgs& args, int n) { return args.causal ? kPart : part_of_rows(n); }

// The dropout words of query `row` (its row in the buffer) and the first `count` keys, or nullptr without dropout.
const uint32_t* words_of(const AttentionArgs& args, int64_t row, int head, int count, uint32_t* buffer) {
  if (args.dropout == 0) return nullptr;
  return draw_words(args.key, (row * args.heads + head) * kAttentionMaxLength, count, buffer);
}

template <class F, class T>
void load_rows(int n, int d, int ld, const T* from, int64_t stride, F scale, F* to) {  // to[n, ld] = scale · from
  for (int i = 0; i < n; ++i) {
    for (int x = 0; x < d; ++x) to[i * ld + x] = static_cast<F>(from[i * stride + x]) * scale;
    for (int x = d; x < ld; ++x) to[i * ld + x] = F(0);
  }
}
template <class F, class T>
void load_transposed(int n, int d, int ls, const T* from, int64_t stride, F* to) {  // to[d, ls] = fromᵀ
  for (int x = 0; x < d; ++x) {
    for (int i = 0; i < n; ++i) to[x * ls + i] = static_cast<F>(from[i * stride + x]);
    for (int i = n; i < ls; ++i) to[x * ls + i] = F(0);
  }
}
template <class F, class T> void store_rows(int n, int d, int ld, const F* from, F scale, T* to, int64_t stride) {
  for (int i = 0; i < n; ++i) {
    for (int x = 0; x < d; ++x) to[i * stride + x] = static_cast<T>(from[i * ld + x] * scale);
  }
}

// Runs f(b, head, buffer, words) for every (sequence, head); `buffer` holds floats(n) elements, `words` those of a
// row, and both belong to the thread.
template <class F, class Floats, class Body>
void for_each_head(const AttentionArgs& args, Floats floats, Body body) {
  int longest = 0;
  for (int b = 0; b < args.sequences; ++b) {
    const int n = args.offsets[b + 1] - args.offsets[b];
    CHECK(n >= 0 && n <= args.max_length && args.offsets[b + 1] <= args.rows,
          "attention: sequence {} has {} rows up to row {}; wants 0 to {} rows within {}", b, n,
          args.offsets[b + 1], args.max_length, args.rows);
    longest = std::max(longest, n);
  }
  const int64_t count = static_cast<int64_t>(args.sequences) * args.heads, size = floats(longest);
#pragma omp parallel
  {
    std::vector<F> buffer(static_cast<size_t>(size));
    std::vector<uint32_t> words(static_cast<size_t>(longest + kWordSlack));
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < count; ++i) {
      body(static_cast<int>(i / args.heads), static_cast<int>(i % args.heads), buffer.data(), words.data());
    }
  }
}

template <class T> void zero_tail(const AttentionArgs& args, int width, T* to) {
  const int64_t used = args.sequences > 0 ? args.offsets[args.sequences] : 0;
  std::fill(to + used * width, to + static_cast<int64_t>(args.rows) * width, T(0.0f));
}

// Sequence b's first row, its length and its number of valid keys.
struct Span {
  int64_t start;
  int n, keys;
};
Span span_of(const AttentionArgs& args, int b) {
  const int start = args.offsets[b], n = args.offsets[b + 1] - start;
  return {start, n, args.key_lengths ? std::clamp(args.key_lengths[b], 0, n) : n};
}

// What forward and backward begin with. Errors: as check_attention_args().
template <class F> struct Sizes {
  int d, h, ld;  // of a head, of a row, and a head's in the buffers
  F scale, kept;
  uint32_t threshold;
};
template <class F> Sizes<F> sizes_of(const AttentionArgs& args) {
  check_attention_args(args);
  const int d = args.head_size;
  return {d,
          args.hidden(),
          padded<F>(d),
          F(1) / std::sqrt(static_cast<F>(d)),
          static_cast<F>(1.0 / (1.0 - args.dropout)),
          bernoulli_threshold(args.dropout)};
}

}  // namespace

template <class T>
void attention_forward(const AttentionArgs& args, const T* qkv, T* out, Accumulator<T>* lse, int first) {
  using F = Accumulator<T>;
  const Sizes<F> sizes = sizes_of<F>(args);  // no structured binding: clang 16 lets no lambda have one under OpenMP
  const int d = sizes.d, h = sizes.h, ld = sizes.ld;
  const F scale = sizes.scale, kept = sizes.kept;
  const uint32_t threshold = sizes.threshold;
  const auto floats = [&](int n) {
    const int64_t ls = padded<F>(n);
    return 3 * n * ld + d * ls + n * ls;  // Q, V, O; Kᵀ; S
  };
  for_each_head<F>(args, floats, [&](int b, int head, F* buffer, uint32_t* words) {
    const auto [start, n, keys] = span_of(args, b);
    const int ls = padded<F>(n), queries = n - first;
    F *q = buffer, *v = q + n * ld, *o = v + n * ld, *kt = o + n * ld, *s = kt + d * ls;
    const T* from = qkv + start * 3 * h + static_cast<int64_t>(head) * d;
    load_rows(queries, d, ld, from + static_cast<int64_t>(first) * 3 * h, 3 * h, scale, q);
    load_transposed(n, d, ls, from + h, 3 * h, kt);
    load_rows(n, d, ld, from + 2 * h, 3 * h, F(1), v);
    gemm(queries, ls, d, kPart, q, ld, 1, kt, ls, s, ls);  // S [queries, ls]
    for (int i = first; i < n; ++i) {
      F* row = s + static_cast<int64_t>(i - first) * ls;
      const int seen = visible_keys(args, keys, i);
      std::fill(row + seen, row + ls, -std::numeric_limits<F>::infinity());
      const F top = largest(row, ls);
      exp_row(row, top, ls);  // the padding becomes 0
      const F sum = total(row, ls);
      lse[(start + i) * args.heads + head] = seen > 0 ? top + std::log(sum) : -std::numeric_limits<F>::infinity();
      scale_row(row, seen > 0 ? kept / sum : F(0), words_of(args, start + i, head, seen, words), threshold, seen);
      std::fill(row + seen, row + ls, F(0));
    }
    gemm(queries, ld, keys, part_of_keys(args, n), s, ls, 1, v, ld, o, ld);
    store_rows(queries, d, ld, o, F(1), out + (start + first) * h + static_cast<int64_t>(head) * d, h);
  });
  zero_tail(args, h, out);
  zero_tail(args, args.heads, lse);
}

template <class T>
void attention_backward(const AttentionArgs& args, const T* qkv, const T* out, const Accumulator<T>* lse,
                        const T* dout, T* dqkv) {
  using F = Accumulator<T>;
  const Sizes<F> sizes = sizes_of<F>(args);  // no structured binding: clang 16 lets no lambda have one under OpenMP
  const int d = sizes.d, h = sizes.h, ld = sizes.ld;
  const F scale = sizes.scale, kept = sizes.kept;
  const uint32_t threshold = sizes.threshold;
  const auto floats = [&](int n) {
    const int64_t ls = padded<F>(n);
    return 4 * n * ld + 2 * d * ls + 2 * n * ls;  // Q, K, dO, result; Kᵀ, Vᵀ; P, dP
  };
  for_each_head<F>(args, floats, [&](int b, int head, F* buffer, uint32_t* words) {
    const auto [start, n, keys] = span_of(args, b);
    const int ls = padded<F>(n);
    F *q = buffer, *k = q + n * ld, *g = k + n * ld, *result = g + n * ld, *kt = result + n * ld, *vt = kt + d * ls;
    F *p = vt + d * ls, *dp = p + n * ls;
    const int64_t column = static_cast<int64_t>(head) * d;
    const T* from = qkv + start * 3 * h + column;
    load_rows(n, d, ld, from, 3 * h, scale, q);
    load_rows(n, d, ld, from + h, 3 * h, scale, k);
    load_transposed(n, d, ls, from + h, 3 * h, kt);
    load_transposed(n, d, ls, from + 2 * h, 3 * h, vt);
    load_rows(n, d, ld, dout + start * h + column, h, F(1), g);
    gemm(n, ls, d, kPart, q, ld, 1, kt, ls, p, ls);
    gemm(n, ls, d, kPart, g, ld, 1, vt, ls, dp, ls);
    for (int i = 0; i < n; ++i) {  // p becomes P ∘ M, dp becomes dS
      F *prow = p + static_cast<int64_t>(i) * ls, *drow = dp + static_cast<int64_t>(i) * ls;
      const int seen = visible_keys(args, keys, i);
      const T* orow = out + (start + i) * h + column;
      F delta = 0;
      for (int x = 0; x < d; ++x) delta += g[i * ld + x] * static_cast<F>(orow[x]);
      const F log_sum = lse[(start + i) * args.heads + head];
      exp_row(prow, log_sum, seen);
      gradient_row(prow, drow, delta, kept, words_of(args, start + i, head, seen, words), threshold, seen);
      std::fill(prow + seen, prow + ls, F(0));
      std::fill(drow + seen, drow + ls, F(0));
    }
    T* to = dqkv + start * 3 * h + column;
    gemm(n, ld, keys, part_of_rows(n), dp, ls, 1, k, ld, result, ld);  // dQ = dS · scale K
    store_rows(n, d, ld, result, F(1), to, 3 * h);
    gemm(n, ld, n, part_of_rows(n), dp, 1, ls, q, ld, result, ld);  // dK = dSᵀ · scale Q
    store_rows(n, d, ld, result, F(1), to + h, 3 * h);
    gemm(n, ld, n, part_of_rows(n), p, 1, ls, g, ld, result, ld);  // dV = (P ∘ M)ᵀ dO
    store_rows(n, d, ld, result, F(1), to + 2 * h, 3 * h);
  });
  zero_tail(args, 3 * h, dqkv);
}

#define INSTANTIATE(T)                                                                                           \
  template void attention_forward<T>(const AttentionArgs&, const T*, T*, Accumulator<T>*, int);                  \
  template void attention_backward<T>(const AttentionArgs&, const T*, const T*, const Accumulator<T>*, const T*, \
                                      T*);
GLIA_FOR_FLOATING(INSTANTIATE)
#undef INSTANTIATE

}  // namespace cpu
}  // namespace glia
