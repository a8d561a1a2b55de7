#include "engine/ops/sequences.h"

#include <algorithm>

#include "engine/ops/sequences_kernels.h"

namespace glia {

Sequences make_sequences(Context& context, const std::vector<int32_t>& lengths, int64_t capacity,
                         const std::vector<int32_t>& key_lengths) {
  Sequences s;
  s.count = static_cast<int64_t>(lengths.size());
  std::vector<int32_t> offsets(1, 0), sequence_of;
  for (size_t b = 0; b < lengths.size(); ++b) {
    CHECK(lengths[b] >= 1, "make_sequences: sequence {} has length {}", b, lengths[b]);
    offsets.push_back(offsets.back() + lengths[b]);
    sequence_of.insert(sequence_of.end(), static_cast<size_t>(lengths[b]), static_cast<int32_t>(b));
    s.max_length = std::max<int64_t>(s.max_length, lengths[b]);
  }
  s.tokens = capacity ? capacity : offsets.back();
  CHECK(s.tokens >= offsets.back(), "make_sequences: {} rows do not fit a capacity of {}", offsets.back(), capacity);
  CHECK(key_lengths.empty() || key_lengths.size() == lengths.size(), "make_sequences: wants {} key lengths, got {}", lengths.size(),
        key_lengths.size());
  sequence_of.resize(static_cast<size_t>(s.tokens), -1);
  s.offsets = from_vector(context, offsets, {s.count + 1});
  s.sequence_of = from_vector(context, sequence_of, {s.tokens});
  s.first_rows = from_vector(context, std::vector<int32_t>(offsets.begin(), offsets.end() - 1), {s.count});
  if (!key_lengths.empty()) s.key_lengths = from_vector(context, key_lengths, {s.count});
  return s;
}

namespace {

SequenceMean shape_of(const Sequences& s, int64_t hidden, bool skip_first) {
  return {s.count, s.tokens, hidden, s.offsets.data<int32_t>(), s.key_lengths.defined() ? s.key_lengths.data<int32_t>() : nullptr,
          s.sequence_of.data<int32_t>(), skip_first};
}

}  // namespace

// y[b] = Σ_{t counted} x[t] / n_b;  dx[t] = dy[b] / n_b for the counted rows.
Var sequence_mean(const Var& x, const Sequences& sequences, bool skip_first) {
  CHECK(x.rank() == 2 && x.size(0) == sequences.tokens, "sequence_mean: wants x [{}, H], got {}", sequences.tokens, x.shape());
  const SequenceMean s = shape_of(sequences, x.size(1), skip_first);
  Tensor y = empty(x.context(), {s.sequences, s.hidden}, x.dtype());
  dispatch_floating(x.dtype(), "sequence_mean", [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* from = x.value().data<T>();
    on_device(x.context(), "sequence_mean", [&] { cpu::sequence_mean(s, from, y.data<T>()); },
              [&](auto& cuda) { cuda::sequence_mean(s, from, y.data<T>(), cuda.stream); });
  });
  return record("sequence_mean", y, {x}, [s, sequences](const Tensor& dy, Grads& in) {
    Tensor dx = in.buffer(0);
    dispatch_floating(dy.dtype(), "sequence_mean", [&](auto tag) {
      using T = typename decltype(tag)::type;
      on_device(dy.context(), "sequence_mean/gradient", [&] { cpu::sequence_mean_gradient(s, dy.data<T>(), dx.data<T>()); },
                [&](auto& cuda) { cuda::sequence_mean_gradient(s, dy.data<T>(), dx.data<T>(), cuda.stream); });
    });
    in.add(0, dx);
  });
}

// y[t] = x[b(t)];  dx[b] = Σ_{t in b} dy[t].
Var sequence_broadcast(const Var& x, const Sequences& sequences) {
  CHECK(x.rank() == 2 && x.size(0) == sequences.count, "sequence_broadcast: wants x [{}, H], got {}", sequences.count, x.shape());
  const SequenceMean s = shape_of(sequences, x.size(1), false);
  Tensor y = empty(x.context(), {s.tokens, s.hidden}, x.dtype());
  dispatch_floating(x.dtype(), "sequence_broadcast", [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* from = x.value().data<T>();
    on_device(x.context(), "sequence_broadcast", [&] { cpu::sequence_broadcast(s, from, y.data<T>()); },
              [&](auto& cuda) { cuda::sequence_broadcast(s, from, y.data<T>(), cuda.stream); });
  });
  return record("sequence_broadcast", y, {x}, [s, sequences](const Tensor& dy, Grads& in) {
    Tensor dx = in.buffer(0);
    dispatch_floating(dy.dtype(), "sequence_broadcast", [&](auto tag) {
      using T = typename decltype(tag)::type;
      on_device(dy.context(), "sequence_broadcast/gradient", [&] { cpu::sequence_sum(s, dy.data<T>(), dx.data<T>()); },
                [&](auto& cuda) { cuda::sequence_sum(s, dy.data<T>(), dx.data<T>(), cuda.stream); });
    });
    in.add(0, dx);
  });
}

}  // namespace glia
