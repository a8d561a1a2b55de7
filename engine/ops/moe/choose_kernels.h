// Kernels of choose.cpp. T rows, E experts, S slots; sequence_of [T], −1 in the tail.
#pragma once
#include <cstdint>

#include "engine/device/stream.h"

namespace glia {

struct ChooseShape {
  int64_t tokens, experts, slots;
  const int32_t* sequence_of;
};

namespace cpu {
// weights [T, E], bias [E] or nullptr; gates [T, S] =, chosen [T, S] =
template <class A> void choose(const ChooseShape& s, const A* weights, const A* bias, A* gates, int32_t* chosen);
template <class A>  // choice [T, E]
void choose_among(const ChooseShape& s, const A* weights, const A* choice, A* gates, int32_t* chosen);
template <class A>  // overflow [1] =
void choose_top_p(const ChooseShape& s, const A* weights, double p, A* gates, int32_t* chosen, A* overflow);
template <class A>  // dweights [T, E] =
void choose_gradient(const ChooseShape& s, const int32_t* chosen, const A* dgates, A* dweights);
template <class A> void expert_counts(const int32_t* chosen, int64_t pairs, int64_t experts, A* counts);  // [E] =
template <class A> void update_load_bias(const A* counts, int64_t experts, double rate, A* bias);         // [E] +=
}  // namespace cpu
namespace cuda {
template <class A>
void choose(const ChooseShape& s, const A* weights, const A* bias, A* gates, int32_t* chosen, Stream stream);
template <class A>
void choose_among(const ChooseShape& s, const A* weights, const A* choice, A* gates, int32_t* chosen,
                  Stream stream);
template <class A>  // overflow [1] +=
void choose_top_p(const ChooseShape& s, const A* weights, double p, A* gates, int32_t* chosen, A* overflow,
                  Stream stream);
template <class A>
void choose_gradient(const ChooseShape& s, const int32_t* chosen, const A* dgates, A* dweights, Stream stream);
template <class A>
void expert_counts(const int32_t* chosen, int64_t pairs, int64_t experts, A* counts, Stream stream);
template <class A> void update_load_bias(const A* counts, int64_t experts, double rate, A* bias, Stream stream);
}  // namespace cuda

}  // namespace glia
