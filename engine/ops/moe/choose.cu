#include "engine/device/cuda/launch.cuh"
#include "engine/ops/moe/choose_kernels.h"
#include "engine/ops/moe/moe_functors.h"

namespace glia::cuda {

template <class A>
void choose(const ChooseShape& s, const A* weights, const A* bias, A* gates, int32_t* chosen, Stream stream) {
  for_each("choose", s.tokens, stream, [=] __device__(int64_t t) {
    const bool real = s.sequence_of[t] >= 0;
    choose_biased(real ? weights + t * s.experts : nullptr, bias, s.experts, s.slots, gates + t * s.slots,
                  chosen + t * s.slots);
  });
}

template <class A>
void choose_among(const ChooseShape& s, const A* weights, const A* choice, A* gates, int32_t* chosen,
                  Stream stream) {
  for_each("choose_among", s.tokens, stream, [=] __device__(int64_t t) {
    const bool real = s.sequence_of[t] >= 0;
    choose_allowed(real ? weights + t * s.experts : nullptr, choice + t * s.experts, s.experts, s.slots,
                   gates + t * s.slots, chosen + t * s.slots);
  });
}

template <class A>
void choose_top_p(const ChooseShape& s, const A* weights, double p, A* gates, int32_t* chosen, A* overflow,
                  Stream stream) {
  for_each("choose_top_p", s.tokens, stream, [=] __device__(int64_t t) {
    const bool real = s.sequence_of[t] >= 0;
    // Ones are added: exact, so the order of the additions does not matter.
    if (choose_until(real ? weights + t * s.experts : nullptr, s.experts, s.slots, static_cast<A>(p),
                     gates + t * s.slots, chosen + t * s.slots))
      atomicAdd(overflow, A(1));
  });
}

template <class A>
void choose_gradient(const ChooseShape& s, const int32_t* chosen, const A* dgates, A* dweights, Stream stream) {
  for_each("choose/gradient", s.tokens, stream, [=] __device__(int64_t t) {
    for (int64_t e = 0; e < s.experts; ++e) dweights[t * s.experts + e] = 0;
    for (int64_t i = t * s.slots; i < (t + 1) * s.slots; ++i)
      if (chosen[i] >= 0) dweights[t * s.experts + chosen[i]] = dgates[i];
  });
}

namespace {

// One block an expert.
template <class A>
__global__ void __launch_bounds__(kThreads) expert_counts_kernel(const int32_t* chosen, int64_t pairs, A* counts) {
  __shared__ int32_t shared[32];
  int32_t count = 0;
  for (int64_t i = threadIdx.x; i < pairs; i += kThreads) count += chosen[i] == static_cast<int32_t>(blockIdx.x);
  count = block_sum(count, shared);
  if (threadIdx.x == 0) counts[blockIdx.x] = static_cast<A>(count);
}

}  // namespace

template <class A>
void expert_counts(const int32_t* chosen, int64_t pairs, int64_t experts, A* counts, Stream stream) {
  launch("expert_counts", expert_counts_kernel<A>, {experts, kThreads}, stream, chosen, pairs, counts);
}

template <class A> void update_load_bias(const A* counts, int64_t experts, double rate, A* bias, Stream stream) {
  for_each("update_load_bias", experts, stream,
           [=] __device__(int64_t e) { bias[e] += load_bias_step(counts, e, experts, static_cast<A>(rate)); });
}

#define INSTANTIATE(A)                                                                        \
  template void choose(const ChooseShape&, const A*, const A*, A*, int32_t*, Stream);         \
  template void choose_among(const ChooseShape&, const A*, const A*, A*, int32_t*, Stream);   \
  template void choose_top_p(const ChooseShape&, const A*, double, A*, int32_t*, A*, Stream); \
  template void choose_gradient(const ChooseShape&, const int32_t*, const A*, A*, Stream);    \
  template void expert_counts(const int32_t*, int64_t, int64_t, A*, Stream);                  \
  template void update_load_bias(const A*, int64_t, double, A*, Stream);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace glia::cuda
