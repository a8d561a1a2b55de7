#include "engine/ops/products/matmul.h"

#include "engine/ops/checks.h"
#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/products/matmul_kernels.h"
#include "engine/ops/rows/bias.h"
#include "engine/ops/rows/column_sum.h"

namespace glia {

void matmul_into(const Tensor& a, const Tensor& b, const Tensor& c, bool transpose_a, bool transpose_b,
                 const Into& into) {
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
  const bool cuda = a.context().device().is_cuda();
  CHECK(!into.bias.defined() || (cuda && into.bias.shape() == Shape{s.n} && into.bias.dtype() == c.dtype()),
        "matmul: wants a bias [{}] in {} on CUDA, got {} {}", s.n, c.dtype(), into.bias.dtype(), into.bias.shape());
  if (into.add && !cuda) {
    const Tensor more = empty_like(c);
    matmul_into(a, b, more, transpose_a, transpose_b);
    return accumulate(c, more);
  }
  if (r == 3) s.batch = a.size(0), s.stride_a = s.m * s.k, s.stride_b = s.k * s.n, s.stride_c = s.m * s.n;
  const auto run = [&]<class T, class C>(TypeTag<T>, TypeTag<C>) {
    on_device(
        a.context(), "matmul", [&] { cpu::gemm(s, a.data<T>(), b.data<T>(), c.data<C>()); },
        [&](auto& cuda) {
          cuda::gemm(cuda, s, a.data<T>(), b.data<T>(), c.data<C>(), data_or_null<C>(into.bias), into.add);
        });
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
  check_one_context("matmul", a, {&b});
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

Tensor as_matrix(const Tensor& x) { return x.reshape({leading_rows(x), x.size(-1)}); }

void check_linear(const Var& x, const Var& w, const Var& b) {
  CHECK(x.rank() >= 1 && w.rank() == 2 && x.size(-1) == w.size(-1),
        "linear: wants x [.., I] and w [O, I], got {} and {}", x.shape(), w.shape());
  CHECK(!b.defined() || b.shape() == Shape{w.size(0)}, "linear: wants a bias [{}], got {}", w.size(0), b.shape());
  check_one_context("linear", x, {&w, &b});
  check_weights("linear", x, {&w, &b});
}

}  // namespace

// y = x wᵀ + b;  dx = dy w, dw = dyᵀ x, db = Σ_rows dy.
Var linear(const Var& x, const Var& w, const Var& b) {
  check_linear(x, w, b);
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

}  // namespace glia
