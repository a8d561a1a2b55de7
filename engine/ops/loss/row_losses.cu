#include "engine/device/cuda/launch.cuh"
#include "engine/ops/loss/row_losses_kernels.h"

namespace glia::cuda {
namespace {

// One block: 10 k rows of 8 logits take it a few microseconds, and the order of the additions is fixed.
template <class L, class T>
__global__ void __launch_bounds__(1024) row_loss_kernel(RowLossShape s, L loss, const T* logits, T* to) {
  __shared__ double shared[32];
  double sum = 0;
  for (int64_t t = threadIdx.x; t < s.tokens; t += blockDim.x) {
    if (s.sequence_of[t] < 0) continue;
    sum += loss.value(logits + t * s.experts, s.experts, static_cast<double>(*s.real));
  }
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) *to = static_cast<T>(sum / *s.real);
}

}  // namespace

template <class L, class T>
void row_loss(const RowLossShape& s, const L& loss, const T* logits, T* sum, Stream stream) {
  launch(L::kName, row_loss_kernel<L, T>, {1, 1024}, stream, s, loss, logits, sum);
}

template <class L, class T>
void row_loss_gradient(const RowLossShape& s, const L& loss, const T* logits, const T* dloss, T* dlogits,
                       Stream stream) {
  for_each(L::kGradient, s.tokens, stream, [=] __device__(int64_t t) {
    T* to = dlogits + t * s.experts;
    if (s.sequence_of[t] < 0) {
      for (int64_t e = 0; e < s.experts; ++e) to[e] = T(0);
    } else {
      loss.gradient(logits + t * s.experts, s.experts, static_cast<double>(*dloss), static_cast<double>(*s.real),
                    to);
    }
  });
}

#define INSTANTIATE(L, T)                                                         \
  template void row_loss(const RowLossShape&, const L<T>&, const T*, T*, Stream); \
  template void row_loss_gradient(const RowLossShape&, const L<T>&, const T*, const T*, T*, Stream);
INSTANTIATE(ZLoss, float)
INSTANTIATE(ZLoss, double)
INSTANTIATE(SwitchLoss, float)
INSTANTIATE(SwitchLoss, double)
INSTANTIATE(EntropyLoss, float)
INSTANTIATE(EntropyLoss, double)
#undef INSTANTIATE

}  // namespace glia::cuda
