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

// A row's share of a loss is {value, gradient}: the loss is Σ_t value / real, and gradient writes dloss / real times
// the value's derivative.
template <class T> struct ZLoss {
  static constexpr const char *kName = "z_loss", *kGradient = "z_loss/gradient";
  GLIA_HD double value(const T* row, int64_t n, double) const {
    const double z = row_logsumexp(row, n);
    return z * z;
  }
  // dl_e = 2 z P_e
  GLIA_HD void gradient(const T* row, int64_t n, double dloss, double real, T* drow) const {
    const double z = row_logsumexp(row, n);
    for (int64_t e = 0; e < n; ++e) drow[e] = static_cast<T>(dloss * 2 * z * exp(row[e] - z) / real);
  }
};

template <class T> struct SwitchLoss {
  static constexpr const char *kName = "switch_loss", *kGradient = "switch_loss/gradient";
  const T* counts;  // [E]
  double factor;    // E / per_token

  GLIA_HD double value(const T* row, int64_t n, double real) const {
    const double z = row_logsumexp(row, n);
    double sum = 0;
    for (int64_t e = 0; e < n; ++e) sum += static_cast<double>(counts[e]) * exp(row[e] - z);
    return factor * sum / real;
  }
  // dl_e = P_e (a_e − Σ_j a_j P_j) with a = factor · counts / real
  GLIA_HD void gradient(const T* row, int64_t n, double dloss, double real, T* drow) const {
    const double z = row_logsumexp(row, n), mean = value(row, n, real);
    for (int64_t e = 0; e < n; ++e)
      drow[e] =
          static_cast<T>(dloss * exp(row[e] - z) * (factor * static_cast<double>(counts[e]) / real - mean) / real);
  }
};

template <class T> struct EntropyLoss {
  static constexpr const char *kName = "entropy_loss", *kGradient = "entropy_loss/gradient";
  GLIA_HD double value(const T* row, int64_t n, double) const {
    const double z = row_logsumexp(row, n);
    double sum = 0;
    for (int64_t e = 0; e < n; ++e) sum -= exp(row[e] - z) * (row[e] - z);
    return sum;
  }
  // dl_e = −P_e (ln P_e + entropy)
  GLIA_HD void gradient(const T* row, int64_t n, double dloss, double real, T* drow) const {
    const double z = row_logsumexp(row, n), entropy = value(row, n, real);
    for (int64_t e = 0; e < n; ++e)
      drow[e] = static_cast<T>(-dloss * exp(row[e] - z) * (row[e] - z + entropy) / real);
  }
};

struct RowLossShape {
  int64_t tokens, experts;
  const int32_t* sequence_of;  // [T]
  const int32_t* real;         // one int: offsets[B]
};

namespace cpu {
template <class L, class T> void row_loss(const RowLossShape& s, const L& loss, const T* logits, T* sum);  // [1] =
template <class L, class T>
void row_loss_gradient(const RowLossShape& s, const L& loss, const T* logits, const T* dloss, T* dlogits);  // =
}  // namespace cpu
namespace cuda {
template <class L, class T>
void row_loss(const RowLossShape& s, const L& loss, const T* logits, T* sum, Stream stream);
template <class L, class T>
void row_loss_gradient(const RowLossShape& s, const L& loss, const T* logits, const T* dloss, T* dlogits,
                       Stream stream);
}  // namespace cuda

}  // namespace glia
