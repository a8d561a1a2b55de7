#include "engine/ops/sequences/sequences.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "engine/core/parallel.h"
#include "engine/ops/checks.h"
#include "engine/ops/rows/rows_kernels.h"
#include "engine/ops/sequences/sequences_kernels.h"

namespace glia {

Sequences make_sequences(Context& context, const std::vector<int32_t>& lengths, int64_t capacity,
                         const std::vector<int32_t>& key_lengths) {
  const int64_t count = static_cast<int64_t>(lengths.size());
  std::vector<int32_t> offsets(lengths.size() + 1, 0);
  Sequences s;
  for (int64_t b = 0; b < count; ++b) {
    CHECK(lengths[b] >= 1, "make_sequences: sequence {} has length {}", b, lengths[b]);
    CHECK(!__builtin_add_overflow(offsets[b], lengths[b], &offsets[b + 1]), "make_sequences: more than {} rows",
          std::numeric_limits<int32_t>::max());
    s.max_length = std::max<int64_t>(s.max_length, lengths[b]);
  }
  const int64_t rows = offsets.back();
  CHECK(capacity == 0 || capacity >= rows, "make_sequences: {} rows do not fit a capacity of {}", rows, capacity);
  s.count = count, s.tokens = capacity ? capacity : rows;
  std::vector<int32_t> sequence_of(static_cast<size_t>(s.tokens), -1);
  for (int64_t b = 0; b < count; ++b)
    std::fill(sequence_of.begin() + offsets[b], sequence_of.begin() + offsets[b + 1], static_cast<int32_t>(b));
  s.offsets = from_vector(context, offsets, {count + 1});
  s.sequence_of = from_vector(context, sequence_of, {s.tokens});
  s.first_rows = s.offsets.rows(0, count);
  if (!key_lengths.empty()) {
    CHECK(key_lengths.size() == lengths.size(), "make_sequences: {} key lengths for {} sequences",
          key_lengths.size(), count);
    for (int64_t b = 0; b < count; ++b)
      CHECK(0 <= key_lengths[b] && key_lengths[b] <= lengths[b],
            "make_sequences: sequence {} has {} rows but {} keys", b, lengths[b], key_lengths[b]);
    s.key_lengths = from_vector(context, key_lengths, {count});
  }
  return s;
}

namespace {

SequenceRows rows_of(const Sequences& s, const Shape& x, bool skip_first, bool mean, bool only_keys) {
  SequenceRows r;
  r.offsets = s.offsets.data<int32_t>();
  r.key_lengths = only_keys ? data_or_null<int32_t>(s.key_lengths) : nullptr;
  r.skip = skip_first ? 1 : 0, r.mean = mean;
  r.count = s.count, r.tokens = s.tokens, r.h = x.without(0).numel();
  return r;
}

void reduce_into(const char* op, const SequenceRows& r, const Tensor& x, const Tensor& y) {
  dispatch_floating(x.dtype(), op, [&](auto tag) {
    using T = typename decltype(tag)::type;
    on_device(
        x.context(), op, [&] { cpu::sequence_reduce(r, x.data<T>(), y.data<T>()); },
        [&](auto& cuda) { cuda::sequence_reduce(r, x.data<T>(), y.data<T>(), cuda.stream); });
  });
}

void spread_into(const char* op, const SequenceRows& r, const Sequences& s, const Tensor& x, const Tensor& y) {
  dispatch_floating(x.dtype(), op, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const int32_t* of = s.sequence_of.data<int32_t>();
    on_device(
        x.context(), op, [&] { cpu::sequence_spread(r, of, x.data<T>(), y.data<T>()); },
        [&](auto& cuda) { cuda::sequence_spread(r, of, x.data<T>(), y.data<T>(), cuda.stream); });
  });
}

}  // namespace

// y[b] = 1/n_b Σ_{rows that count} x[t];  dx[t] = dy[b] / n_b in those rows, 0 elsewhere.
Var sequence_mean(const Var& x, const Sequences& sequences, bool skip_first) {
  CHECK(x.rank() >= 1 && x.size(0) == sequences.tokens, "sequence_mean: wants x [T, ..] with T = {}, got {}",
        sequences.tokens, x.shape());
  const SequenceRows r = rows_of(sequences, x.shape(), skip_first, true, true);
  Tensor y = empty(x.context(), x.shape().with(0, sequences.count), x.dtype());
  reduce_into("sequence_mean", r, x.value(), y);
  return record("sequence_mean", y, {x}, [r, sequences](const Tensor& dy, Grads& in) {  // r points into sequences
    Tensor dx = in.buffer(0);
    spread_into("sequence_mean", r, sequences, dy, dx);
    in.add(0, dx);
  });
}

