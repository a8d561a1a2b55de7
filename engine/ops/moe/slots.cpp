#include "engine/ops/moe/slots.h"

#include "engine/core/parallel.h"
#include "engine/ops/checks.h"
#include "engine/ops/moe/slots_kernels.h"
#include "engine/ops/wide_types.h"

namespace glia {
namespace {

SlotShape shape_of(const Sequences& q, int64_t slots, int64_t hidden) {
  return {q.count, q.tokens, slots, hidden, q.offsets.data<int32_t>(), q.sequence_of.data<int32_t>()};
}

void check_weights(const char* op, const Var& x, const Var& w, const Sequences& q) {
  CHECK(x.rank() == 2 && w.rank() == 2 && w.size(0) == q.tokens && w.dtype() == accumulation_dtype(x.dtype()),
        "{}: wants rows of a matrix and weights {} [{}, S], got {} and {} {}", op, accumulation_dtype(x.dtype()),
        q.tokens, x.shape(), w.dtype(), w.shape());
}

Tensor blend(const Tensor& x, const Tensor& w, const Sequences& q) {
  const SlotShape k = shape_of(q, w.size(1), x.size(1));
  const Tensor z = empty(x.context(), {q.count * k.slots, k.hidden}, x.dtype());
  dispatch_floating(x.dtype(), "blend_rows", [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* from = x.data<T>();
    const auto* by = w.data<Accumulator<T>>();
    on_device(
        x.context(), "blend_rows", [&] { cpu::blend_rows(k, from, by, z.data<T>()); },
        [&](auto& cuda) { cuda::blend_rows(k, from, by, z.data<T>(), cuda.stream); });
  });
  return z;
}

Tensor spread(const Tensor& z, const Tensor& w, const Sequences& q) {
  const SlotShape k = shape_of(q, w.size(1), z.size(1));
  const Tensor y = empty(z.context(), {q.tokens, k.hidden}, z.dtype());
  dispatch_floating(z.dtype(), "spread_slots", [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* from = z.data<T>();
    const auto* by = w.data<Accumulator<T>>();
    on_device(
        z.context(), "spread_slots", [&] { cpu::spread_slots(k, from, by, y.data<T>()); },
        [&](auto& cuda) { cuda::spread_slots(k, from, by, y.data<T>(), cuda.stream); });
  });
  return y;
}

Tensor products(const Tensor& x, const Tensor& z, int64_t slots, const Sequences& q) {
  const SlotShape k = shape_of(q, slots, x.size(1));
  const Tensor d = empty(x.context(), {q.tokens, slots}, accumulation_dtype(x.dtype()));
  dispatch_floating(x.dtype(), "slot_products", [&](auto tag) {
    using T = typename decltype(tag)::type;
    auto* to = d.data<Accumulator<T>>();
    on_device(
        x.context(), "slot_products", [&] { cpu::slot_products(k, x.data<T>(), z.data<T>(), to); },
        [&](auto& cuda) { cuda::slot_products(k, x.data<T>(), z.data<T>(), to, cuda.stream); });
  });
  return d;
}

}  // namespace

Var sequence_softmax(const Var& x, const Sequences& q) {
  CHECK(x.rank() == 2 && x.size(0) == q.tokens, "sequence_softmax: wants x [{}, S], got {}", q.tokens, x.shape());
  const SlotShape k = shape_of(q, x.size(1), 0);
  const Tensor y = zeros(x.context(), x.shape(), x.dtype());
  dispatch_wide(x.dtype(), "sequence_softmax", [&](auto tag) {
    using A = typename decltype(tag)::type;
    const A* from = x.value().data<A>();
    on_device(
        x.context(), "sequence_softmax", [&] { cpu::sequence_softmax(k, from, y.data<A>()); },
        [&](auto& cuda) { cuda::sequence_softmax(k, from, y.data<A>(), cuda.stream); });
  });
  return record("sequence_softmax", y, {x}, [k, y, q](const Tensor& dy, Grads& in) {  // q: k points into it
    Tensor dx = in.buffer(0);
    dx.zero();
    dispatch_wide(dy.dtype(), "sequence_softmax", [&](auto tag) {
      using A = typename decltype(tag)::type;
      on_device(
          dy.context(), "sequence_softmax/gradient",
          [&] { cpu::sequence_softmax_gradient(k, y.data<A>(), dy.data<A>(), dx.data<A>()); },
          [&](auto& cuda) {
            cuda::sequence_softmax_gradient(k, y.data<A>(), dy.data<A>(), dx.data<A>(), cuda.stream);
          });
    });
    in.add(0, dx);
  });
}

Var blend_rows(const Var& x, const Var& w, const Sequences& q) {
  check_weights("blend_rows", x, w, q);
  CHECK(x.size(0) == q.tokens, "blend_rows: wants x [{}, H], got {}", q.tokens, x.shape());
  const Tensor rows = x.value(), by = w.value();
  return record("blend_rows", blend(rows, by, q), {x, w}, [rows, by, q](const Tensor& dz, Grads& in) {
    if (in.wants(0)) in.add(0, spread(dz, by, q));
    if (in.wants(1)) in.add(1, products(rows, dz, by.size(1), q));
  });
}

Var spread_slots(const Var& z, const Var& w, const Sequences& q) {
  check_weights("spread_slots", z, w, q);
  CHECK(z.size(0) == q.count * w.size(1), "spread_slots: wants z [{}, H], got {}", q.count * w.size(1), z.shape());
  const Tensor slots = z.value(), by = w.value();
  return record("spread_slots", spread(slots, by, q), {z, w}, [slots, by, q](const Tensor& dy, Grads& in) {
    if (in.wants(0)) in.add(0, blend(dy, by, q));
    if (in.wants(1)) in.add(1, products(dy, slots, by.size(1), q));
  });
}

Tensor slot_experts(const Sequences& q, int64_t slots, int64_t of_each) {
  CHECK(of_each >= 1 && slots % of_each == 0, "slot_experts: wants a multiple of {} slots, got {}", of_each, slots);
  Context& context = q.offsets.context();
  const Tensor experts = empty(context, {q.count * slots, 1}, DType::kInt32);
  int32_t* to = experts.data<int32_t>();
  on_device(
      context, "slot_experts", [&] { cpu::slot_experts(q.count * slots, slots, of_each, to); },
      [&](auto& cuda) { cuda::slot_experts(q.count * slots, slots, of_each, to, cuda.stream); });
  return experts;
}

namespace cpu {

template <class A> void sequence_softmax(const SlotShape& k, const A* x, A* y) {
  parallel_for(k.sequences * k.slots, 16, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) softmax_of_column(k, x, y, i / k.slots, i % k.slots);
  });
}

