// bfloat16: the upper half of a float32. Conversion rounds to nearest even; NaN stays NaN.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "engine/core/host_device.h"

// Instantiates templates for every floating type.
#define GLIA_FOR_FLOATING(INSTANTIATE) INSTANTIATE(float) INSTANTIATE(double) INSTANTIATE(bfloat16)

namespace glia {

struct bfloat16 {
  uint16_t bits;

  bfloat16() = default;
  GLIA_HD explicit bfloat16(float x) {
#ifdef __CUDA_ARCH__
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
#else
    uint32_t u;
    std::memcpy(&u, &x, 4);
    const bool nan = (u & 0x7fffffffu) > 0x7f800000u;
    bits = static_cast<uint16_t>(nan ? (u >> 16) | 0x40u : (u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
#endif
  }
  GLIA_HD explicit operator float() const {
    const uint32_t u = static_cast<uint32_t>(bits) << 16;
    float x;
    memcpy(&x, &u, 4);
    return x;
  }
  GLIA_HD explicit operator double() const { return static_cast<double>(static_cast<float>(*this)); }
  GLIA_HD explicit bfloat16(double x) : bfloat16(static_cast<float>(x)) {}
};
static_assert(sizeof(bfloat16) == 2);

// The type in which sums over T are kept: float for bfloat16 and float, double for double.
template <class T> struct AccumulatorOf { using type = float; };
template <> struct AccumulatorOf<double> { using type = double; };
template <class T> using Accumulator = typename AccumulatorOf<T>::type;

}  // namespace glia
