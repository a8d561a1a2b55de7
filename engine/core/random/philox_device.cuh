// cuRAND's Philox as the device side of rng.h; only nvcc reads this file.
#pragma once
#include <cuda_runtime.h>
#include <curand_philox4x32_x.h>

namespace glia {

__device__ __forceinline__ void curand_philox(const uint32_t (&counter)[4], const uint32_t (&key)[2],
                                              uint32_t (&out)[4]) {
  const uint4 r =
      curand_Philox4x32_10(make_uint4(counter[0], counter[1], counter[2], counter[3]), make_uint2(key[0], key[1]));
  out[0] = r.x, out[1] = r.y, out[2] = r.z, out[3] = r.w;
}

}  // namespace glia
