// Attention over packed sequences on the CPU: one task a (sequence, head), so results do not depend on the threads.
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>
#ifdef __FMA__
#include <immintrin.h>
#endif

#include "engine/core/check.h"
#include "engine/ops/attention_kernels.h"

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

// Rows of all work buffers are padded with zeros to a multiple of two 32-byte vectors: no inner loop has a
// remainder.
template <class F>
constexpr int kLanes = 32 / static_cast<int>(sizeof(F));
template <class F>
constexpr int padded(int n) {
  return (n + 2 * kLanes<F> - 1) / (2 * kLanes<F>)*(2 * kLanes<F>);
}

template <class F>
struct VectorOf {
  typedef F type __attribute__((vector_size(32), aligned(sizeof(F)), may_alias));
};
template <class F>
using Vector = typename VectorOf<F>::type;

// g++ 12 contracts nothing under -ffp-contract=on, hence the intrinsic.
template <class F>
inline Vector<F> multiply_add(F a, Vector<F> b, Vector<F> c) {
#ifdef __FMA__
  if constexpr (std::is_same_v<F, float>) return _mm256_fmadd_ps(_mm256_set1_ps(a), b, c);
  else return _mm256_fmadd_pd(_mm256_set1_pd(a), b, c);
#else
  return a * b + c;
#endif
}

// C[R, 2 vectors] = A B for one block; R rows of accumulators stay in registers.
template <int R, class F>
inline void gemm_block(int k, const F* a, int a_row, int a_k, const F* b, int ldb, F* c, int ldc) {
  Vector<F> sum[R][2] = {};
  for (int x = 0; x < k; ++x) {
    const auto* line = reinterpret_cast<const Vector<F>*>(b + static_cast<int64_t>(x) * ldb);
    const Vector<F> b0 = line[0], b1 = line[1];
    for (int r = 0; r < R; ++r) {
      const F ar = a[static_cast<int64_t>(r) * a_row + static_cast<int64_t>(x) * a_k];
      sum[r][0] = multiply_add<F>(ar, b0, sum[r][0]);
      sum[r][1] = multiply_add<F>(ar, b1, sum[r][1]);
    }
  }
  for (int r = 0; r < R; ++r) {
    auto* line = reinterpret_cast<Vector<F>*>(c + static_cast<int64_t>(r) * ldc);
    line[0] = sum[r][0], line[1] = sum[r][1];
  }
}

// C[m, n] = A[m, k] B[k, n]: element (i, x) of A at a[i·a_row + x·a_k], so a transposed A costs nothing; n is
// padded.
template <class F>
void gemm(int m, int n, int k, const F* a, int a_row, int a_k, const F* b, int ldb, F* c, int ldc) {
  for (int j = 0; j < n; j += 2 * kLanes<F>) {
    int i = 0;
    for (; i + 4 <= m; i += 4) {
      gemm_block<4>(k, a + static_cast<int64_t>(i) * a_row, a_row, a_k, b + j, ldb,
                    c + static_cast<int64_t>(i) * ldc + j, ldc);
    }
    for (; i < m; ++i) {
      gemm_block<1>(k, a + static_cast<int64_t>(i) * a_row, a_row, a_k, b + j, ldb,
                    c + static_cast<int64_t>(i) * ldc + j, ldc);
    }
  }
}

