// logits [T, E] with E <= 256 in practice; sequence_of [T], −1: not counted; real: how many rows count, on the
// device.
#pragma once
#include <cmath>
#include <cstdint>

#include "engine/core/host_device.h"
#include "engine/device/stream.h"

namespace glia {

template <class T> GLIA_HD double row_logsumexp(const T* row, int64_t n) {
  double top = row[0], sum = 0;
  for (int64_t e = 1; e < n; ++e) top = row[e] > top ? row[e] : top;
  for (int64_t e = 0; e < n; ++e) sum += exp(row[e] - top);
  return top + log(sum);
}

// dlogits_te = dloss · 2 z_t softmax_te / real
template <class T> GLIA_HD void z_loss_row_gradient(const T* row, int64_t n, double dloss, double real, T* drow) {
  const double z = row_logsumexp(row, n);
  for (int64_t e = 0; e < n; ++e) drow[e] = static_cast<T>(dloss * 2 * z * exp(row[e] - z) / real);
}

namespace cpu {
template <class T>
void z_loss(const T* logits, const int32_t* sequence_of, const int32_t* real, int64_t tokens, int64_t n, T* loss);
template <class T>
void z_loss_backward(const T* logits, const int32_t* sequence_of, const int32_t* real, int64_t tokens, int64_t n,
                     const T* dloss,
                     T* dlogits);  // =
}  // namespace cpu
namespace cuda {
template <class T>
void z_loss(const T* logits, const int32_t* sequence_of, const int32_t* real, int64_t tokens, int64_t n, T* loss,
            Stream stream);
template <class T>
void z_loss_backward(const T* logits, const int32_t* sequence_of, const int32_t* real, int64_t tokens, int64_t n,
                     const T* dloss, T* dlogits, Stream stream);
}  // namespace cuda

}  // namespace glia
