#include <algorithm>
#include <vector>

#include "engine/core/check.h"
#include "engine/core/parallel.h"
#include "engine/ops/checks.h"
#include "engine/ops/moe/moe_functors.h"
#include "engine/ops/moe/moe_kernels.h"

namespace glia::cpu {
namespace {

constexpr int64_t kTokens = 64;  // tokens a chunk
enum { kNone, kAdd, kGate };     // ContextMode

template <class T, class A> void load_row(const T* x, A* row, int64_t n) {
  for (int64_t j = 0; j < n; ++j) row[j] = static_cast<A>(x[j]);
}

// Sixteen running sums let the compiler vectorise a dot product without reordering it behind our back.
template <class A> A dot(const A* __restrict a, const A* __restrict b, int64_t n) {
  A sums[16] = {};
  int64_t j = 0;
  for (; j + 16 <= n; j += 16)
    for (int64_t i = 0; i < 16; ++i) sums[i] += a[j + i] * b[j + i];
  for (; j < n; ++j) sums[j % 16] += a[j] * b[j];
  A total = 0;
  for (A s : sums) total += s;
  return total;
}

}  // namespace

template <class T, class A>
void router_logits(const RouterShape& s, const T* x, const A* w, const A* b, const A* context, A* logits, A* raw) {
  parallel_for(s.tokens, kTokens, [&](int64_t begin, int64_t end) {
    std::vector<A> row(static_cast<size_t>(s.hidden));
    for (int64_t t = begin; t < end; ++t) {
      const int32_t sequence = s.sequence_of[t];
      if (sequence >= 0) load_row(x + t * s.hidden, row.data(), s.hidden);
      for (int64_t e = 0; e < s.experts; ++e) {
        const A r = sequence < 0 ? A(0) : dot(row.data(), w + e * s.hidden, s.hidden) + b[e];
        A l = r;
        if (sequence >= 0 && s.mode == kAdd) l = r + context[sequence * s.experts + e];
        if (sequence >= 0 && s.mode == kGate) l = r * logistic(context[sequence * s.experts + e]);
        logits[t * s.experts + e] = l;
        if (raw) raw[t * s.experts + e] = r;
      }
    }
  });
}

template <class T, class A>
void router_logits_gradient(const RouterShape& s, const T* x, const A* w, const A* context, const A* raw,
                            const A* dlogits, T* dx, A* dw, A* db, A* dcontext) {
  const int64_t E = s.experts, H = s.hidden, chunks = (s.tokens + kTokens - 1) / kTokens;
  const auto dr = [&](int64_t t, int64_t e) {
    const int32_t sequence = s.sequence_of[t];
    if (sequence < 0) return A(0);
    const A d = dlogits[t * E + e];
    return s.mode == kGate ? d * logistic(context[sequence * E + e]) : d;
  };
  const bool sums = dw || db;  // written where there is no token too
  std::vector<A> partial(static_cast<size_t>(sums ? chunks * E * (H + 1) : 0), A{0});
  parallel_for(chunks, 1, [&](int64_t first, int64_t last) {
    std::vector<A> row(static_cast<size_t>(H)), sum(static_cast<size_t>(H));
    for (int64_t c = first; c < last; ++c)
      for (int64_t t = c * kTokens; t < std::min(s.tokens, (c + 1) * kTokens); ++t) {
        load_row(x + t * H, row.data(), H);
        std::fill(sum.begin(), sum.end(), A{0});
        for (int64_t e = 0; e < E; ++e) {
          const A d = dr(t, e);
          const A* __restrict from = w + e * H;
          for (int64_t j = 0; j < H; ++j) sum[j] += d * from[j];
          if (!sums) continue;
          A* __restrict to = &partial[(c * E + e) * (H + 1)];
          for (int64_t j = 0; j < H; ++j) to[j] += d * row[j];
          to[H] += d;
        }
        if (dx)
          for (int64_t j = 0; j < H; ++j) dx[t * H + j] = static_cast<T>(sum[j]);
      }
  });
  for (int64_t e = 0; e < E && sums; ++e)
    for (int64_t j = 0; j <= H; ++j) {
      A total = 0;
      for (int64_t c = 0; c < chunks; ++c) total += partial[(c * E + e) * (H + 1) + j];
      if (j < H && dw) dw[e * H + j] = total;
      if (j == H && db) db[e] = total;
    }
  if (!dcontext) return;
  for (int64_t b = 0; b < s.sequences; ++b)
    for (int64_t e = 0; e < E; ++e) {
      A total = 0;
      for (int64_t t = s.offsets[b]; t < s.offsets[b + 1]; ++t)
        total += s.mode == kGate ? dlogits[t * E + e] * raw[t * E + e] : dlogits[t * E + e];
      if (s.mode == kGate) {
        const A gate = logistic(context[b * E + e]);
        total *= gate * (A(1) - gate);
      }
      dcontext[b * E + e] = total;
    }
}

template <class A>
void top_k_gates(const A* logits, const int32_t* sequence_of, int64_t tokens, int64_t experts, int64_t k, A* gates,
                 int32_t* chosen) {
  parallel_for(tokens, 1024, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      if (sequence_of[t] >= 0) {
        choose_and_gate(logits + t * experts, experts, k, gates + t * k, chosen + t * k);
      } else {
        std::fill_n(gates + t * k, k, A{0});
        std::fill_n(chosen + t * k, k, -1);
      }
    }
  });
}

