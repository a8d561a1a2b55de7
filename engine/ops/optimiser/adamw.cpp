#include "engine/ops/optimiser/adamw.h"

#include <algorithm>
#include <numeric>
#include <type_traits>
#include <vector>

#include "engine/core/clones.h"
#include "engine/core/parallel.h"
#include "engine/core/random/rng_words.h"

namespace glia {
namespace {

int64_t low_end(const AdamWBuffers& b) { return b.low.defined() ? b.low.numel() : 0; }
int64_t own_end(const AdamWBuffers& b) { return b.groups.empty() ? b.p.numel() : b.groups.front().begin; }

// The table begins behind the bfloat16 gradients.
bool holds_table(const AdamWBuffers& b, const AdamWSpan& s) {
  return s.begin <= low_end(b) && low_end(b) + b.rows.count * b.rows.width <= s.end;
}
AdamWSpan span_of_table(const AdamWBuffers& b) {
  for (const AdamWSpan& s : b.spans)
    if (holds_table(b, s)) return s;
  return {0, b.spans.empty() ? b.p.numel() : 0, 0};
}

// How many elements have their moments here.
int64_t check_spans(const AdamWBuffers& b) {
  if (b.spans.empty()) return b.p.numel();
  int64_t at = 0, last = 0;
  for (const AdamWSpan& s : b.spans) {
    CHECK(s.begin >= last && s.begin <= s.end && s.end <= b.p.numel() && s.at == at && s.begin % 64 == 0 &&
              s.end % 64 == 0,
          "adamw: wants spans in order, in multiples of 64 up to {}, got [{}, {}) at {}", b.p.numel(), s.begin,
          s.end, s.at);
    at += s.end - s.begin, last = s.end;
  }
  CHECK(b.rows.count == 0 || holds_table(b, span_of_table(b)), "adamw: wants a span with all rows that may wait");
  return at;
}

void check(const AdamWBuffers& b) {
  const int64_t n = b.p.numel(), split = b.low.defined() ? b.low.numel() : 0, rest = n - split;
  CHECK(n % 64 == 0 && b.decayed % 64 == 0 && b.decayed <= n && split % 64 == 0 && split <= n,
        "adamw: wants multiples of 64, got {}, {} that decay and {} of bfloat16 gradients", n, b.decayed, split);
  CHECK(!b.low.defined() || b.low.dtype() == DType::kBFloat16,
        "adamw: wants bfloat16 as the lower gradients, got {}", b.low.dtype());
  const int64_t moments = check_spans(b);
  const bool small = b.m.dtype() == DType::kBFloat16;
  CHECK(!small || b.p.dtype() == DType::kFloat32, "adamw: wants float32 beside moments of bfloat16, got {}",
        b.p.dtype());
  for (const Tensor* t : {&b.m, &b.v, &b.g})
    CHECK(t->numel() == (t == &b.g ? rest : moments) &&
              t->dtype() == (small && t != &b.g ? DType::kBFloat16 : b.p.dtype()),
          "adamw: wants moments {} [{}] and gradients [{}], got {} {}", b.p.dtype(), moments, rest, t->dtype(),
          t->shape());
  CHECK(!b.copy.defined() || b.copy.numel() == n, "adamw: wants a copy [{}], got {}", n, b.copy.shape());
  CHECK(b.partial.numel() == norm_chunks(split) + norm_chunks(rest) && b.factors.numel() == adamw_factor::kCount &&
            b.ticket.numel() == 1,
        "adamw: wrong scratch sizes {}, {} and {}", b.partial.shape(), b.factors.shape(), b.ticket.shape());
  int64_t end = b.groups.empty() ? n : b.groups.front().begin;
  CHECK(end >= b.decayed && end >= split, "adamw: the groups begin at {}, within what is not theirs", end);
  for (const AdamWGroup& group : b.groups) {
    CHECK(group.begin == end && group.begin % 64 == 0 && group.decayed % 64 == 0 && group.end % 64 == 0 &&
              group.begin <= group.decayed && group.decayed <= group.end,
          "adamw: wants groups one behind the other in multiples of 64, got [{}, {}) of which those below {} decay",
          group.begin, group.end, group.decayed);
    end = group.end;
  }
  CHECK(end == n, "adamw: wants groups up to {}, got {}", n, end);
  const AdamWRows& r = b.rows;
  if (r.count == 0) return;
  CHECK(r.width % 8 == 0 && split + r.count * r.width <= b.decayed,
        "adamw: wants waiting rows of a multiple of 8 that all decay, got [{}, {}]", r.count, r.width);
  CHECK(r.stamps.shape() == Shape{r.count} && r.clock.numel() == 1 && r.history.shape() == (Shape{kRowPeriod, 4}) &&
            r.history.dtype() == b.p.dtype(),
        "adamw: wrong tensors of the waiting rows {}, {} and {}", r.stamps.shape(), r.clock.shape(),
        r.history.shape());
  CHECK(small ? r.numbers.defined() && r.numbers.numel() == kRowPeriod : !r.numbers.defined(),
        "adamw: wants the numbers of {} steps where moments are bfloat16, and nowhere else", kRowPeriod);
}

template <class T> WaitingRows<T> waiting_rows(const AdamWRows& r) {
  if (r.count == 0) return {};
  return {r.count,
          r.width,
          static_cast<uint32_t*>(r.stamps.raw()),
          static_cast<AdamWFactors<T>*>(r.history.raw()),
          static_cast<uint32_t*>(r.clock.raw()),
          r.numbers.defined() ? static_cast<uint32_t*>(r.numbers.raw()) : nullptr};
}

// The elements of a span, of which those below `decayed` decay; g begins with element `first`.
template <class T, class G, class M>
AdamWSegment<T, G, M> segment(const AdamWBuffers& b, const Tensor& g, int64_t first, const AdamWSpan& s,
                              int64_t decayed) {
  const int64_t n = s.end - s.begin;
  if (n == 0) return {};
  return {b.p.data<T>() + s.begin,
          b.m.data<M>() + s.at,
          b.v.data<M>() + s.at,
          g.data<G>() + (s.begin - first),
          b.copy.defined() ? b.copy.data<bfloat16>() + s.begin : nullptr,
          std::clamp<int64_t>(decayed - s.begin, 0, n),
          n,
          s.begin};
}
// What of a span lies in [begin, end).
AdamWSpan cut(const AdamWSpan& s, int64_t begin, int64_t end) {
  const int64_t first = std::clamp(begin, s.begin, s.end);
  return {first, std::clamp(end, first, s.end), s.at + first - s.begin};
}

AdamWOptions options_of(const AdamWOptions& o, const AdamWGroup& group) {
  AdamWOptions own = o;
  own.rate_scale = group.rate_scale, own.weight_decay = group.weight_decay;
  return own;
}

// Calls update(options, low, rest, whether waiting rows are among them) for every piece with options of its own.
template <class T, class M, class F> void for_each_piece(const AdamWBuffers& b, const AdamWOptions& o, F&& update) {
  const int64_t split = low_end(b);
  for (const AdamWSpan& span : b.spans.empty() ? std::vector<AdamWSpan>{{0, b.p.numel(), 0}} : b.spans) {
    const auto low = segment<T, bfloat16, M>(b, b.low, 0, cut(span, 0, split), b.decayed);
    const auto rest = segment<T, T, M>(b, b.g, split, cut(span, split, own_end(b)), b.decayed);
    if (low.n + rest.n > 0) update(o, low, rest, holds_table(b, span));
    for (const AdamWGroup& group : b.groups) {
      const auto own = segment<T, T, M>(b, b.g, split, cut(span, group.begin, group.end), group.decayed);
      if (own.n > 0) update(options_of(o, group), AdamWSegment<T, bfloat16, M>{}, own, false);
    }
  }
}

// Calls f with the types of weights and moments.
template <class F> void dispatch(const AdamWBuffers& b, F&& f) {
  check(b);
  if (b.p.dtype() == DType::kFloat64) f(TypeTag<double>{}, TypeTag<double>{});
  else if (b.m.dtype() == DType::kBFloat16) f(TypeTag<float>{}, TypeTag<bfloat16>{});
  else f(TypeTag<float>{}, TypeTag<float>{});
}

}  // namespace

void adamw_step(const AdamWBuffers& b, const AdamWOptions& o, const Tensor& touched) {
  dispatch(b, [&]<class T, class M>(TypeTag<T>, TypeTag<M>) {
    CHECK(
        !touched.defined() || (touched.dtype() == DType::kInt32 && touched.numel() == touched_words(b.rows.count)),
        "adamw: wants touched rows of {}, got {} {}", b.rows.count, touched.dtype(), touched.shape());
    Context& context = b.p.context();
    const int64_t split = low_end(b);
    const WaitingRows<T> rows = waiting_rows<T>(b.rows);
    const RandomKey key = context.random_key(purpose::kMoments);
    double *partial = b.partial.data<double>(), *factors = b.factors.data<double>();
    const double* squares = data_or_null<double>(b.squares);
    const AdamWGradients<T> g{data_or_null<bfloat16>(b.low),
                              split,
                              data_or_null<T>(b.g),
                              b.p.numel() - split,
                              data_or_null<int32_t>(touched),
                              partial,
                              factors,
                              static_cast<uint32_t*>(b.ticket.raw())};
    on_device(
        context, "adamw",
        [&] {
          if (squares) cpu::adamw_factors(o, context.step_pointer(), squares, factors);
          else cpu::adamw_norm(o, context.step_pointer(), g, rows);
          for_each_piece<T, M>(b, o, [&](const auto& own, const auto& low, const auto& rest, bool first) {
            cpu::adamw_update<T, M>(own, factors, key, low, rest, first ? rows : WaitingRows<T>{}, !g.touched);
          });
        },
        [&](auto& cuda) {
          if (squares) cuda::adamw_factors(o, context.step_pointer(), squares, factors, cuda.stream);
          else cuda::adamw_norm(o, context.step_pointer(), g, rows, cuda.stream);
          for_each_piece<T, M>(b, o, [&](const auto& own, const auto& low, const auto& rest, bool first) {
            cuda::adamw_update<T, M>(own, factors, key, low, rest, first ? rows : WaitingRows<T>{}, !g.touched,
                                     cuda.stream);
          });
        });
  });
}

void adamw_squares(const AdamWBuffers& b, std::span<const AdamWSpan> ranges) {
  CHECK(b.squares.defined() && b.squares.dtype() == DType::kFloat64 && b.squares.numel() == 1 && b.rows.count == 0,
        "adamw: wants a float64 sum of squares, and no waiting rows");
  const int64_t split = low_end(b), all = b.p.numel();
  double *sum = b.squares.data<double>(), *partial = b.partial.data<double>();
  const auto add = [&]<class G>(const Tensor& g, int64_t first, int64_t end, TypeTag<G>) {
    AdamWRanges some;
    const auto flush = [&] {
      if (some.count == 0) return;
      on_device(
          b.p.context(), "adamw/squares", [&] { cpu::adamw_squares(g.data<G>(), some, sum); },
          [&](auto& cuda) {
            cuda::adamw_squares(g.data<G>(), some, partial, b.partial.numel(), sum, cuda.stream);
          });
      some.count = 0;
    };
    for (const AdamWSpan& range : ranges) {
      CHECK(range.begin % 64 == 0 && range.end % 64 == 0 && range.end <= all,
            "adamw: wants ranges in multiples of 64 up to {}, got [{}, {})", all, range.begin, range.end);
      const AdamWSpan s = cut(range, first, end);
      if (s.begin == s.end) continue;
      const int i = some.count++;
      some.begin[i] = s.begin - first, some.end[i] = s.end - first;
      if (i == 0) some.chunks[0] = 0;
      some.chunks[i + 1] = some.chunks[i] + norm_chunks(s.end - s.begin);
      if (some.count == AdamWRanges::kMost) flush();
    }
    flush();
  };
  if (split > 0) add(b.low, 0, split, TypeTag<bfloat16>{});
  if (b.p.dtype() == DType::kFloat64) add(b.g, split, all, TypeTag<double>{});
  else add(b.g, split, all, TypeTag<float>{});
}

void adamw_catch_up(const AdamWBuffers& b, const AdamWOptions& o, const RowOrder& order) {
  if (b.rows.count == 0) return;
  dispatch(b, [&]<class T, class M>(TypeTag<T>, TypeTag<M>) {
    const int64_t split = low_end(b);
    const auto rest = segment<T, T, M>(b, b.g, split, cut(span_of_table(b), split, own_end(b)), b.decayed);
    const WaitingRows<T> rows = waiting_rows<T>(b.rows);
    const RandomKey key = b.p.context().random_key(purpose::kMoments);
    const int32_t *pieces = order.defined() ? order.pieces.data<int32_t>() : nullptr,
                  *count = order.defined() ? order.count.data<int32_t>() : nullptr;
    on_device(
        b.p.context(), "adamw/catch_up", [&] { cpu::adamw_catch_up(o, key, rest, rows, pieces, count); },
        [&](auto& cuda) {
          cuda::adamw_catch_up(o, key, rest, rows, pieces, count,
                               order.defined() ? order.pieces.size(0) - 1 : rows.count, cuda.stream);
        });
  });
}

namespace cpu {
namespace {

// Σ of squares of elements [begin, end), multiples of 8, into eight independent sums: the compiler may vectorise
// without reordering.
constexpr int kLanes = 8;
double total(const double (&sum)[kLanes]) { return std::accumulate(sum, sum + kLanes, 0.0); }
template <class T> GLIA_CLONES void add_squares(const T* g, int64_t begin, int64_t end, double (&sum)[kLanes]) {
  double lanes[kLanes];
  for (int k = 0; k < kLanes; ++k) lanes[k] = sum[k];
  for (int64_t i = begin; i < end; i += kLanes)
    for (int k = 0; k < kLanes; ++k) lanes[k] += static_cast<double>(g[i + k]) * static_cast<double>(g[i + k]);
  for (int k = 0; k < kLanes; ++k) sum[k] = lanes[k];
}

bool is_touched(const int32_t* touched, int64_t row) {
  return !touched || (static_cast<uint32_t>(touched[row / 32]) >> row % 32 & 1);
}

// The squares of one chunk; of the table's rows, the touched ones.
template <class T>
double squares(const AdamWGradients<T>& g, const WaitingRows<T>& rows, int64_t begin, int64_t end) {
  double sum[kLanes] = {};
  const int64_t table = rows.count * rows.width;
  for (int64_t i = begin; i < end;) {
    const int64_t row = i < table ? i / rows.width : -1,
                  stop = row < 0 ? end : std::min(end, (row + 1) * rows.width);
    if (row < 0 || is_touched(g.touched, row)) add_squares(g.g, i, stop, sum);
    i = stop;
  }
  return total(sum);
}

// Moments of a few elements as the arithmetic's type: those of T themselves; those of bfloat16 unpacked, and rounded by the
// words of a step where they go back.
constexpr int64_t kSpan = 64;

// update(m, v) of up to kSpan elements, the first being number `element` (a multiple of 4), at step number `step`.
template <class T, class M, class F>
void with_moments(const RandomKey& key, uint32_t step, int64_t element, M* m, M* v, int64_t n, F&& update) {
  if constexpr (std::is_same_v<T, M>) {
    update(m, v);
  } else {
    T m_wide[kSpan], v_wide[kSpan];
    for (int64_t i = 0; i < n; ++i) m_wide[i] = static_cast<T>(m[i]), v_wide[i] = static_cast<T>(v[i]);
    update(m_wide, v_wide);
    uint32_t words[kSpan];
    random_words(key.seed, key.purpose, step, static_cast<uint64_t>(element / 4), n / 4, words);
    for (int64_t i = 0; i < n; ++i) {
      m[i] = round_at_random(m_wide[i], words[i]);
      v[i] = round_at_random(v_wide[i], words[i] >> 16);
    }
  }
}

template <class T, class G>
void update_span(const AdamWUpdate<T>& update, T* p, T* m, T* v, const G* g, bool decay, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) update.apply(p[i], m[i], v[i], static_cast<T>(g[i]), decay);
}

template <class T, class G, class M>
void update_segment(const AdamWOptions& o, const double* factors, const RandomKey& key,
                    const AdamWSegment<T, G, M>& s, int64_t first) {
  const AdamWUpdate<T> update(o, AdamWFactors<T>(o, factors));
  if (update.f.clip < 0) return;
  const uint32_t step = *key.step;
  parallel_for(s.n - first, kNormChunk, [=](int64_t begin, int64_t end) {
    for (int64_t i = first + begin; i < first + end; i += kSpan) {
      with_moments<T>(key, step, s.first + i, s.m + i, s.v + i, kSpan,
                      [&](T* m, T* v) { update_span(update, s.p + i, m, v, s.g + i, i < s.decayed, kSpan); });
      if (s.copy)
        for (int64_t j = i; j < i + kSpan; ++j) s.copy[j] = static_cast<bfloat16>(s.p[j]);
    }
  });
}

// The steps that row `row` has missed, of n of its elements from `at` in the segment.
template <class T, class M>
void catch_up_span(const AdamWOptions& o, const RandomKey& key, const AdamWSegment<T, T, M>& s,
                   const WaitingRows<T>& rows, uint32_t stamp, uint32_t now, int64_t at, int64_t n) {
  uint32_t step = stamp / 2;
  for (bool has_gradient = stamp % 2; step < now; ++step, has_gradient = false) {
    const AdamWUpdate<T> update(o, rows.history[step % kRowPeriod]);
    if (update.f.clip < 0) continue;
    T* p = s.p + at;
    with_moments<T>(key, rows.numbers ? rows.numbers[step % kRowPeriod] : 0, s.first + at, s.m + at, s.v + at, n,
                    [&](T* m, T* v) {
                      if (has_gradient) {
                        update_span(update, p, m, v, s.g + at, true, n);
                      } else {
#pragma omp simd
                        for (int64_t i = 0; i < n; ++i) update.rest(p[i], m[i], v[i], true);
                      }
                    });
  }
}

// Row `row` does the steps that it has missed.
template <class T, class M>
void catch_up_row(const AdamWOptions& o, const RandomKey& key, const AdamWSegment<T, T, M>& s,
                  const WaitingRows<T>& rows, int64_t row) {
  const uint32_t stamp = rows.stamps[row], now = *rows.clock;
  if (stamp / 2 == now) return;
  const int64_t at = row * rows.width, each = std::is_same_v<T, M> ? rows.width : kSpan;
  for (int64_t i = 0; i < rows.width; i += each)
    catch_up_span(o, key, s, rows, stamp, now, at + i, std::min(each, rows.width - i));
  if (s.copy)
    for (int64_t i = at; i < at + rows.width; ++i) s.copy[i] = static_cast<bfloat16>(s.p[i]);
  rows.stamps[row] = 2 * now;
}

}  // namespace

template <class G> void adamw_squares(const G* g, const AdamWRanges& ranges, double* sum) {
  std::vector<double> partial(static_cast<size_t>(ranges.chunks[ranges.count]));
  for (int i = 0; i < ranges.count; ++i)
    parallel_for(ranges.end[i] - ranges.begin[i], kNormChunk, [&](int64_t begin, int64_t end) {
      double lanes[kLanes] = {};
      add_squares(g, ranges.begin[i] + begin, ranges.begin[i] + end, lanes);
      partial[static_cast<size_t>(ranges.chunks[i] + begin / kNormChunk)] = total(lanes);
    });
  for (const double p : partial) *sum += p;
}
template void adamw_squares(const bfloat16*, const AdamWRanges&, double*);
template void adamw_squares(const float*, const AdamWRanges&, double*);
template void adamw_squares(const double*, const AdamWRanges&, double*);

void adamw_factors(const AdamWOptions& o, const uint32_t* step, const double* squared_norm, double* factors) {
  adamw_corrections(o, *step, factors);
  adamw_clip(o, *squared_norm, factors);
}

template <class T>
void adamw_norm(const AdamWOptions& o, const uint32_t* step, const AdamWGradients<T>& g,
                const WaitingRows<T>& rows) {
  const int64_t low_chunks = norm_chunks(g.n_low), chunks = low_chunks + norm_chunks(g.n);
  parallel_for(g.n_low, kNormChunk, [&](int64_t begin, int64_t end) {
    double sum[kLanes] = {};
    add_squares(g.low, begin, end, sum);
    g.partial[begin / kNormChunk] = total(sum);
  });
  parallel_for(g.n, kNormChunk, [&](int64_t begin, int64_t end) {
    g.partial[low_chunks + begin / kNormChunk] = squares(g, rows, begin, end);
  });
  double sum = 0;
  for (int64_t c = 0; c < chunks; ++c) sum += g.partial[c];
  adamw_corrections(o, *step, g.factors);
  adamw_clip(o, sum, g.factors);
  if (rows.count == 0) return;
  const uint32_t now = *rows.clock;
  for (int64_t row = 0; row < rows.count; ++row) {
    if (!is_touched(g.touched, row)) continue;
    CHECK(rows.stamps[row] == 2 * now, "adamw: row {} has a gradient, but was not brought up to date before", row);
    rows.stamps[row] = 2 * now + 1;
  }
  rows.history[*rows.clock % kRowPeriod] = AdamWFactors<T>(o, g.factors);
  if (rows.numbers) rows.numbers[*rows.clock % kRowPeriod] = *step;
  ++*rows.clock;
}

template <class T, class M>
void adamw_update(const AdamWOptions& o, const double* factors, const RandomKey& key,
                  const AdamWSegment<T, bfloat16, M>& low, const AdamWSegment<T, T, M>& rest,
                  const WaitingRows<T>& rows, bool all_rows) {
  update_segment(o, factors, key, low, 0);
  update_segment(o, factors, key, rest, (rows.count * rows.width + 63) / 64 * 64);
  if (rows.count == 0) return;
  const int64_t each = all_rows ? rows.count : (rows.count + kRowPeriod - 1) / kRowPeriod;
  const int64_t first = all_rows ? 0 : *rows.clock % kRowPeriod * each;
  parallel_for(std::min(each, rows.count - first), std::max<int64_t>(1, 4096 / rows.width),
               [&](int64_t begin, int64_t end) {
                 for (int64_t row = first + begin; row < first + end; ++row) catch_up_row(o, key, rest, rows, row);
               });
}

template <class T, class M>
void adamw_catch_up(const AdamWOptions& o, const RandomKey& key, const AdamWSegment<T, T, M>& rest,
                    const WaitingRows<T>& rows, const int32_t* pieces, const int32_t* count) {
  parallel_for(pieces ? *count : rows.count, std::max<int64_t>(1, 4096 / rows.width),
               [&](int64_t begin, int64_t end) {
                 for (int64_t i = begin; i < end; ++i)
                   if (!pieces) catch_up_row(o, key, rest, rows, i);
                   else if (i == 0 || pieces[2 * i] != pieces[2 * i - 2])
                     catch_up_row(o, key, rest, rows, pieces[2 * i]);
               });
}

template void adamw_norm(const AdamWOptions&, const uint32_t*, const AdamWGradients<float>&,
                         const WaitingRows<float>&);
template void adamw_norm(const AdamWOptions&, const uint32_t*, const AdamWGradients<double>&,
                         const WaitingRows<double>&);
#define INSTANTIATE(T, M)                                                                           \
  template void adamw_update(const AdamWOptions&, const double*, const RandomKey&,                  \
                             const AdamWSegment<T, bfloat16, M>&, const AdamWSegment<T, T, M>&,     \
                             const WaitingRows<T>&, bool);                                          \
  template void adamw_catch_up(const AdamWOptions&, const RandomKey&, const AdamWSegment<T, T, M>&, \
                               const WaitingRows<T>&, const int32_t*, const int32_t*);
INSTANTIATE(float, float)
INSTANTIATE(float, bfloat16)
INSTANTIATE(double, double)
#undef INSTANTIATE

}  // namespace cpu

}  // namespace glia
