#include "engine/ops/products/matmul.h"

#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/products/matmul_kernels.h"
#include "engine/ops/rows/bias.h"
#include "engine/ops/rows/column_sum.h"

namespace glia {

void matmul_into(const Tensor& a, const Tensor& b, const Tensor& c, bool transpose_a, bool transpose_b) {
  const int r = a.rank();
  CHECK((r == 2 || r == 3) && b.rank() == r && c.rank() == r,
        "matmul: wants two matrices or two batches of them, got {} and {}", a.shape(), b.shape());
  GemmShape s;
  s.m = a.size(transpose_a ? -1 : -2), s.k = a.size(transpose_a ? -2 : -1);
  s.n = b.size(transpose_b ? -2 : -1);
  s.transpose_a = transpose_a, s.transpose_b = transpose_b;
  CHECK(b.size(transpose_b ? -1 : -2) == s.k && a.dtype() == b.dtype() && (r == 2 || a.size(0) == b.size(0)),
        "matmul: {} {}{} does not fit {} {}{}", a.dtype(), a.shape(), transpose_a ? "ᵀ" : "", b.dtype(), b.shape(),
        transpose_b ? "ᵀ" : "");
  CHECK(c.size(-2) == s.m && c.size(-1) == s.n, "matmul: result is [.., {}, {}], got {}", s.m, s.n, c.shape());
  if (r == 3) s.batch = a.size(0), s.stride_a = s.m * s.k, s.stride_b = s.k * s.n, s.stride_c = s.m * s.n;
  const auto run = [&]<class T, class C>(TypeTag<T>, TypeTag<C>) {
    on_device(
        a.context(), "matmul", [&] { cpu::gemm(s, a.data<T>(), b.data<T>(), c.data<C>()); },
        [&](auto& cuda) { cuda::gemm(cuda, s, a.data<T>(), b.data<T>(), c.data<C>()); });
  };
  dispatch_floating(a.dtype(), "matmul", [&](auto tag) {
    using T = typename decltype(tag)::type;
    if constexpr (std::is_same_v<T, bfloat16>) {
      if (c.dtype() == DType::kFloat32) return run(tag, TypeTag<float>{});
    }
    run(tag, TypeTag<T>{});
  });
}

// c = op(a) op(b);  d op(a) = dc op(b)ᵀ, d op(b) = op(a)ᵀ dc, each transposed back where the operand was.
Var matmul(const Var& a, const Var& b, bool transpose_a, bool transpose_b) {
  CHECK(a.rank() >= 2 && b.rank() == a.rank(), "matmul: wants two matrices or two batches of them, got {} and {}",
        a.shape(), b.shape());
  const int64_t m = a.size(transpose_a ? -1 : -2), n = b.size(transpose_b ? -2 : -1);
  Tensor c = empty(a.context(), a.rank() == 3 ? Shape{a.size(0), m, n} : Shape{m, n}, a.dtype());
  matmul_into(a.value(), b.value(), c, transpose_a, transpose_b);
  return record("matmul", c, {a, b},
                [x = a.value(), y = b.value(), transpose_a, transpose_b](const Tensor& dc, Grads& in) {
                  if (in.wants(0)) {
                    Tensor da = in.buffer(0);
                    if (transpose_a) matmul_into(y, dc, da, transpose_b, true);
                    else matmul_into(dc, y, da, false, !transpose_b);
                    in.add(0, da);
                  }
                  if (in.wants(1)) {
                    Tensor db = in.buffer(1);
                    if (transpose_b) matmul_into(dc, x, db, true, transpose_a);
                    else matmul_into(x, dc, db, !transpose_a, false);
                    in.add(1, db);
                  }
                });
}

namespace {

Tensor as_matrix(const Tensor& x) { return x.reshape({-1, x.size(-1)}); }

void check_linear(const char* op, const Var& x, const Var& w, const Var& b, int64_t groups) {
  CHECK(x.rank() >= 1 && w.rank() == (groups ? 3 : 2) && x.size(-1) == w.size(-1),
        "{}: wants x [.., I] and w {}, got {} and {}", op, groups ? "[E, O, I]" : "[O, I]", x.shape(), w.shape());
  const Shape bias = groups ? Shape{groups, w.size(1)} : Shape{w.size(0)};
  CHECK(!b.defined() || b.shape() == bias, "{}: wants a bias {}, got {}", op, bias, b.shape());
}

}  // namespace

// y = x wᵀ + b;  dx = dy w, dw = dyᵀ x, db = Σ_rows dy.
Var linear(const Var& x, const Var& w, const Var& b) {
  check_linear("linear", x, w, b, 0);
  const Tensor weight = w.value_as(x.dtype()), flat = as_matrix(x.value());
  Tensor y = empty(x.context(), x.shape().with(-1, w.size(0)), x.dtype());
  const GemmShape s{flat.size(0), w.size(0), w.size(1), false, true};
  const Tensor bias = b.defined() ? b.value_as(x.dtype()) : Tensor();
  dispatch_floating(x.dtype(), "linear", [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* add = data_or_null<T>(bias);
    on_device(
        x.context(), "linear", [&] { cpu::gemm(s, flat.data<T>(), weight.data<T>(), y.data<T>(), add); },
        [&](auto& cuda) { cuda::gemm(cuda, s, flat.data<T>(), weight.data<T>(), y.data<T>(), add); });
  });
  return record("linear", y, {x, w, b}, [flat, weight](const Tensor& dy, Grads& in) {
    const Tensor d = as_matrix(dy);
    if (in.wants(0)) {
      Tensor dx = in.buffer(0);
      matmul_into(d, weight, as_matrix(dx), false, false);
      in.add(0, dx);
    }
    if (in.wants(1)) {
      Tensor dw = in.buffer(1);
      matmul_into(d, flat, dw, true, false);
      in.add(1, dw);
    }
    if (in.wants(2)) {
      Tensor db = in.buffer(2);
      column_sum(d, db);
      in.add(2, db);
    }
  });
}

Var linear_gelu(const Var& x, const Var& w, const Var& b) { return bias_gelu(linear(x, w), b); }

namespace {

// The plain grouped product: one dense product a group, group sizes read back from the device (it waits). It is the
// reference of the fused kernels, and the path of GPUs and dtypes that have none.
template <class F> void for_each_group(const Tensor& offsets, F&& f) {
  const std::vector<int32_t> starts = offsets.to_vector<int32_t>();
  for (size_t e = 0; e + 1 < starts.size(); ++e) f(static_cast<int64_t>(e), starts[e], starts[e + 1]);
}
// The same for a result with a row for each of the groups' rows; those behind the last group become 0.
template <class F> void for_each_group_into(const Tensor& y, const Tensor& offsets, F&& f) {
  int64_t used = 0;
  for_each_group(offsets, [&](int64_t e, int64_t begin, int64_t end) {
    if (begin < end) f(e, begin, end);
    used = end;
  });
  if (used < y.size(0)) y.rows(used, y.size(0)).zero();
}

}  // namespace

// y[r] = w[e] x[r] + b[e];  dx[r] = dy[r] w[e], dw[e] = Σ_r dy[r] x[r]ᵀ, db[e] = Σ_r dy[r], sums over the group's
// rows.
Var grouped_linear(const Var& x, const Var& w, const Var& b, const Tensor& offsets) {
  CHECK(w.rank() == 3 && x.rank() == 2, "grouped_linear: wants x [N, I] and w [E, O, I], got {} and {}", x.shape(),
        w.shape());
  const int64_t groups = w.size(0), out = w.size(1), in_size = w.size(2);
  check_linear("grouped_linear", x, w, b, groups);
  CHECK(offsets.dtype() == DType::kInt32 && offsets.shape() == Shape{groups + 1},
        "grouped_linear: wants offsets int32 [{}], got {} {}", groups + 1, offsets.dtype(), offsets.shape());
  const Tensor rows = x.value(), weight = w.value_as(x.dtype());
  const Tensor bias = b.defined() ? b.value_as(x.dtype()) : Tensor();
  Tensor y = empty(x.context(), {x.size(0), out}, x.dtype());
  dispatch_floating(x.dtype(), "grouped_linear", [&](auto tag) {
    using T = typename decltype(tag)::type;
    for_each_group_into(y, offsets, [&](int64_t e, int64_t begin, int64_t end) {
      const GemmShape s{end - begin, out, in_size, false, true};
      const T* add = bias.defined() ? bias.template data<T>() + e * out : nullptr;
      const T *from = rows.data<T>() + begin * in_size, *we = weight.data<T>() + e * out * in_size;
      T* to = y.data<T>() + begin * out;
      on_device(
          x.context(), "grouped_linear", [&] { cpu::gemm(s, from, we, to, add); },
          [&](auto& cuda) { cuda::gemm(cuda, s, from, we, to, add); });
    });
  });
  return record("grouped_linear", y, {x, w, b}, [rows, weight, offsets](const Tensor& dy, Grads& in) {
    if (in.wants(0)) {
      const Tensor dx = in.buffer(0);
      for_each_group_into(dx, offsets, [&](int64_t e, int64_t begin, int64_t end) {
        const Tensor we = weight.rows(e, e + 1).reshape({weight.size(1), weight.size(2)});
        matmul_into(dy.rows(begin, end), we, dx.rows(begin, end), false, false);
      });
      in.add(0, dx);
    }
    if (in.wants(1)) {
      Tensor dw = in.buffer(1);
      for_each_group(offsets, [&](int64_t e, int64_t begin, int64_t end) {
        Tensor d = dw.rows(e, e + 1).reshape({dw.size(1), dw.size(2)});
        if (begin < end) matmul_into(dy.rows(begin, end), rows.rows(begin, end), d, true, false);
        else d.zero();
      });
      in.add(1, dw);
    }
    if (in.wants(2)) {
      Tensor db = in.buffer(2);
      grouped_column_sum(dy, offsets, db);
      in.add(2, db);
    }
  });
}

}  // namespace glia