template <class A>
void top_k_gates_gradient(const A* gates, const int32_t* chosen, const A* dgates, int64_t tokens, int64_t experts,
                          int64_t k, A* dlogits) {
  parallel_for(tokens, 1024, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const A *g = gates + t * k, *d = dgates + t * k;
      std::fill_n(dlogits + t * experts, experts, A{0});
      A inner = 0;
      for (int64_t i = 0; i < k; ++i) inner += g[i] * d[i];
      for (int64_t i = 0; i < k; ++i)
        if (chosen[t * k + i] >= 0) dlogits[t * experts + chosen[t * k + i]] = g[i] * (d[i] - inner);
    }
  });
}

template <class A>
void load_losses(const LoadShape& s, const A* gates, const int32_t* chosen, A* losses, A* importance) {
  check_chosen("load_losses", chosen, s.tokens * s.k, s.experts);
  std::fill_n(importance, s.experts, A{0});
  for (int64_t i = 0; i < s.tokens * s.k; ++i)
    if (chosen[i] >= 0) importance[chosen[i]] += gates[i];
  losses_of(importance, s.experts, static_cast<A>(*s.real_tokens), losses);
}

template <class A>
void load_losses_gradient(const LoadShape& s, const int32_t* chosen, const A* importance, const A* dlosses,
                          const A* dimportance, A* dgates) {
  std::vector<A> gradient(static_cast<size_t>(s.experts));
  for (int64_t e = 0; e < s.experts; ++e)
    gradient[e] = load_gradient(importance, e, s.experts, static_cast<A>(*s.real_tokens), dlosses, dimportance);
  for (int64_t i = 0; i < s.tokens * s.k; ++i) dgates[i] = chosen[i] >= 0 ? gradient[chosen[i]] : A{0};
}

void make_dispatch(const int32_t* chosen, int64_t pairs, int64_t experts, int64_t alignment, int64_t rows,
                   int32_t* offsets, int32_t* row_of, int32_t* pair_of) {
  std::vector<int64_t> next(static_cast<size_t>(experts), 0);
  check_chosen("make_dispatch", chosen, pairs, experts);
  for (int64_t i = 0; i < pairs; ++i)
    if (chosen[i] >= 0) ++next[chosen[i]];
  int64_t start = 0;
  for (int64_t e = 0; e < experts; ++e) {
    offsets[e] = static_cast<int32_t>(start);
    const int64_t count = next[e];
    next[e] = start;
    start += (count + alignment - 1) / alignment * alignment;
  }
  offsets[experts] = static_cast<int32_t>(start);
  CHECK(start <= rows, "make_dispatch: {} rows for a capacity of {}", start, rows);
  std::fill_n(pair_of, rows, -1);
  for (int64_t i = 0; i < pairs; ++i) {
    row_of[i] = chosen[i] < 0 ? -1 : static_cast<int32_t>(next[chosen[i]]++);
    if (row_of[i] >= 0) pair_of[row_of[i]] = static_cast<int32_t>(i);
  }
}