// y[t] = x[sequence_of[t]];  dx[b] = Σ_{t in b} dy[t].
Var sequence_broadcast(const Var& x, const Sequences& sequences) {
  CHECK(x.rank() >= 1 && x.size(0) == sequences.count, "sequence_broadcast: wants x [B, ..] with B = {}, got {}",
        sequences.count, x.shape());
  const SequenceRows r = rows_of(sequences, x.shape(), false, false, false);
  Tensor y = empty(x.context(), x.shape().with(0, sequences.tokens), x.dtype());
  spread_into("sequence_broadcast", r, sequences, x.value(), y);
  return record("sequence_broadcast", y, {x}, [r, sequences](const Tensor& dy, Grads& in) {
    Tensor dx = in.buffer(0);
    reduce_into("sequence_broadcast", r, dy, dx);
    in.add(0, dx);
  });
}

// y[b] = x[offsets[b]];  dx[t] = dy[b] where t is the first row of b, 0 elsewhere.
Var first_rows(const Var& x, const Sequences& sequences) {
  CHECK(x.rank() >= 1 && x.size(0) == sequences.tokens, "first_rows: wants x [T, ..] with T = {}, got {}",
        sequences.tokens, x.shape());
  SequenceRows r = rows_of(sequences, x.shape(), false, false, false);
  r.first_only = true;
  Tensor y = empty(x.context(), x.shape().with(0, sequences.count), x.dtype());
  dispatch_floating(x.dtype(), "first_rows", [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* from = x.value().data<T>();
    const int32_t* first = sequences.first_rows.data<int32_t>();
    on_device(
        x.context(), "first_rows", [&] { cpu::gather_rows(from, first, y.data<T>(), r.tokens, r.count, r.h); },
        [&](auto& cuda) { cuda::gather_rows(from, first, y.data<T>(), r.tokens, r.count, r.h, cuda.stream); });
  });
  return record("first_rows", y, {x}, [r, sequences](const Tensor& dy, Grads& in) {
    Tensor dx = in.buffer(0);
    spread_into("first_rows/gradient", r, sequences, dy, dx);
    in.add(0, dx);
  });
}

namespace cpu {

template <class T> void sequence_reduce(const SequenceRows& s, const T* x, T* y) {
  using A = Accumulator<T>;
  const int64_t h = s.h;
  parallel_for(s.count, 1, [&, h](int64_t begin, int64_t end) {
    std::vector<A> sum(static_cast<size_t>(h));
    for (int64_t b = begin; b < end; ++b) {
      A* to = sum.data();
      std::fill(to, to + h, A{0});
      const Span rows = counted(s, b);
      for (int64_t t = rows.begin; t < rows.end; ++t) {
        const T* from = x + t * h;
#pragma GCC ivdep
        for (int64_t j = 0; j < h; ++j) to[j] += static_cast<A>(from[j]);
      }
      const A scale = s.mean && rows.end > rows.begin ? A{1} / static_cast<A>(rows.end - rows.begin) : A{1};
      for (int64_t j = 0; j < h; ++j) y[b * h + j] = static_cast<T>(to[j] * scale);
    }
  });
}

template <class T> void sequence_spread(const SequenceRows& s, const int32_t* sequence_of, const T* dy, T* dx) {
  using A = Accumulator<T>;
  const int64_t h = s.h;
  parallel_for(s.tokens, 64, [&, h](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      T* to = dx + t * h;
      const int64_t b = sequence_of[t];
      const Span rows = b >= 0 ? counted(s, b) : Span{0, 0};
      if (t < rows.begin || t >= rows.end) {
        std::fill(to, to + h, static_cast<T>(0.0f));
        continue;
      }
      const A scale = s.mean ? A{1} / static_cast<A>(rows.end - rows.begin) : A{1};
      const T* from = dy + b * h;
#pragma GCC ivdep
      for (int64_t j = 0; j < h; ++j) to[j] = static_cast<T>(static_cast<A>(from[j]) * scale);
    }
  });
}

#define INSTANTIATE(T)                                              \
  template void sequence_reduce(const SequenceRows&, const T*, T*); \
  template void sequence_spread(const SequenceRows&, const int32_t*, const T*, T*);
GLIA_FOR_FLOATING(INSTANTIATE)
#undef INSTANTIATE

}  // namespace cpu
}  // namespace glia
