// Element-wise ops: each is one functor {value, derivative} in elementwise_functors.h, compiled by both compilers.
// Two operands have the same shape, dtype and device.
#pragma once
#include "engine/autograd.h"

namespace glia {

Var add(const Var& a, const Var& b);
Var sub(const Var& a, const Var& b);
Var mul(const Var& a, const Var& b);
Var div(const Var& a, const Var& b);

Var scale(const Var& x, double factor);
Var add_scalar(const Var& x, double term);
Var exp(const Var& x);
Var log(const Var& x);
Var tanh(const Var& x);
Var sigmoid(const Var& x);
Var softplus(const Var& x);   // ln(1 + e^x)
Var relu(const Var& x);       // derivative 0 at 0
Var gelu(const Var& x);       // x Φ(x), erf form (Hendrycks & Gimpel 2016)
Var gelu_tanh(const Var& x);  // its tanh approximation
Var square(const Var& x);

Var cast(const Var& x, DType dtype);                 // the gradient is cast back
Var reshape(const Var& x, const Shape& shape);       // a view, in both directions
Var rows(const Var& x, int64_t begin, int64_t end);  // a view of leading rows; the gradient is zero elsewhere

}  // namespace glia
