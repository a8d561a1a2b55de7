// One linear layer a group of rows: in the experts' own products (grouped_products.h) where their types, sizes and tiles are
// met, else in plain ones, which are also those products' reference.
#include <algorithm>

#include "engine/ops/checks.h"
#include "engine/ops/moe/moe.h"
#include "engine/ops/products/grouped_linear_kernels.h"
#include "engine/ops/products/grouped_products.h"
#include "engine/ops/products/matmul.h"
#include "engine/ops/products/matmul_kernels.h"
#include "engine/ops/rows/column_sum.h"

namespace glia {

namespace {

[[maybe_unused]] cuda::RowGroups row_groups(const GroupedShape& s) {
  return {s.offsets, static_cast<int>(s.groups), static_cast<int>(s.rows)};
}

}  // namespace

// y[r] = w[e] x[r] + b[e];  dx[r] = dy[r] w[e], dw[e] = Σ_r dy[r] x[r]ᵀ, db[e] = Σ_r dy[r], sums over the group's
// rows.
Var grouped_linear(const Var& x, const Var& w, const Var& b, const Tensor& offsets, int64_t alignment) {
  CHECK(w.rank() == 3 && x.rank() == 2 && x.size(1) == w.size(2),
        "grouped_linear: wants x [N, I] and w [E, O, I], got {} and {}", x.shape(), w.shape());
  const int64_t groups = w.size(0), outputs = w.size(1);
  CHECK(!b.defined() || b.shape() == (Shape{groups, outputs}), "grouped_linear: wants a bias [{}, {}], got {}",
        groups, outputs, b.shape());
  check_index("grouped_linear", "offsets", offsets, {groups + 1}, x.context());
  check_one_context("grouped_linear", x, {&w, &b});
  check_weights("grouped_linear", x, {&w, &b});
  CHECK(alignment >= 1 && x.size(0) % alignment == 0, "grouped_linear: wants rows in multiples of {}, got {}",
        alignment, x.size(0));
  const GroupedShape s{x.size(0), groups, outputs, w.size(2), offsets.data<int32_t>()};
  // Tiles of rows that lie within one group: on a GPU in bfloat16.
  const bool tiles = alignment > 1 && alignment == expert_alignment(x.context(), x.dtype()) && s.outputs % 8 == 0 &&
                     s.inputs % 8 == 0;
  [[maybe_unused]] const int O = static_cast<int>(s.outputs), I = static_cast<int>(s.inputs);
  const Tensor rows = x.value(), weight = w.value_as(x.dtype());
  const Tensor bias = b.defined() ? b.value_as(x.dtype()) : Tensor();
  const Tensor y = empty(x.context(), {s.rows, outputs}, x.dtype());
  dispatch_floating(x.dtype(), "grouped_linear", [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T *from = rows.data<T>(), *by = weight.data<T>(), *add = data_or_null<T>(bias);
    on_device(
        x.context(), "grouped_linear", [&] { cpu::grouped_forward(s, from, by, add, y.data<T>()); },
        [&](auto& cuda) {
          if (!tiles) return cuda::grouped_forward(s, from, by, add, y.data<T>(), cuda.stream);
          const cuda::RowGroups g = row_groups(s);
          cuda::grouped_products(cuda, g.groups).forward(from, by, {add, true}, y.raw(), g, O, I, cuda.stream);
          cuda::clear_behind_groups(s, O, y.raw(), cuda.stream);
        });
  });
  // `offsets` is captured for its memory, which `s` points into.
  return record("grouped_linear", y, {x, w, b}, [=](const Tensor& dy, Grads& in) {
    dispatch_floating(dy.dtype(), "grouped_linear", [&](auto tag) {
      using T = typename decltype(tag)::type;
      const T *d = dy.data<T>(), *from = rows.data<T>(), *by = weight.data<T>();
      if (in.wants(0)) {
        const Tensor dx = in.buffer(0);
        on_device(
            dy.context(), "grouped_linear/dx", [&] { cpu::grouped_data_gradient(s, d, by, dx.data<T>()); },
            [&](auto& cuda) {
              if (!tiles) return cuda::grouped_data_gradient(s, d, by, dx.data<T>(), cuda.stream);
              const cuda::RowGroups g = row_groups(s);
              cuda::grouped_products(cuda, g.groups).data_gradient(d, by, dx.raw(), g, O, I, cuda.stream);
              cuda::clear_behind_groups(s, I, dx.raw(), cuda.stream);
            });
        in.add(0, dx);
      }
      if (in.wants(1)) {
        const Tensor dw = in.buffer(1);
        const auto run = [&]<class C>(TypeTag<C>) {
          on_device(
              dy.context(), "grouped_linear/dw", [&] { cpu::grouped_weight_gradient(s, d, from, dw.data<C>()); },
              [&](auto& cuda) {
                if (!tiles) return cuda::grouped_weight_gradient(s, d, from, dw.data<C>(), cuda.stream);
                cuda::grouped_products(cuda, static_cast<int>(s.groups))
                    .weight_gradient(d, from, dw.raw(), dw.dtype() == DType::kBFloat16, row_groups(s), O, I,
                                     {cuda.parts, static_cast<size_t>(cuda.parts_bytes)}, cuda.stream);
              });
        };
        if (std::is_same_v<T, bfloat16> && dw.dtype() == DType::kFloat32) run(TypeTag<float>{});
        else run(tag);
        in.add(1, dw);
      }
    });
    if (in.wants(2)) {
      const Tensor db = in.buffer(2);
      grouped_column_sum(dy, offsets, db);
      in.add(2, db);
    }
  });
}

namespace cpu {
namespace {

// One dense product a group; `width` is a row's length of the result, whose rows behind the last group become 0.
template <class T, class F> void for_each_group(const GroupedShape& s, T* y, int64_t width, F&& f) {
  for (int64_t e = 0; e < s.groups; ++e)
    if (s.offsets[e] < s.offsets[e + 1]) f(e, int64_t{s.offsets[e]}, int64_t{s.offsets[e + 1]});
  std::fill(y + s.offsets[s.groups] * width, y + s.rows * width, T{});
}

}  // namespace

template <class T> void grouped_forward(const GroupedShape& s, const T* x, const T* w, const T* bias, T* y) {
  for (int64_t e = 0, begin = 0; e <= s.groups; begin = s.offsets[e++])
    CHECK(s.offsets[e] >= begin && s.offsets[e] <= s.rows,
          "grouped_linear: wants offsets that ascend from 0 to at most {} rows, got {} at {} behind {}", s.rows,
          s.offsets[e], e, begin);
  for_each_group(s, y, s.outputs, [&](int64_t e, int64_t begin, int64_t end) {
    gemm({end - begin, s.outputs, s.inputs, false, true}, x + begin * s.inputs, w + e * s.outputs * s.inputs,
         y + begin * s.outputs, bias ? bias + e * s.outputs : nullptr);
  });
}

template <class T> void grouped_data_gradient(const GroupedShape& s, const T* dy, const T* w, T* dx) {
  for_each_group(s, dx, s.inputs, [&](int64_t e, int64_t begin, int64_t end) {
    gemm({end - begin, s.inputs, s.outputs, false, false}, dy + begin * s.outputs, w + e * s.outputs * s.inputs,
         dx + begin * s.inputs);
  });
}

template <class T, class C> void grouped_weight_gradient(const GroupedShape& s, const T* dy, const T* x, C* dw) {
  for (int64_t e = 0; e < s.groups; ++e) {
    const int64_t begin = s.offsets[e], end = s.offsets[e + 1], size = s.outputs * s.inputs;
    if (begin == end) std::fill_n(dw + e * size, size, C{});
    else
      gemm({s.outputs, s.inputs, end - begin, true, false}, dy + begin * s.outputs, x + begin * s.inputs,
           dw + e * size);
  }
}

#define GLIA_GROUPED(T)                                                                 \
  template void grouped_forward(const GroupedShape&, const T*, const T*, const T*, T*); \
  template void grouped_data_gradient(const GroupedShape&, const T*, const T*, T*);     \
  template void grouped_weight_gradient(const GroupedShape&, const T*, const T*, T*);
GLIA_GROUPED(float)
GLIA_GROUPED(double)
GLIA_GROUPED(bfloat16)
template void grouped_weight_gradient(const GroupedShape&, const bfloat16*, const bfloat16*, float*);
#undef GLIA_GROUPED

}  // namespace cpu
}  // namespace glia
