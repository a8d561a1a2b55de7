#include "engine/device/cuda/launch.cuh"
#include "engine/ops/loss/statistics_kernels.h"

namespace glia::cuda {
namespace {

// Sums of a block in shared memory where they fit, then one atomic addition each; exact, so any order gives the
// same bits.
template <class T>
__global__ void __launch_bounds__(kThreads)
    utilisation_kernel(UtilisationShape s, const T* gates, const int32_t* experts, const int32_t* labels,
                       const int32_t* sequence_of, const int32_t* offsets, const int32_t* key_lengths, double* sums,
                       bool in_shared) {
  extern __shared__ double shared[];
  const int64_t width = s.n_experts + 1, n = 2 * s.classes * width;
  double* to = in_shared ? shared : sums;
  if (in_shared) {
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) shared[i] = 0;
    __syncthreads();
  }
  for (int64_t t = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; t < s.tokens;
       t += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int32_t b = sequence_of[t];
    if (b < 0 || labels[b] < 0 || labels[b] >= s.classes) continue;
    const int64_t place = t - offsets[b];
    if (key_lengths && place >= key_lengths[b]) continue;
    for (int view = 0; view < (place == 0 ? 2 : 1); ++view) {
      double* row = to + (view * s.classes + labels[b]) * width;
      atomicAdd(row + s.n_experts, 1.0);
      for (int64_t k = 0; k < s.top_k; ++k)
        if (const int32_t e = experts[t * s.top_k + k]; e >= 0)
          atomicAdd(row + e, quantised_gate(gates[t * s.top_k + k]));
    }
  }
  if (in_shared) {
    __syncthreads();
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
      if (shared[i] != 0) atomicAdd(sums + i, shared[i]);
  }
}

}  // namespace

template <class T>
void utilisation(const UtilisationShape& s, const T* gates, const int32_t* experts, const int32_t* labels,
                 const int32_t* sequence_of, const int32_t* offsets, const int32_t* key_lengths, double* sums,
                 Stream stream) {
  if (s.tokens == 0) return;
  const int64_t bytes = 2 * s.classes * (s.n_experts + 1) * static_cast<int64_t>(sizeof(double));
  const bool in_shared = bytes <= 40 << 10;
  const int blocks = static_cast<int>(std::min<int64_t>((s.tokens + kThreads - 1) / kThreads, 264));
  launch("utilisation", utilisation_kernel<T>, {blocks, kThreads, in_shared ? static_cast<size_t>(bytes) : 0},
         stream, s, gates, experts, labels, sequence_of, offsets, key_lengths, sums, in_shared);
}

template <class T>
void confusion(const T* logits, const int32_t* labels, int64_t rows, int64_t classes, double* counts,
               Stream stream) {
  for_each("confusion", rows, stream, [=] __device__(int64_t b) {
    if (labels[b] < 0 || labels[b] >= classes) return;
    int64_t best = 0;
    for (int64_t c = 1; c < classes; ++c)
      if (static_cast<double>(logits[b * classes + c]) > static_cast<double>(logits[b * classes + best])) best = c;
    atomicAdd(counts + labels[b] * classes + best, 1.0);
  });
}

void gather_index_rows(const int32_t* table, const int32_t* index, int32_t* y, int64_t rows, int64_t width,
                       Stream stream) {
  for_each("gather_index_rows", rows * width, stream, [=] __device__(int64_t i) {
    const int32_t from = index[i / width];
    y[i] = from < 0 ? -1 : table[from * width + i % width];
  });
}

#define INSTANTIATE(T)                                                                                         \
  template void utilisation(const UtilisationShape&, const T*, const int32_t*, const int32_t*, const int32_t*, \
                            const int32_t*, const int32_t*, double*, Stream);                                  \
  template void confusion(const T*, const int32_t*, int64_t, int64_t, double*, Stream);
GLIA_FOR_FLOATING(INSTANTIATE)
#undef INSTANTIATE

}  // namespace glia::cuda
