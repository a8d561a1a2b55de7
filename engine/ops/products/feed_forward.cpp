// Two-layer networks, dense and one an expert. Reference: plain ops. On a GPU in bfloat16 one op around the fused
// products (grouped_products.h):
//     pre = x w1ᵀ + b1, h = gelu(pre)   one kernel        dpre = (dy w2) ∘ gelu'(pre), Σ rows of dpre   one kernel
//     y   = h w2ᵀ + b2                  one kernel        dx = dpre w1; dw2 = dyᵀ h; dw1 = dpreᵀ x      one each
// Saved: x and h in bfloat16, gelu'(pre) in fixed point.
#include "engine/ops/products/feed_forward.h"

#include <algorithm>
#include <initializer_list>

#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/moe/moe.h"
#include "engine/ops/products/grouped_products.h"
#include "engine/ops/products/matmul.h"
#include "engine/ops/products/matmul_kernels.h"

namespace glia {

Var expert_ffn_reference(const Var& x, const Var& w1, const Var& b1, const Var& w2, const Var& b2,
                         const Tensor& offsets) {
  return grouped_linear(gelu(grouped_linear(x, w1, b1, offsets)), w2, b2, offsets);
}

Var expert_layer_reference(const Var& x, const Var& gates, const Dispatch& dispatch, const Var& w1, const Var& b1,
                           const Var& w2, const Var& b2) {
  return combine_rows(expert_ffn_reference(dispatch_rows(x, dispatch), w1, b1, w2, b2, dispatch.offsets), gates,
                      dispatch);
}

Var feed_forward_reference(const Var& x, const Var& w1, const Var& b1, const Var& w2, const Var& b2) {
  return linear(gelu(linear(x, w1, b1)), w2, b2);
}

namespace {

[[maybe_unused]] void* raw_or_null(const Tensor& t) { return t.defined() ? t.raw() : nullptr; }

// A launch that only a GPU is asked for.
template <class Launch> void on_gpu(Context& context, const char* op, Launch&& launch) {
  on_device(
      context, op, [op] { CHECK(false, "{}: wants a GPU", op); }, launch);
}

// Everything that the gradient needs, shared by the dense and the grouped op. The products with something fused in
// run in our kernels; the plain ones too where there are groups, but a dense product goes to cuBLASLt, which is
// faster there (BENCHMARKS.md: 2048→512 forward 32 against 43 µs, weight gradients 35 against 52 µs).
struct FusedFfn {
  Tensor x, w1, w2, slopes, h, offsets;  // offsets undefined: one group of all rows
  int64_t groups, rows, inputs, hidden, outputs;

  cuda::RowGroups row_groups() const {
    return {data_or_null<int32_t>(offsets), static_cast<int>(groups), static_cast<int>(rows)};
  }
  // The products that run here; generic, since a CPU build has none.
  const auto& products(auto& cuda) const { return cuda::grouped_products(cuda, static_cast<int>(groups)); }
  Tensor partial(Context& context, int64_t columns) const {
    return empty(context, {(rows + 127) / 128, columns}, DType::kFloat32);
  }

