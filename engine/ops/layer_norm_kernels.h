// s = residual + dropout(x, p, key), or x where residual is nullptr and p = 0;  y = gain ∘ (s − mean) · rstd + bias.
// x, residual, y [rows, n] row-major; gain, bias [n]; mean, rstd [rows], in the accumulation type. s is never stored.
#pragma once
#include <algorithm>

#include "engine/core/bfloat16.h"
#include "engine/core/rng.h"
#include "engine/device/stream.h"
#include "engine/tensor_kernels.h"

namespace glia {

struct LayerNormShape {
  int64_t rows = 0, n = 0;
  double eps = 0, p = 0;
  RandomKey key;
};

namespace cpu {
template <class T>
void layer_norm(const LayerNormShape& s, const T* x, const T* residual, const Accumulator<T>* gain, const Accumulator<T>* bias,
                T* y, Accumulator<T>* mean, Accumulator<T>* rstd);
// dy is the sum of its terms; dx = dropout(ds), dresidual = ds (or nullptr), dgain = Σ_rows dy ∘ ŝ, dbias = Σ_rows dy.
template <class T>
void layer_norm_gradient(const LayerNormShape& s, const T* x, const T* residual, const Accumulator<T>* gain,
                         const Accumulator<T>* mean, const Accumulator<T>* rstd, const Terms<T>& dy, T* dx, T* dresidual,
                         Accumulator<T>* dgain, Accumulator<T>* dbias);
}  // namespace cpu

namespace cuda {
template <class T>
void layer_norm(const LayerNormShape& s, const T* x, const T* residual, const Accumulator<T>* gain, const Accumulator<T>* bias,
                T* y, Accumulator<T>* mean, Accumulator<T>* rstd, Stream stream);
// partial [layer_norm_chunks(rows), 2, n] is scratch: what each block adds to dgain and dbias.
template <class T>
void layer_norm_gradient(const LayerNormShape& s, const T* x, const T* residual, const Accumulator<T>* gain,
                         const Accumulator<T>* mean, const Accumulator<T>* rstd, const Terms<T>& dy, T* dx, T* dresidual,
                         Accumulator<T>* partial, Accumulator<T>* dgain, Accumulator<T>* dbias, Stream stream);

// Two blocks on each of an H100's multiprocessors; depends on the shape only, so the sums have the same bits everywhere.
inline int layer_norm_chunks(int64_t rows) { return static_cast<int>(std::clamp<int64_t>((rows + 7) / 8, 1, 264)); }
}  // namespace cuda

}  // namespace glia
