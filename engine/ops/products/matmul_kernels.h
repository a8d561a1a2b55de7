// Products on raw memory, row-major. C = op(A) op(B) (+ bias along N): op(A) [M, K], op(B) [K, N], C [M, N],
// overwritten, or on CUDA added to where asked. `batch` products lie at the given element strides. T: float, double, bfloat16
// (summed in float); C: T, or float for bfloat16 operands. bias: [N], or nullptr.
#pragma once
#include <cstdint>

#include "engine/core/bfloat16.h"
#include "engine/device/stream.h"

namespace glia {

struct GemmShape {
  int64_t m, n, k;
  bool transpose_a = false, transpose_b = false;  // A stored [K, M], B stored [N, K]
  int64_t batch = 1, stride_a = 0, stride_b = 0, stride_c = 0;
};

namespace cpu {
template <class T, class C>
void gemm(const GemmShape& shape, const T* a, const T* b, C* c, const T* bias = nullptr);
}

namespace cuda {
template <class T, class C>
void gemm(CudaHandles& cuda, const GemmShape& shape, const T* a, const T* b, C* c, const C* bias = nullptr,
          bool add = false);
}

}  // namespace glia
