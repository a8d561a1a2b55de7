#include "engine/device/cuda/launch.cuh"
#include "engine/ops/ranks/pack_kernels.h"

namespace glia::cuda {
namespace {

// grid (blocks, parts)
template <class T>
__global__ void __launch_bounds__(kThreads) pack_kernel(const __grid_constant__ Packed<T> p, T* to) {
  const typename Packed<T>::Part& part = p.part[blockIdx.y];
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < part.room;
       i += static_cast<int64_t>(gridDim.x) * kThreads)
    to[part.at + i] = packed_element<T>(part, i);
}

}  // namespace

template <class T> void pack(const Packed<T>& p, int64_t longest, T* to, Stream stream) {
  launch("pack", pack_kernel<T>, {dim3(grid_for(longest), p.parts), kThreads}, stream, p, to);
}

template void pack(const Packed<float>&, int64_t, float*, Stream);
template void pack(const Packed<double>&, int64_t, double*, Stream);
template void pack(const Packed<bfloat16>&, int64_t, bfloat16*, Stream);
template void pack(const Packed<int32_t>&, int64_t, int32_t*, Stream);

}  // namespace glia::cuda
