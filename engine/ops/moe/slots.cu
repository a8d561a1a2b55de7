#include "engine/device/cuda/launch.cuh"
#include "engine/ops/moe/slots_kernels.h"

namespace glia::cuda {
namespace {

// A warp a pair of row and slot.
template <class T>
__global__ void __launch_bounds__(kThreads)
    slot_products_kernel(SlotShape k, const T* x, const T* z, Accumulator<T>* d) {
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (kThreads / 32);
  const int lane = threadIdx.x % 32;
  for (int64_t i = blockIdx.x * static_cast<int64_t>(kThreads / 32) + threadIdx.x / 32; i < k.tokens * k.slots;
       i += warps) {
    const int64_t t = i / k.slots, b = k.sequence_of[t];
    const T *row = x + t * k.hidden, *slot = z + (b * k.slots + i % k.slots) * k.hidden;
    Accumulator<T> sum = 0;
    for (int64_t h = lane; b >= 0 && h < k.hidden; h += 32)
      sum += static_cast<Accumulator<T>>(row[h]) * static_cast<Accumulator<T>>(slot[h]);
    sum = warp_sum(sum);
    if (lane == 0) d[i] = sum;
  }
}

}  // namespace

template <class A> void sequence_softmax(const SlotShape& k, const A* x, A* y, Stream stream) {
  for_each("sequence_softmax", k.sequences * k.slots, stream,
           [=] __device__(int64_t i) { softmax_of_column(k, x, y, i / k.slots, i % k.slots); });
}

template <class A>
void sequence_softmax_gradient(const SlotShape& k, const A* y, const A* dy, A* dx, Stream stream) {
  for_each("sequence_softmax/gradient", k.sequences * k.slots, stream,
           [=] __device__(int64_t i) { softmax_gradient_of_column(k, y, dy, dx, i / k.slots, i % k.slots); });
}

template <class T> void blend_rows(const SlotShape& k, const T* x, const Accumulator<T>* w, T* z, Stream stream) {
  for_each("blend_rows", k.sequences * k.slots * k.hidden, stream,
           [=] __device__(int64_t i) { z[i] = blended(k, x, w, i / k.hidden, i % k.hidden); });
}

template <class T> void spread_slots(const SlotShape& k, const T* z, const Accumulator<T>* w, T* y, Stream stream) {
  for_each("spread_slots", k.tokens * k.hidden, stream,
           [=] __device__(int64_t i) { y[i] = spread(k, z, w, i / k.hidden, i % k.hidden); });
}

template <class T>
void slot_products(const SlotShape& k, const T* x, const T* z, Accumulator<T>* d, Stream stream) {
  if (k.tokens * k.slots == 0) return;
  launch("slot_products", slot_products_kernel<T>, {grid_for(k.tokens * k.slots, kThreads / 32), kThreads}, stream,
         k, x, z, d);
}

void slot_experts(int64_t rows, int64_t slots, int64_t of_each, int32_t* experts, Stream stream) {
  for_each("slot_experts", rows, stream,
           [=] __device__(int64_t i) { experts[i] = static_cast<int32_t>(i % slots / of_each); });
}

#define INSTANTIATE(T)                                                                       \
  template void blend_rows(const SlotShape&, const T*, const Accumulator<T>*, T*, Stream);   \
  template void spread_slots(const SlotShape&, const T*, const Accumulator<T>*, T*, Stream); \
  template void slot_products(const SlotShape&, const T*, const T*, Accumulator<T>*, Stream);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)
#undef INSTANTIATE
#define INSTANTIATE(A)                                                    \
  template void sequence_softmax(const SlotShape&, const A*, A*, Stream); \
  template void sequence_softmax_gradient(const SlotShape&, const A*, const A*, A*, Stream);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace glia::cuda
