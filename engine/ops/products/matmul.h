// Matrix products. cuBLAS / cuBLASLt on CUDA, oneDNN on the CPU. bfloat16 operands are summed in float32.
#pragma once
#include "engine/autograd.h"

namespace glia {

// c = op(a) op(b).     a [M, K], b [K, N] (transposed: [K, M], [N, K]) → [M, N]; or batched: all with a leading [B]
Var matmul(const Var& a, const Var& b, bool transpose_a = false, bool transpose_b = false);

// y = x wᵀ + b.        x [.., I], w [O, I], b [O] or undefined → [.., O] in x's dtype
// w and b may be float32 masters where x is bfloat16; their gradients then are float32.
Var linear(const Var& x, const Var& w, const Var& b = {});
// y = gelu(x wᵀ + b) (erf form), fused where the device has a kernel for it; same arguments.
Var linear_gelu(const Var& x, const Var& w, const Var& b);

// y[r] = w[e] x[r] + b[e] for the rows r of group e, offsets[e] <= r < offsets[e + 1]; 0 from row offsets[E] on.
//                      x [N, I], w [E, O, I], b [E, O] or undefined, offsets int32 [E + 1] on the device → [N, O]
// `alignment`: what all offsets and N are multiples of, as a Dispatch knows. Where it is expert_alignment() the products are
// the experts' own, many times as fast, and they add whole tiles: rows between groups must be 0 in x and in y's gradient,
// as dispatched rows are.
Var grouped_linear(const Var& x, const Var& w, const Var& b, const Tensor& offsets, int64_t alignment = 1);

struct Into {
  Tensor bias = {};  // [N] in c's dtype, added to each row; undefined: none. On CUDA
  bool add = false;  // c += instead of c =
};

// Tensor-level product for gradients and tools: c = op(a) op(b), into c. 2-D or batched 3-D, a and b of one
// dtype; c of the same or, for bfloat16 operands, float32.
void matmul_into(const Tensor& a, const Tensor& b, const Tensor& c, bool transpose_a, bool transpose_b,
                 const Into& into = {});

}  // namespace glia
