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

// a · b in 64 bits, as one instruction of 32-bit factors. Where a factor is a choice between a load and 0, ptxas 13.0 otherwise
// widens it first: a zeroing of 64 bits (CS2R), a load or product under a predicate, and for what reads the result it waits for
// the latter alone. Five cycles after the zeroing the register now and then still held something else, and a warp drew
// other numbers than its own (attention's gradient for the queries in tests/device/attention_harness).
__device__ __forceinline__ uint64_t wide_product(uint32_t a, uint32_t b) {
  uint64_t product;
  asm("mul.wide.u32 %0, %1, %2;" : "=l"(product) : "r"(a), "r"(b));
  return product;
}

}  // namespace glia
