// Every element-wise op's mathematics, once for both compilers. A unary functor is {value, derivative}: the
// derivative is given the input, or the output where kFromOutput says so (then the op saves its output). A linear
// functor saves nothing and needs no derivative. A is float or double.
#pragma once
#include "engine/core/math.h"

namespace glia {

struct Scale {
  double factor;
  template <class A> GLIA_HD A value(A x) const { return static_cast<A>(factor) * x; }
};
struct AddScalar {
  double term;
  template <class A> GLIA_HD A value(A x) const { return x + static_cast<A>(term); }
};
struct Exp {
  static constexpr bool kFromOutput = true;
  template <class A> GLIA_HD A value(A x) const { return math::exp(x); }
  template <class A> GLIA_HD A derivative(A y) const { return y; }
};
struct Log {
  static constexpr bool kFromOutput = false;
  template <class A> GLIA_HD A value(A x) const { return math::log(x); }
  template <class A> GLIA_HD A derivative(A x) const { return A{1} / x; }
};
struct Tanh {
  static constexpr bool kFromOutput = true;
  template <class A> GLIA_HD A value(A x) const { return math::tanh(x); }
  template <class A> GLIA_HD A derivative(A y) const { return A{1} - y * y; }
};
struct Sigmoid {
  static constexpr bool kFromOutput = true;
  template <class A> GLIA_HD A value(A x) const { return A{1} / (A{1} + math::exp(-x)); }
  template <class A> GLIA_HD A derivative(A y) const { return y * (A{1} - y); }
};
struct Softplus {  // max(x, 0) + ln(1 + e^−|x|): exact in both tails
  static constexpr bool kFromOutput = false;
  template <class A> GLIA_HD A value(A x) const {
    return (x > A{0} ? x : A{0}) + math::log1p_unit(math::exp_negative(x > A{0} ? -x : x));
  }
  template <class A> GLIA_HD A derivative(A x) const { return Sigmoid{}.value(x); }
};
struct Relu {
  static constexpr bool kFromOutput = true;
  template <class A> GLIA_HD A value(A x) const { return x < A{0} ? A{0} : x; }  // NaN stays NaN
  template <class A> GLIA_HD A derivative(A y) const { return y > A{0} ? A{1} : A{0}; }
};
struct Gelu {
  static constexpr bool kFromOutput = false;
  template <class A> GLIA_HD A value(A x) const { return x * math::normal(x).cdf; }
  template <class A> GLIA_HD A derivative(A x) const {
    const auto n = math::normal(x);
    return n.cdf + x * n.pdf;
  }
};
struct GeluTanh {  // x σ(2u), u = √(2/π) (x + 0.044715 x³), which is ½ x (1 + tanh u)
  static constexpr bool kFromOutput = false;
  static constexpr double kLinear = 1.5957691216057308, kCubic = 0.044715 * kLinear;
  template <class A> static GLIA_HD A twice_u(A x) {
    return x * (static_cast<A>(kLinear) + static_cast<A>(kCubic) * (x * x));
  }
  template <class A> GLIA_HD A value(A x) const { return x * Sigmoid{}.value(twice_u(x)); }
  template <class A> GLIA_HD A derivative(A x) const {
    const A u = twice_u(x), slope = static_cast<A>(kLinear) + static_cast<A>(3 * kCubic) * (x * x);
    // σ and 1 − σ from one exponential: the difference would cancel, and x · slope makes that large.
    const A e = math::exp_negative(u > A{0} ? -u : u), large = A{1} / (A{1} + e), small = e * large;
    return (u > A{0} ? large : small) + x * slope * (small * large);
  }
};
struct Square {
  static constexpr bool kFromOutput = false;
  template <class A> GLIA_HD A value(A x) const { return x * x; }
  template <class A> GLIA_HD A derivative(A x) const { return x + x; }
};

// Binary functors: the value and both partial derivatives.
struct Add {
  template <class A> static GLIA_HD A value(A a, A b) { return a + b; }
  template <class A> static GLIA_HD A by_a(A, A) { return A{1}; }
  template <class A> static GLIA_HD A by_b(A, A) { return A{1}; }
};
struct Sub {
  template <class A> static GLIA_HD A value(A a, A b) { return a - b; }
  template <class A> static GLIA_HD A by_a(A, A) { return A{1}; }
  template <class A> static GLIA_HD A by_b(A, A) { return A{-1}; }
};
struct Mul {
  template <class A> static GLIA_HD A value(A a, A b) { return a * b; }
  template <class A> static GLIA_HD A by_a(A, A b) { return b; }
  template <class A> static GLIA_HD A by_b(A a, A) { return a; }
};
struct Div {
  template <class A> static GLIA_HD A value(A a, A b) { return a / b; }
  template <class A> static GLIA_HD A by_a(A, A b) { return A{1} / b; }
  template <class A> static GLIA_HD A by_b(A a, A b) { return -a / (b * b); }
};

// The lists from which both compilers instantiate the kernels.
#define GLIA_LINEAR_FUNCTORS(X) X(Scale) X(AddScalar)
#define GLIA_UNARY_FUNCTORS(X) X(Exp) X(Log) X(Tanh) X(Sigmoid) X(Softplus) X(Relu) X(Gelu) X(GeluTanh) X(Square)
#define GLIA_BINARY_FUNCTORS(X) X(Add) X(Sub) X(Mul) X(Div)

}  // namespace glia