// exp for x <= 0 in straight-line float arithmetic, so that a loop over it vectorises; error below 2 ulp, and 0
// below −87.
inline float exp_nonpositive(float x) {
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
inline double exp_nonpositive(double x) { return std::exp(x); }

// One head of one sequence in the accumulator's type: what both directions need.
template <class F>
struct Problem {
  int n, keys, d, ld, ls;  // rows; valid keys; head size; padded d; padded n
  const F *q, *kt, *v;     // [n, ld], scaled by 1/√D; Kᵀ [d, ls]; [n, ld]
};

// Maximum and sum of n padded elements, lane by lane: the compiler may not reorder a plain loop's additions.
template <class F>
F largest(const F* x, int n) {
  Vector<F> lanes = *reinterpret_cast<const Vector<F>*>(x);
  for (int j = kLanes<F>; j < n; j += kLanes<F>) {
    const Vector<F> y = *reinterpret_cast<const Vector<F>*>(x + j);
    lanes = lanes > y ? lanes : y;
  }
  F top = lanes[0];
  for (int l = 1; l < kLanes<F>; ++l) top = std::max(top, lanes[l]);
  return top;
}
template <class F>
F total(const F* x, int n) {
  Vector<F> lanes = {};
  for (int j = 0; j < n; j += kLanes<F>) lanes += *reinterpret_cast<const Vector<F>*>(x + j);
  F sum = 0;
  for (int l = 0; l < kLanes<F>; ++l) sum += lanes[l];
  return sum;
}

// Keys that query i sees: positions 0 … visible−1.
inline int visible_keys(const AttentionArgs& args, int keys, int i) {
  return args.causal ? std::min(keys, i + 1) : keys;
}

// mask[j] = 0 or 1 / (1 − p) for the first `count` keys of query `row` (its row in the buffer).
template <class F>
void dropout_row(const AttentionArgs& args, uint32_t step, int64_t row, int head, int count, F* mask) {
  const uint32_t threshold = bernoulli_threshold(args.dropout);
  const F kept = static_cast<F>(1.0 / (1.0 - args.dropout));
  const uint64_t block = (static_cast<uint64_t>(row) * args.heads + head) * (kAttentionMaxLength / 4);
  for (int b = 0; b < (count + 3) / 4; ++b) {  // the buffer is padded, so the last block may overhang
    const PhiloxBlock bits = random_block(args.key.seed, args.key.purpose, step, block + b);
    for (int w = 0; w < 4; ++w) mask[4 * b + w] = bits.word[w] >= threshold ? kept : F(0);
  }
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
template <class F, class T>
void store_rows(int n, int d, int ld, const F* from, F scale, T* to, int64_t stride) {
  for (int i = 0; i < n; ++i) {
    for (int x = 0; x < d; ++x) to[i * stride + x] = static_cast<T>(from[i * ld + x] * scale);
  }
}

// Runs f(b, head, buffer) for every (sequence, head); `buffer` holds floats(n) elements and belongs to the thread.
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
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < count; ++i) {
      body(static_cast<int>(i / args.heads), static_cast<int>(i % args.heads), buffer.data());
    }
  }
}

template <class T>
void zero_tail(const AttentionArgs& args, int width, T* to) {
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

}  // namespace

template <class T>
void attention_forward(const AttentionArgs& args, const T* qkv, T* out, Accumulator<T>* lse) {
  using F = Accumulator<T>;
  check_attention_args(args);
  const int d = args.head_size, h = args.hidden(), ld = padded<F>(d);
  const F scale = F(1) / std::sqrt(static_cast<F>(d));
  const uint32_t step = args.dropout > 0 && args.key.step ? *args.key.step : 0;
  const auto floats = [&](int n) {
    const int64_t ls = padded<F>(n);
    return 3 * n * ld + d * ls + n * ls + ls;  // Q, V, O; Kᵀ; S; one row of the dropout mask
  };
  for_each_head<F>(args, floats, [&](int b, int head, F* buffer) {
    const auto [start, n, keys] = span_of(args, b);
    const int ls = padded<F>(n);
    F *q = buffer, *v = q + n * ld, *o = v + n * ld, *kt = o + n * ld, *s = kt + d * ls, *mask = s + n * ls;
    const T* from = qkv + start * 3 * h + static_cast<int64_t>(head) * d;
    load_rows(n, d, ld, from, 3 * h, scale, q);
    load_transposed(n, d, ls, from + h, 3 * h, kt);
    load_rows(n, d, ld, from + 2 * h, 3 * h, F(1), v);
    gemm(n, ls, d, q, ld, 1, kt, ls, s, ls);  // S [n, ls]
    for (int i = 0; i < n; ++i) {
      F* row = s + static_cast<int64_t>(i) * ls;
      const int seen = visible_keys(args, keys, i);
      std::fill(row + seen, row + ls, -std::numeric_limits<F>::infinity());
      const F top = largest(row, ls);
      for (int j = 0; j < ls; ++j) row[j] = exp_nonpositive(row[j] - top);  // the padding becomes 0
      const F sum = total(row, ls);
      lse[(start + i) * args.heads + head] = seen > 0 ? top + std::log(sum) : -std::numeric_limits<F>::infinity();
      const F inverse = seen > 0 ? F(1) / sum : F(0);
      if (args.dropout > 0) {
        dropout_row(args, step, start + i, head, seen, mask);
        for (int j = 0; j < seen; ++j) row[j] *= mask[j] * inverse;
      } else {
        for (int j = 0; j < seen; ++j) row[j] *= inverse;
      }
      std::fill(row + seen, row + ls, F(0));
    }
    gemm(n, ld, keys, s, ls, 1, v, ld, o, ld);
    store_rows(n, d, ld, o, F(1), out + start * h + static_cast<int64_t>(head) * d, h);
  });
  zero_tail(args, h, out);
  zero_tail(args, args.heads, lse);
}

