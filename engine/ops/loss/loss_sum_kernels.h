// The weighted sum of a handful of scalars that lie in different places.
#pragma once
#include <cstdint>

#include "engine/core/host_device.h"
#include "engine/device/stream.h"

namespace glia {

constexpr int kMaxLossTerms = 96, kMaxLossElements = 4, kMaxLossParts = 64;

// Passed to the kernel by value: no upload. More terms than fit come in several groups, in order: each adds to the
// running parts that the one before left, so that the sums have the same bits in one group and in many.
template <class T> struct LossTerms {
  const T* values[kMaxLossTerms];  // term i has size[i] elements
  double scale[kMaxLossTerms];
  int8_t size[kMaxLossTerms];
  int8_t part[kMaxLossTerms][kMaxLossElements];
  double weight[kMaxLossParts];
  int terms = 0, parts = 0;
  double* running = nullptr;  // [parts]; nullptr where one group holds all
  bool first = true, last = true;
};

// Part p's sum with what earlier groups left of it; left in turn for the next group, if there is one.
template <class T> GLIA_HD double sum_of_part(const LossTerms<T>& l, int p) {
  double part = l.first ? 0 : l.running[p];
  for (int i = 0; i < l.terms; ++i)
    for (int j = 0; j < l.size[i]; ++j)
      if (l.part[i][j] == p) part += l.scale[i] * l.values[i][j];
  if (!l.last) l.running[p] = part;
  return part;
}

namespace cpu {
// Of the last group: =; parts [l.parts]
template <class T> void sum_losses(const LossTerms<T>& l, T* total, T* parts);
template <class T>
void sum_losses_backward(const LossTerms<T>& l, const T* dtotal, T* dvalues);  // =; [terms, kMaxLossElements]
}  // namespace cpu
namespace cuda {
template <class T> void sum_losses(const LossTerms<T>& l, T* total, T* parts, Stream stream);
template <class T> void sum_losses_backward(const LossTerms<T>& l, const T* dtotal, T* dvalues, Stream stream);
}  // namespace cuda

}  // namespace glia