  // From dy and, where somebody has them already, its groups' column sums; to dx, where it is defined, and to the
  // inputs 1 … 4 of `in`: w1, b1, w2, b2.
  void gradient(const Tensor& dy, const Tensor& dy_sums, const Tensor& dx, Grads& in) const {
    Context& context = dy.context();
    const cuda::RowGroups g = row_groups();
    const int O = static_cast<int>(outputs), F = static_cast<int>(hidden), I = static_cast<int>(inputs);
    const Tensor dpre = empty(context, {rows, hidden}, DType::kBFloat16), sums = partial(context, hidden);
    on_gpu(context, "feed_forward/dpre", [&](auto& cuda) {
      products(cuda).data_gradient_gelu(dy.raw(), w2.raw(), slopes.raw(), dpre.raw(), sums.data<float>(), g, O, F,
                                        cuda.stream);
    });
    const auto weight_gradient = [&](size_t i, const Tensor& d, const Tensor& from, int outs, int ins) {
      if (!in.wants(i)) return;
      Tensor dw = in.buffer(i);
      if (!offsets.defined()) {
        matmul_into(d, from, dw, true, false);
        return in.add(i, dw);
      }
      on_gpu(context, "feed_forward/dw", [&](auto& cuda) {
        products(cuda).weight_gradient(d.raw(), from.raw(), dw.raw(), dw.dtype() == DType::kBFloat16, g, outs, ins,
                                       {cuda.parts, static_cast<size_t>(cuda.parts_bytes)}, cuda.stream);
      });
      in.add(i, dw);
    };
    weight_gradient(3, dy, h, O, F);
    weight_gradient(1, dpre, x, F, I);
    // Bias gradients are summed in float32 and rounded only where the bias itself is 16-bit.
    const auto bias_gradient = [&](size_t i, const Tensor& partials, int columns) {
      const Tensor db = in.buffer(i, DType::kFloat32);
      on_gpu(context, "feed_forward/db", [&](auto& cuda) {
        cuda::reduce_column_partials(partials.data<float>(), db.data<float>(), g, columns, cuda.stream);
      });
      in.add_cast(i, db);
    };
    if (in.wants(2)) bias_gradient(2, sums, F);
    if (dy_sums.defined()) {
      in.add_cast(4, dy_sums);
    } else if (in.wants(4)) {
      const Tensor tile_sums = partial(context, outputs);
      on_gpu(context, "feed_forward/db",
             [&](auto& cuda) { cuda::column_partials(dy.raw(), tile_sums.data<float>(), g, O, cuda.stream); });
      bias_gradient(4, tile_sums, O);
    }
    if (!dx.defined()) return;
    if (!offsets.defined()) matmul_into(dpre, w1, dx, false, false);
    else
      on_gpu(context, "feed_forward/dx", [&](auto& cuda) {
        products(cuda).data_gradient(dpre.raw(), w1.raw(), dx.raw(), g, F, I, cuda.stream);
      });
  }
};

bool has_fast_path(Context& context, DType dtype) {
  return context.device().is_cuda() && dtype == DType::kBFloat16;
}

bool multiples_of_8(std::initializer_list<int64_t> sizes) {
  return std::all_of(sizes.begin(), sizes.end(), [](int64_t n) { return n % 8 == 0; });
}

[[maybe_unused]] cuda::Bias bias_of(const Tensor& b) { return {b.raw(), b.dtype() == DType::kBFloat16}; }

// The forward pass; w1, w2: [E, O, I] or [O, I]. What the gradient needs is saved in the result, z is the output.
FusedFfn run_ffn(const Tensor& x, const Var& w1, const Var& b1, const Var& w2, const Var& b2, const Tensor& offsets,
                 const Tensor& z) {
  Context& context = x.context();
  FusedFfn f{x,
             w1.value_as(DType::kBFloat16),
             w2.value_as(DType::kBFloat16),
             {},
             {},
             offsets,
             w1.rank() == 3 ? w1.size(0) : 1,
             x.size(0),
             w1.size(-1),
             w1.size(-2),
             w2.size(-2)};
  if (context.grad_enabled) {
    const auto bytes = static_cast<int64_t>(cuda::gemm_slope_bytes(f.rows, f.hidden));
    f.slopes = empty(context, {bytes / size_of(DType::kInt32)}, DType::kInt32);
  }
  f.h = empty(context, {f.rows, f.hidden}, DType::kBFloat16);
  on_gpu(context, "feed_forward/up", [&](auto& cuda) {
    f.products(cuda).forward_gelu(f.x.raw(), f.w1.raw(), bias_of(b1.value()), raw_or_null(f.slopes), f.h.raw(),
                                  f.row_groups(), static_cast<int>(f.hidden), static_cast<int>(f.inputs),
                                  cuda.stream);
  });
  const Tensor b2_16 = offsets.defined() || !b2.defined() ? Tensor() : b2.value_as(DType::kBFloat16);
  on_gpu(context, "feed_forward/down", [&](auto& cuda) {
    if (!offsets.defined())
      return cuda::gemm(cuda, {f.rows, f.outputs, f.hidden, false, true}, f.h.data<bfloat16>(),
                        f.w2.data<bfloat16>(), z.data<bfloat16>(), data_or_null<bfloat16>(b2_16));
    f.products(cuda).forward(f.h.raw(), f.w2.raw(), bias_of(b2.value()), z.raw(), f.row_groups(),
                             static_cast<int>(f.outputs), static_cast<int>(f.hidden), cuda.stream);
  });
  return f;
}

Var fused_ffn(const char* op, const Var& x, const Var& w1, const Var& b1, const Var& w2, const Var& b2,
              const Tensor& offsets) {
  const Tensor y = empty(x.context(), {x.size(0), w2.size(-2)}, DType::kBFloat16);
  const FusedFfn f = run_ffn(x.value(), w1, b1, w2, b2, offsets, y);
  return record(op, y, {x, w1, b1, w2, b2}, [f](const Tensor& dy, Grads& in) {
    const Tensor dx = in.wants(0) ? in.buffer(0) : Tensor();
    f.gradient(dy, {}, dx, in);
    if (dx.defined()) in.add(0, dx);
  });
}

// z = expert_ffn of the dispatched rows, y[t] = Σ_k g_tk z[r];  backwards dz and dg as in combine_rows, then the
// network's gradient, then dx[t] = Σ_k dx_dispatched[row_of[t, k]].
Var fused_layer(const Var& x, const Var& gates, const Dispatch& d, const Var& w1, const Var& b1, const Var& w2,
                const Var& b2) {
  Context& context = x.context();
  const Tensor rows = dispatch_rows(x.value(), d).value(),
               z = empty(context, {d.rows, w2.size(-2)}, DType::kBFloat16);
  const FusedFfn f = run_ffn(rows, w1, b1, w2, b2, d.offsets, z);
  return record("expert_layer", combine_rows(z, gates.value(), d).value(), {x, w1, b1, w2, b2, gates},
                [f, z, d, g = gates.value()](const Tensor& dy, Grads& in) {
                  const Tensor dz = empty_like(z);
                  const Tensor sums = in.wants(4) ? in.buffer(4, DType::kFloat32) : Tensor();
                  const Tensor dg = in.wants(5) ? in.buffer(5) : Tensor(),
                               drows = in.wants(0) ? empty_like(f.x) : Tensor();
                  combine_gradient(z, g, d, dy, dz, dg, sums);
                  if (dg.defined()) in.add(5, dg);
                  f.gradient(dz, sums, drows, in);
                  if (!drows.defined()) return;
                  const Tensor dx = in.buffer(0);
                  dispatch_gradient(drows, d, dx);
                  in.add(0, dx);
                });
}

void check_experts(const char* op, const Var& x, const Var& w1, const Var& b1, const Var& w2, const Var& b2) {
  CHECK(x.rank() == 2 && w1.rank() == 3 && w2.rank() == 3 && w1.size(2) == x.size(1) && w2.size(2) == w1.size(1) &&
            w2.size(0) == w1.size(0) && b1.shape() == (Shape{w1.size(0), w1.size(1)}) &&
            b2.shape() == (Shape{w2.size(0), w2.size(1)}),
        "{}: wants x [N, H], w1 [E, F, H], b1 [E, F], w2 [E, O, F], b2 [E, O], got {}, {}, {}, {}, {}", op,
        x.shape(), w1.shape(), b1.shape(), w2.shape(), b2.shape());
}

}  // namespace

// dx, dw, db as in grouped_linear; dpre = dh ∘ gelu'(pre).
Var expert_ffn(const Var& x, const Var& w1, const Var& b1, const Var& w2, const Var& b2, const Tensor& offsets) {
  check_experts("expert_ffn", x, w1, b1, w2, b2);
  if (has_fast_path(x.context(), x.dtype()) && multiples_of_8({x.size(1), w1.size(1), w2.size(1)}))
    return fused_ffn("expert_ffn", x, w1, b1, w2, b2, offsets);
  return expert_ffn_reference(x, w1, b1, w2, b2, offsets);
}

Var expert_layer(const Var& x, const Var& gates, const Dispatch& dispatch, const Var& w1, const Var& b1,
                 const Var& w2, const Var& b2) {
  check_experts("expert_layer", x, w1, b1, w2, b2);
  if (has_fast_path(x.context(), x.dtype()) && multiples_of_8({x.size(1), w1.size(1), w2.size(1)}))
    return fused_layer(x, gates, dispatch, w1, b1, w2, b2);
  return combine_rows(expert_ffn(dispatch_rows(x, dispatch), w1, b1, w2, b2, dispatch.offsets), gates, dispatch);
}

Var feed_forward(const Var& x, const Var& w1, const Var& b1, const Var& w2, const Var& b2) {
  CHECK(x.rank() >= 1 && w1.rank() == 2 && w2.rank() == 2 && w1.size(1) == x.size(-1) && w2.size(1) == w1.size(0) &&
            b1.shape() == Shape{w1.size(0)} && (!b2.defined() || b2.shape() == Shape{w2.size(0)}),
        "feed_forward: wants x [.., H], w1 [F, H], b1 [F], w2 [O, F], b2 [O] or none, got {}, {}, {}, {}, {}",
        x.shape(), w1.shape(), b1.shape(), w2.shape(), b2.defined() ? b2.shape() : Shape{});
  if (x.rank() == 2 && has_fast_path(x.context(), x.dtype()) && multiples_of_8({x.size(1), w1.size(0), w2.size(0)}))
    return fused_ffn("feed_forward", x, w1, b1, w2, b2, {});
  return linear(linear_gelu(x, w1, b1), w2, b2);
}

int64_t expert_alignment(Context& context, DType dtype) {
  return has_fast_path(context, dtype) ? cuda::kGroupAlignment : 1;
}

}  // namespace glia