template <class T>
void attention_backward(const AttentionArgs& args, const T* qkv, const T* out, const Accumulator<T>* lse,
                        const T* dout, T* dqkv) {
  using F = Accumulator<T>;
  check_attention_args(args);
  const int d = args.head_size, h = args.hidden(), ld = padded<F>(d);
  const F scale = F(1) / std::sqrt(static_cast<F>(d));
  const uint32_t step = args.dropout > 0 && args.key.step ? *args.key.step : 0;
  const auto floats = [&](int n) {
    const int64_t ls = padded<F>(n);
    return 4 * n * ld + 2 * d * ls + 2 * n * ls + ls;  // Q, K, dO, result; Kᵀ, Vᵀ; P, dP; a row of the mask
  };
  for_each_head<F>(args, floats, [&](int b, int head, F* buffer) {
    const auto [start, n, keys] = span_of(args, b);
    const int ls = padded<F>(n);
    F *q = buffer, *k = q + n * ld, *g = k + n * ld, *result = g + n * ld, *kt = result + n * ld, *vt = kt + d * ls;
    F *p = vt + d * ls, *dp = p + n * ls, *mask = dp + n * ls;
    const int64_t column = static_cast<int64_t>(head) * d;
    const T* from = qkv + start * 3 * h + column;
    load_rows(n, d, ld, from, 3 * h, scale, q);
    load_rows(n, d, ld, from + h, 3 * h, scale, k);
    load_transposed(n, d, ls, from + h, 3 * h, kt);
    load_transposed(n, d, ls, from + 2 * h, 3 * h, vt);
    load_rows(n, d, ld, dout + start * h + column, h, F(1), g);
    gemm(n, ls, d, q, ld, 1, kt, ls, p, ls);
    gemm(n, ls, d, g, ld, 1, vt, ls, dp, ls);
    for (int i = 0; i < n; ++i) {  // p becomes P ∘ M, dp becomes dS
      F *prow = p + static_cast<int64_t>(i) * ls, *drow = dp + static_cast<int64_t>(i) * ls;
      const int seen = visible_keys(args, keys, i);
      const T* orow = out + (start + i) * h + column;
      F delta = 0;
      for (int x = 0; x < d; ++x) delta += g[i * ld + x] * static_cast<F>(orow[x]);
      const F log_sum = lse[(start + i) * args.heads + head];
      for (int j = 0; j < seen; ++j) prow[j] = exp_nonpositive(std::min(prow[j] - log_sum, F(0)));
      if (args.dropout > 0) {
        dropout_row(args, step, start + i, head, seen, mask);
        for (int j = 0; j < seen; ++j) drow[j] = prow[j] * (drow[j] * mask[j] - delta);
        for (int j = 0; j < seen; ++j) prow[j] *= mask[j];
      } else {
        for (int j = 0; j < seen; ++j) drow[j] = prow[j] * (drow[j] - delta);
      }
      std::fill(prow + seen, prow + ls, F(0));
      std::fill(drow + seen, drow + ls, F(0));
    }
    T* to = dqkv + start * 3 * h + column;
    gemm(n, ld, keys, dp, ls, 1, k, ld, result, ld);  // dQ = dS · scale K
    store_rows(n, d, ld, result, F(1), to, 3 * h);
    gemm(n, ld, n, dp, 1, ls, q, ld, result, ld);  // dK = dSᵀ · scale Q
    store_rows(n, d, ld, result, F(1), to + h, 3 * h);
    gemm(n, ld, n, p, 1, ls, g, ld, result, ld);  // dV = (P ∘ M)ᵀ dO
    store_rows(n, d, ld, result, F(1), to + 2 * h, 3 * h);
  });
  zero_tail(args, 3 * h, dqkv);
}

#define INSTANTIATE(T)                                                                                           \
  template void attention_forward<T>(const AttentionArgs&, const T*, T*, Accumulator<T>*);                       \
  template void attention_backward<T>(const AttentionArgs&, const T*, const T*, const Accumulator<T>*, const T*, \
                                      T*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

}  // namespace cpu
}  // namespace glia
