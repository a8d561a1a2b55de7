#include "engine/ops/sequences/running_mean.h"

#include "engine/core/parallel.h"
#include "engine/ops/checks.h"
#include "engine/ops/sequences/running_mean_kernels.h"

namespace glia {
namespace {

// Forward of x, or the gradient's way back; both leave the tail, which is 0 already.
void run(const char* op, const RunningShape& s, const Tensor& x, const Tensor& y, bool back) {
  dispatch_floating(x.dtype(), op, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* from = x.data<T>();
    T* to = y.data<T>();
    on_device(
        x.context(), op, [&] { back ? cpu::running_gradient(s, from, to) : cpu::running(s, from, to); },
        [&](auto& cuda) {
          back ? cuda::running_gradient(s, from, to, cuda.stream) : cuda::running(s, from, to, cuda.stream);
        });
  });
}

void check_borders(const char* op, const Sequences& q, const Tensor& borders) {
  CHECK(!borders.defined() || (borders.shape() == Shape{q.count} && borders.dtype() == DType::kInt32),
        "{}: wants borders int32 [{}], got {} {}", op, q.count, borders.dtype(), borders.shape());
}

Var running(const char* op, const Var& x, const Sequences& q, const Tensor& borders, bool mean) {
  CHECK(x.rank() == 2 && x.size(0) == q.tokens, "{}: wants x [{}, N], got {}", op, q.tokens, x.shape());
  check_borders(op, q, borders);
  const Tensor offsets = q.offsets, y = zeros(x.context(), x.shape(), x.dtype());
  const RunningShape shape{q.count, x.size(1), offsets.data<int32_t>(), data_or_null<int32_t>(borders), mean};
  run(op, shape, x.value(), y, false);
  return record(op, y, {x}, [=](const Tensor& dy, Grads& in) {
    static_cast<void>(offsets), static_cast<void>(borders);  // kept: the shape points into them
    Tensor dx = in.buffer(0);
    dx.zero();
    run(op, shape, dy, dx, true);
    in.add(0, dx);
  });
}

}  // namespace

Var running_mean(const Var& x, const Sequences& sequences, const Tensor& borders) {
  return running("running_mean", x, sequences, borders, true);
}

Var held_at_border(const Var& x, const Sequences& sequences, const Tensor& borders) {
  CHECK(borders.defined(), "held_at_border: wants borders int32 [{}], got none", sequences.count);
  return running("held_at_border", x, sequences, borders, false);
}

Tensor behind_border(const Sequences& q, const Tensor& borders, int64_t columns, DType dtype) {
  check_borders("behind_border", q, borders);
  CHECK(borders.defined(), "behind_border: wants borders int32 [{}], got none", q.count);
  Tensor y = zeros(q.offsets.context(), {q.tokens, columns}, dtype);
  const RunningShape s{q.count, columns, q.offsets.data<int32_t>(), borders.data<int32_t>(), false};
  dispatch_floating(dtype, "behind_border", [&](auto tag) {
    auto* to = y.data<typename decltype(tag)::type>();
    on_device(
        y.context(), "behind_border", [&] { cpu::mark_behind(s, to); },
        [&](auto& cuda) { cuda::mark_behind(s, to, cuda.stream); });
  });
  return y;
}

namespace cpu {

template <class T> void mark_behind(const RunningShape& s, T* y) {
  parallel_for(s.sequences * s.columns, 64, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) mark_column(s, i / s.columns, i % s.columns, y);
  });
}

template <class T> void running(const RunningShape& s, const T* x, T* y) {
  parallel_for(s.sequences * s.columns, 64, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) run_column(s, i / s.columns, i % s.columns, x, y);
  });
}

template <class T> void running_gradient(const RunningShape& s, const T* dy, T* dx) {
  parallel_for(s.sequences * s.columns, 64, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) run_column_back(s, i / s.columns, i % s.columns, dy, dx);
  });
}

}  // namespace cpu
}  // namespace glia
