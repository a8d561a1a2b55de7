// DSelect-k's selectors (Hazimeh et al. 2021): each has as many smooth bits as an expert's number, and gives every expert
// the product of the bits of its number.
//     S(z) = 0 below −γ/2, 1 above γ/2, −2 z³/γ³ + 3 z/(2γ) + ½ between:  p_ie = Π_b (bit b of e ? S(z_ib) : 1 − S(z_ib))
// Numbers from E on are left out, so that p sums to 1 where E is a power of two and to at most 1 elsewhere.
//     z [T, k·m] (float32 or float64), m = ⌈log₂ E⌉ → [T·k, E]
#pragma once
#include "engine/autograd.h"

namespace glia {

// 1 for E = 1: a bit that has nothing to say.
int64_t code_bits(int64_t n_experts);
Var select_codes(const Var& z, int64_t selectors, int64_t n_experts, double gamma);

}  // namespace glia