template <class A> void sequence_softmax_gradient(const SlotShape& k, const A* y, const A* dy, A* dx) {
  parallel_for(k.sequences * k.slots, 16, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) softmax_gradient_of_column(k, y, dy, dx, i / k.slots, i % k.slots);
  });
}

template <class T> void blend_rows(const SlotShape& k, const T* x, const Accumulator<T>* w, T* z) {
  parallel_for(k.sequences * k.slots, 4, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      for (int64_t h = 0; h < k.hidden; ++h) z[i * k.hidden + h] = blended(k, x, w, i, h);
  });
}

template <class T> void spread_slots(const SlotShape& k, const T* z, const Accumulator<T>* w, T* y) {
  parallel_for(k.tokens, 16, [=](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      for (int64_t h = 0; h < k.hidden; ++h) y[t * k.hidden + h] = spread(k, z, w, t, h);
  });
}

template <class T> void slot_products(const SlotShape& k, const T* x, const T* z, Accumulator<T>* d) {
  parallel_for(k.tokens, 16, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin * k.slots; i < end * k.slots; ++i) {
      const int64_t t = i / k.slots, b = k.sequence_of[t];
      const T *row = x + t * k.hidden, *slot = z + (b * k.slots + i % k.slots) * k.hidden;
      d[i] = 0;
      for (int64_t h = 0; b >= 0 && h < k.hidden; ++h)
        d[i] += static_cast<Accumulator<T>>(row[h]) * static_cast<Accumulator<T>>(slot[h]);
    }
  });
}

void slot_experts(int64_t rows, int64_t slots, int64_t of_each, int32_t* experts) {
  for (int64_t i = 0; i < rows; ++i) experts[i] = static_cast<int32_t>(i % slots / of_each);
}

}  // namespace cpu
}  // namespace glia
