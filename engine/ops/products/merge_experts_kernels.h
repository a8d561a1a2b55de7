// Kernels of merge_experts.cpp. T: the merged weights' type; shares and experts' weights have its accumulation type. All
// write (=); each sum has an order that the sizes alone decide, but for dp's on CUDA, where the pointers' alignment does too.
#pragma once
#include <cstdint>

#include "engine/core/bfloat16.h"
#include "engine/device/stream.h"

namespace glia {

struct MergeShape {
  int64_t sequences, experts, columns;  // B, E, N
};

namespace cpu {
// p [B, E], w [E, N] → merged [B, N]
template <class T>
void merge_experts(const MergeShape& s, const Accumulator<T>* p, const Accumulator<T>* w, T* merged);
// dw[e, j] = Σ_b p[b, e] d[b, j], b ascending.     p [B, E], d [B, N] → dw [E, N]
template <class T>
void merge_weight_gradient(const MergeShape& s, const Accumulator<T>* p, const T* d, Accumulator<T>* dw);
// dp[b, e] = Σ_j d[b, j] w[e, j].     d [B, N], w [E, N] → dp [B, E]
template <class T>
void merge_share_gradient(const MergeShape& s, const T* d, const Accumulator<T>* w, Accumulator<T>* dp);
}  // namespace cpu

namespace cuda {
template <class T>
void merge_experts(const MergeShape& s, const Accumulator<T>* p, const Accumulator<T>* w, T* merged, Stream stream);
template <class T>
void merge_weight_gradient(const MergeShape& s, const Accumulator<T>* p, const T* d, Accumulator<T>* dw,
                           Stream stream);
// Parts of a row that merge_share_gradient() of these pointers sums by themselves.
template <class T> int merge_chunks(const MergeShape& s, const T* d, const Accumulator<T>* w);
// partial [merge_chunks(), B, E]: overwritten
template <class T>
void merge_share_gradient(const MergeShape& s, const T* d, const Accumulator<T>* w, Accumulator<T>* partial,
                          Accumulator<T>* dp, Stream stream);
}  // namespace cuda

}  // namespace glia