template <class T>
void dispatch_rows(const T* x, const int32_t* pair_of, int64_t rows, int64_t hidden, int64_t k, T* z) {
  parallel_for(rows, kTokens, [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      if (pair_of[r] < 0) std::fill_n(z + r * hidden, hidden, static_cast<T>(0.0f));
      else std::copy_n(x + pair_of[r] / k * hidden, hidden, z + r * hidden);
    }
  });
}

template <class T, class A>
void combine_rows(const T* z, const A* gates, const int32_t* row_of, int64_t tokens, int64_t hidden, int64_t k,
                  T* y) {
  parallel_for(tokens, kTokens, [=](int64_t begin, int64_t end) {
    std::vector<A> sum(static_cast<size_t>(hidden));
    for (int64_t t = begin; t < end; ++t) {
      std::fill(sum.begin(), sum.end(), A{0});
      for (int64_t i = t * k; i < (t + 1) * k; ++i) {
        if (row_of[i] < 0) continue;
        const A gate = gates ? gates[i] : A(1);
        const T* __restrict from = z + row_of[i] * hidden;
        for (int64_t j = 0; j < hidden; ++j) sum[j] += gate * static_cast<A>(from[j]);
      }
      for (int64_t j = 0; j < hidden; ++j) y[t * hidden + j] = static_cast<T>(sum[j]);
    }
  });
}

template <class T, class A>
void combine_rows_gradient(const T* z, const A* gates, const int32_t* pair_of, const int32_t* row_of, const T* dy,
                           int64_t rows, int64_t pairs, int64_t hidden, int64_t k, T* dz, A* dgates) {
  for (int64_t i = 0; dgates && i < pairs; ++i)
    if (row_of[i] < 0) dgates[i] = 0;
  parallel_for(rows, kTokens, [=](int64_t begin, int64_t end) {
    std::vector<A> a(static_cast<size_t>(hidden)), b(static_cast<size_t>(hidden));
    for (int64_t r = begin; r < end; ++r) {
      const int32_t pair = pair_of[r];
      if (pair < 0) {
        if (dz) std::fill_n(dz + r * hidden, hidden, static_cast<T>(0.0f));
        continue;
      }
      load_row(dy + pair / k * hidden, a.data(), hidden);
      if (dgates) {
        load_row(z + r * hidden, b.data(), hidden);
        dgates[pair] = dot(a.data(), b.data(), hidden);
      }
      if (dz)
        for (int64_t j = 0; j < hidden; ++j) dz[r * hidden + j] = static_cast<T>(gates[pair] * a[j]);
    }
  });
}

#define INSTANTIATE(T, A)                                                                                        \
  template void router_logits(const RouterShape&, const T*, const A*, const A*, const A*, A*, A*);               \
  template void router_logits_gradient(const RouterShape&, const T*, const A*, const A*, const A*, const A*, T*, \
                                       A*, A*, A*);                                                              \
  template void dispatch_rows(const T*, const int32_t*, int64_t, int64_t, int64_t, T*);                          \
  template void combine_rows(const T*, const A*, const int32_t*, int64_t, int64_t, int64_t, T*);                 \
  template void combine_rows_gradient(const T*, const A*, const int32_t*, const int32_t*, const T*, int64_t,     \
                                      int64_t, int64_t, int64_t, T*, A*);
INSTANTIATE(float, float)
INSTANTIATE(double, double)
INSTANTIATE(bfloat16, float)
#undef INSTANTIATE
#define INSTANTIATE(A)                                                                                   \
  template void top_k_gates(const A*, const int32_t*, int64_t, int64_t, int64_t, A*, int32_t*);          \
  template void top_k_gates_gradient(const A*, const int32_t*, const A*, int64_t, int64_t, int64_t, A*); \
  template void load_losses(const LoadShape&, const A*, const int32_t*, A*, A*);                         \
  template void load_losses_gradient(const LoadShape&, const int32_t*, const A*, const A*, const A*, A*);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace glia::cpu
