// s = residual + dropout(x + input_bias);  y = output dropout(gain ∘ (s − mean) · rstd + bias). What is nullptr, or
// has p = 0, is left out. x, residual, y [rows, n] row-major; the vectors [n]; mean, rstd [rows], in the
// accumulation type. s is never stored.
#pragma once
#include <algorithm>

#include "engine/core/bfloat16.h"
#include "engine/core/random/rng.h"
#include "engine/device/stream.h"
#include "engine/tensor_kernels.h"

namespace glia {

struct LayerNormShape {
  int64_t rows = 0, n = 0;
  double eps = 0, p = 0, output_p = 0;
  RandomKey key, output_key;
};

template <class T> struct LayerNormInputs {
  const T *x, *residual;
  const Accumulator<T>*input_bias, *gain;
};

// dx = dropout(ds), dresidual = ds, dgain = Σ_rows dy ∘ ŝ, dbias = Σ_rows dy, dinput_bias = Σ_rows dx. Those with a
// star may be nullptr.
template <class T> struct LayerNormGradients {
  T *dx, *dresidual;                           // *
  Accumulator<T>*dgain, *dbias, *dinput_bias;  // *
};

namespace cpu {
template <class T>
void layer_norm(const LayerNormShape& s, const LayerNormInputs<T>& in, const Accumulator<T>* bias, T* y,
                Accumulator<T>* mean, Accumulator<T>* rstd);
// dy is the sum of its terms.
template <class T>
void layer_norm_gradient(const LayerNormShape& s, const LayerNormInputs<T>& in, const Accumulator<T>* mean,
                         const Accumulator<T>* rstd, const Terms<T>& dy, const LayerNormGradients<T>& out);
}  // namespace cpu

namespace cuda {
template <class T>
void layer_norm(const LayerNormShape& s, const LayerNormInputs<T>& in, const Accumulator<T>* bias, T* y,
                Accumulator<T>* mean, Accumulator<T>* rstd, Stream stream);
// partial [layer_norm_chunks(rows), 3, n] is scratch: what each block adds to dgain, dbias and dinput_bias.
template <class T>
void layer_norm_gradient(const LayerNormShape& s, const LayerNormInputs<T>& in, const Accumulator<T>* mean,
                         const Accumulator<T>* rstd, const Terms<T>& dy, const LayerNormGradients<T>& out,
                         Accumulator<T>* partial, Stream stream);

// One block on each of an H100's multiprocessors; depends on the shape only, so the sums have the same bits
// everywhere.
inline int layer_norm_chunks(int64_t rows) { return static_cast<int>(std::clamp<int64_t>((rows + 3) / 4, 1, 132)); }
}  // namespace cuda

}  // namespace glia
