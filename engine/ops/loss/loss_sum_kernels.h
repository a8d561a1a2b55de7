// The weighted sum of a handful of scalars that lie in different places.
#pragma once
#include <cstdint>

#include "engine/device/stream.h"

namespace glia {

constexpr int kMaxLossTerms = 96, kMaxLossElements = 4, kMaxLossParts = 16;

// Passed to the kernel by value: no upload.
template <class T> struct LossTerms {
  const T* values[kMaxLossTerms];  // term i has size[i] elements
  double scale[kMaxLossTerms];
  int8_t size[kMaxLossTerms];
  int8_t part[kMaxLossTerms][kMaxLossElements];
  double weight[kMaxLossParts];
  int terms = 0, parts = 0;
};

namespace cpu {
template <class T> void sum_losses(const LossTerms<T>& l, T* total, T* parts);  // =; parts [l.parts]
template <class T>
void sum_losses_backward(const LossTerms<T>& l, const T* dtotal, T* dvalues);  // =; [terms, kMaxLossElements]
}  // namespace cpu
namespace cuda {
template <class T> void sum_losses(const LossTerms<T>& l, T* total, T* parts, Stream stream);
template <class T> void sum_losses_backward(const LossTerms<T>& l, const T* dtotal, T* dvalues, Stream stream);
}  // namespace cuda

}  // namespace glia
