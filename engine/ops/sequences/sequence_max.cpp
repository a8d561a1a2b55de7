#include "engine/ops/sequences/sequence_max.h"

#include "engine/core/parallel.h"
#include "engine/ops/checks.h"
#include "engine/ops/sequences/sequence_max_kernels.h"

namespace glia {

Var sequence_max(const Var& x, const Sequences& q) {
  CHECK(x.rank() == 2 && x.size(0) == q.tokens, "sequence_max: wants x [{}, N], got {}", q.tokens, x.shape());
  const Tensor offsets = q.offsets, y = empty(x.context(), {q.count, x.size(1)}, x.dtype()),
               row = empty(x.context(), y.shape(), DType::kInt32);
  const SequenceMaxShape shape{q.count, q.tokens, x.size(1), offsets.data<int32_t>()};
  dispatch_floating(x.dtype(), "sequence_max", [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* from = x.value().data<T>();
    on_device(
        x.context(), "sequence_max", [&] { cpu::sequence_max(shape, from, y.data<T>(), row.data<int32_t>()); },
        [&](auto& cuda) { cuda::sequence_max(shape, from, y.data<T>(), row.data<int32_t>(), cuda.stream); });
  });
  return record("sequence_max", y, {x}, [=](const Tensor& dy, Grads& in) {
    static_cast<void>(offsets);  // kept: the shape points into it
    Tensor dx = in.buffer(0);
    dx.zero();
    dispatch_floating(dy.dtype(), "sequence_max", [&](auto tag) {
      using T = typename decltype(tag)::type;
      const int32_t* r = row.data<int32_t>();
      on_device(
          dy.context(), "sequence_max/gradient",
          [&] { cpu::sequence_max_gradient(shape, dy.data<T>(), r, dx.data<T>()); },
          [&](auto& cuda) { cuda::sequence_max_gradient(shape, dy.data<T>(), r, dx.data<T>(), cuda.stream); });
    });
    in.add(0, dx);
  });
}

namespace cpu {

template <class T> void sequence_max(const SequenceMaxShape& s, const T* x, T* y, int32_t* row) {
  parallel_for(s.sequences * s.columns, 64, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      row[i] = largest_row(s, x, i / s.columns, i % s.columns);
      y[i] = row[i] < 0 ? T(0.0f) : x[row[i] * s.columns + i % s.columns];
    }
  });
}

template <class T> void sequence_max_gradient(const SequenceMaxShape& s, const T* dy, const int32_t* row, T* dx) {
  for (int64_t i = 0; i < s.sequences * s.columns; ++i)
    if (row[i] >= 0) dx[row[i] * s.columns + i % s.columns] = dy[i];
}

}  // namespace cpu
}  // namespace glia
