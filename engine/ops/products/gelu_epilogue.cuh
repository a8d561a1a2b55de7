// What the epilogues of all products compute: GELU, its slope in 16 bits, and column sums of a tile.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "engine/device/cuda/intrinsics.cuh"

namespace glia::cuda {

// Φ(−|x|) = exp2(polynomial in |x|): log2 of the normal tail is so smooth that degree 5 gives it to 1.6e-4 of its
// own value (a tenth of bf16's rounding), far out as well: own minimax fit on [0, 5], falling for ever beyond.
__device__ __forceinline__ float normal_tail(float x) {
  const float a = fabsf(x);
  float p = fmaf(a, -0.0002699187877f, 0.005297360763f);
  p = fmaf(a, p, -0.04631938981f);
  p = fmaf(a, p, -0.4669073727f);
  p = fmaf(a, p, -1.147788939f);
  return exp2_fast(fmaf(a, p, -1.00022834f));
}
// GELU(x) = x Φ(x) = max(x, 0) − |x| Φ(−|x|) from the tail Φ(−|x|)
__device__ __forceinline__ float gelu(float x, float tail) { return fmaf(-fabsf(x), tail, fmaxf(x, 0.0f)); }
// Its slope Φ(x) + x φ(x) in 16 bits, 2¹³ + 2¹⁵ · slope, as the low bits of the float 2²³ + code: the slope lies in
// [−0.129, 1.129], and 0, ½ and 1 are exact. With r = 1 − |x| φ(x) / tail (fit of degree 4, 3e-5 of a slope) it is tail r
// for x < 0 and 1 − tail r for x > 0.
constexpr float kSlopeScale = 32768.0f, kSlopeZero = 8192.0f, kWhole = 8388608.0f;
__device__ __forceinline__ uint32_t gelu_slope_code(float x, float tail) {
  const float a = fabsf(x);
  float r = fmaf(a, 0.01124128245f, -0.09363080398f);
  r = fmaf(a, r, -0.6467482866f);
  r = fmaf(a, r, -0.7957735745f);
  r = fmaf(a, r, 0.9999359033f);
  const float from_half = fmaf(-kSlopeScale * tail, r, kSlopeScale / 2);
  return __float_as_uint(copysignf(from_half, x) + (kWhole + kSlopeZero + kSlopeScale / 2));
}
// The slopes of a word's halves.
__device__ __forceinline__ float2 slopes_of(uint32_t codes) {
  const auto value = [](uint32_t whole) {
    return fmaf(__uint_as_float(whole), 1 / kSlopeScale, -(kWhole + kSlopeZero) / kSlopeScale);
  };
  constexpr uint32_t kHigh = 0x4b000000;  // of 2²³
  return make_float2(value(__byte_perm(codes, kHigh, 0x7610)), value(__byte_perm(codes, kHigh, 0x7632)));
}

// Eight pre-activations become GELU of them; their slopes' codes come back, two a word.
__device__ __forceinline__ uint4 gelu_and_slopes(float* v) {
  uint32_t code[8];
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const float tail = normal_tail(v[j]);
    code[j] = gelu_slope_code(v[j], tail);
    v[j] = gelu(v[j], tail);
  }
  const auto two = [&](int j) { return __byte_perm(code[j], code[j + 1], 0x5410); };
  return make_uint4(two(0), two(2), two(4), two(6));
}

// Lanes that differ in kBit exchange halves of their 2·kWidth sums: each keeps one half, added over both.
template <int kWidth, int kBit> __device__ __forceinline__ void fold_columns(float (&s)[16], int lane) {
  const bool upper = lane & kBit;
#pragma unroll
  for (int i = 0; i < kWidth; ++i) {
    const float keep = upper ? s[i + kWidth] : s[i];
    const float give = upper ? s[i] : s[i + kWidth];
    s[i] = keep + __shfl_xor_sync(0xffffffffu, give, kBit);
  }
}

// Sixteen column sums a lane, over the 8 lanes that hold the same columns, into row[64].
__device__ __forceinline__ void reduce_columns(float (&s)[16], int lane, float* row) {
  fold_columns<8, 16>(s, lane);
  fold_columns<4, 8>(s, lane);
  fold_columns<2, 4>(s, lane);
  const int first = (lane >> 4 & 1) * 8 + (lane >> 3 & 1) * 4 + (lane >> 2 & 1) * 2;
  const int col = (first >> 2) * 16 + (first >> 1 & 1) * 8 + 2 * (lane & 3);
  *reinterpret_cast<float2*>(row + col) = make_float2(s[0], s[1]);
}

}  // namespace glia::cuda
