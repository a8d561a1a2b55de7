#include "engine/device/cuda/launch.cuh"
#include "engine/ops/loss/loss_sum_kernels.h"

namespace glia::cuda {
namespace {

// One thread a part; thread 0 adds the parts up.
template <class T> __global__ void sum_losses_kernel(const __grid_constant__ LossTerms<T> l, T* total, T* parts) {
  __shared__ double shared[kMaxLossParts];
  const int p = threadIdx.x;
  if (p < l.parts) {
    const double part = sum_of_part(l, p);
    parts[p] = static_cast<T>(part);
    shared[p] = l.weight[p] * part;
  }
  __syncthreads();
  if (p == 0 && l.last) {
    double sum = 0;
    for (int q = 0; q < l.parts; ++q) sum += shared[q];
    *total = static_cast<T>(sum);
  }
}

template <class T>
__global__ void sum_losses_backward_kernel(const __grid_constant__ LossTerms<T> l, const T* dtotal, T* dvalues) {
  const int i = threadIdx.x;
  if (i >= l.terms) return;
  for (int j = 0; j < l.size[i]; ++j)
    dvalues[i * kMaxLossElements + j] = static_cast<T>(*dtotal * l.weight[l.part[i][j]] * l.scale[i]);
}

}  // namespace

template <class T> void sum_losses(const LossTerms<T>& l, T* total, T* parts, Stream stream) {
  launch("sum_losses", sum_losses_kernel<T>, {1, kMaxLossParts}, stream, l, total, parts);
}

template <class T> void sum_losses_backward(const LossTerms<T>& l, const T* dtotal, T* dvalues, Stream stream) {
  launch("sum_losses_backward", sum_losses_backward_kernel<T>, {1, 128}, stream, l, dtotal, dvalues);
}

template void sum_losses(const LossTerms<float>&, float*, float*, Stream);
template void sum_losses(const LossTerms<double>&, double*, double*, Stream);
template void sum_losses_backward(const LossTerms<float>&, const float*, float*, Stream);
template void sum_losses_backward(const LossTerms<double>&, const double*, double*, Stream);

}  // namespace glia::cuda
