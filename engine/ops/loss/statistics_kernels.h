#pragma once
#include <cmath>
#include <cstdint>

#include "engine/core/host_device.h"
#include "engine/device/stream.h"

namespace glia {

// Sums of gates are kept in float64 as multiples of 2^-24 below 2^29: every addition is exact, so the order of
// atomic additions does not matter and CPU and CUDA give the same bits.
template <class T> GLIA_HD double quantised_gate(T gate) {
  return rint(static_cast<double>(gate) * 16777216.0) * (1.0 / 16777216.0);
}

struct UtilisationShape {
  int64_t tokens, top_k, n_experts, classes;
};

// gates [T, K], experts [T, K], labels [B], sequence_of [T], offsets [B + 1], key_lengths [B] or null; sums [2, C,
// E + 1] +=
namespace cpu {
template <class T>
void utilisation(const UtilisationShape& s, const T* gates, const int32_t* experts, const int32_t* labels,
                 const int32_t* sequence_of, const int32_t* offsets, const int32_t* key_lengths, double* sums);
template <class T>
void confusion(const T* logits, const int32_t* labels, int64_t rows, int64_t classes, double* counts);
void gather_index_rows(const int32_t* table, const int32_t* index, int32_t* y, int64_t rows, int64_t width);
}  // namespace cpu
namespace cuda {
template <class T>
void utilisation(const UtilisationShape& s, const T* gates, const int32_t* experts, const int32_t* labels,
                 const int32_t* sequence_of, const int32_t* offsets, const int32_t* key_lengths, double* sums,
                 Stream stream);
template <class T>
void confusion(const T* logits, const int32_t* labels, int64_t rows, int64_t classes, double* counts,
               Stream stream);
void gather_index_rows(const int32_t* table, const int32_t* index, int32_t* y, int64_t rows, int64_t width,
                       Stream stream);
}  // namespace cuda

}  // namespace glia
