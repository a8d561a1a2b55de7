#include "engine/ops/moe/choose.h"

#include <algorithm>
#include <atomic>

#include "engine/core/parallel.h"
#include "engine/ops/checks.h"
#include "engine/ops/moe/choose_kernels.h"
#include "engine/ops/moe/moe_functors.h"
#include "engine/ops/wide_types.h"

namespace glia {
namespace {

// gates [T, S] of weights [T, E]: the gradient goes where the gate came from.
Var record_gates(const char* op, const Tensor& gates, const Tensor& chosen, const Var& weights, ChooseShape shape,
                 const Tensor& sequence_of) {
  return record(op, gates, {weights}, [=](const Tensor& dy, Grads& in) {
    static_cast<void>(sequence_of);  // kept: the shape points into it
    const Tensor dw = in.buffer(0);
    dispatch_wide(dy.dtype(), "choose", [&]<class A>(TypeTag<A>) {
      const int32_t* c = chosen.data<int32_t>();
      on_device(
          dy.context(), "choose/gradient", [&] { cpu::choose_gradient(shape, c, dy.data<A>(), dw.data<A>()); },
          [&](auto& cuda) { cuda::choose_gradient(shape, c, dy.data<A>(), dw.data<A>(), cuda.stream); });
    });
    in.add(0, dw);
  });
}

}  // namespace

Gates choose(const Var& weights, const Tensor& bias, int64_t k, const Sequences& q) {
  CHECK(weights.rank() == 2 && weights.size(0) == q.tokens && k >= 1 && k <= weights.size(1),
        "choose: wants weights [{}, E] and 1 <= k <= E, got {} and k = {}", q.tokens, weights.shape(), k);
  CHECK(!bias.defined() || (bias.shape() == Shape{weights.size(1)} && bias.dtype() == weights.dtype()),
        "choose: wants a bias {} [{}] or none, got {} {}", weights.dtype(), weights.size(1), bias.dtype(),
        bias.shape());
  Context& context = weights.context();
  const ChooseShape shape{q.tokens, weights.size(1), k, q.sequence_of.data<int32_t>()};
  const Tensor gates = empty(context, {q.tokens, k}, weights.dtype()),
               chosen = empty(context, {q.tokens, k}, DType::kInt32);
  dispatch_wide(weights.dtype(), "choose", [&]<class A>(TypeTag<A>) {
    const A *w = weights.value().data<A>(), *b = bias.defined() ? bias.data<A>() : nullptr;
    on_device(
        context, "choose", [&] { cpu::choose(shape, w, b, gates.data<A>(), chosen.data<int32_t>()); },
        [&](auto& cuda) { cuda::choose(shape, w, b, gates.data<A>(), chosen.data<int32_t>(), cuda.stream); });
  });
  return {record_gates("choose", gates, chosen, weights, shape, q.sequence_of), chosen};
}

Gates choose_among(const Var& weights, const Tensor& choice, int64_t slots, const Sequences& q) {
  CHECK(weights.rank() == 2 && weights.size(0) == q.tokens && slots >= 1 && slots <= weights.size(1),
        "choose_among: wants weights [{}, E] and 1 to E slots, got {} and {} slots", q.tokens, weights.shape(),
        slots);
  check_same("choose_among", weights, choice);
  Context& context = weights.context();
  const ChooseShape shape{q.tokens, weights.size(1), slots, q.sequence_of.data<int32_t>()};
  const Tensor gates = empty(context, {q.tokens, slots}, weights.dtype()),
               chosen = empty(context, {q.tokens, slots}, DType::kInt32);
  dispatch_wide(weights.dtype(), "choose_among", [&]<class A>(TypeTag<A>) {
    const A *w = weights.value().data<A>(), *c = choice.data<A>();
    on_device(
        context, "choose_among", [&] { cpu::choose_among(shape, w, c, gates.data<A>(), chosen.data<int32_t>()); },
        [&](auto& cuda) { cuda::choose_among(shape, w, c, gates.data<A>(), chosen.data<int32_t>(), cuda.stream); });
  });
  return {record_gates("choose_among", gates, chosen, weights, shape, q.sequence_of), chosen};
}

TopP choose_top_p(const Var& weights, double p, int64_t slots, const Sequences& q) {
  CHECK(weights.rank() == 2 && weights.size(0) == q.tokens && slots >= 1 && slots <= weights.size(1),
        "choose_top_p: wants weights [{}, E] and 1 to E slots, got {} and {} slots", q.tokens, weights.shape(),
        slots);
  Context& context = weights.context();
  const ChooseShape shape{q.tokens, weights.size(1), slots, q.sequence_of.data<int32_t>()};
  const Tensor gates = empty(context, {q.tokens, slots}, weights.dtype()),
               chosen = empty(context, {q.tokens, slots}, DType::kInt32),
               overflow = zeros(context, {1}, weights.dtype());
  dispatch_wide(weights.dtype(), "choose_top_p", [&]<class A>(TypeTag<A>) {
    const A* w = weights.value().data<A>();
    on_device(
        context, "choose_top_p",
        [&] { cpu::choose_top_p(shape, w, p, gates.data<A>(), chosen.data<int32_t>(), overflow.data<A>()); },
        [&](auto& cuda) {
          cuda::choose_top_p(shape, w, p, gates.data<A>(), chosen.data<int32_t>(), overflow.data<A>(), cuda.stream);
        });
  });
  return {record_gates("choose_top_p", gates, chosen, weights, shape, q.sequence_of), chosen, overflow};
}

Tensor expert_counts(const Tensor& experts, int64_t n_experts, DType dtype) {
  CHECK(experts.rank() == 2 && experts.dtype() == DType::kInt32 && n_experts >= 1,
        "expert_counts: wants experts int32 [T, S], got {} {}", experts.dtype(), experts.shape());
  const Tensor counts = empty(experts.context(), {n_experts}, dtype);
  dispatch_wide(dtype, "expert_counts", [&]<class A>(TypeTag<A>) {
    const int32_t* e = experts.data<int32_t>();
    on_device(
        experts.context(), "expert_counts",
        [&] { cpu::expert_counts(e, experts.numel(), n_experts, counts.data<A>()); },
        [&](auto& cuda) { cuda::expert_counts(e, experts.numel(), n_experts, counts.data<A>(), cuda.stream); });
  });
  return counts;
}

void update_load_bias(const Tensor& bias, const Tensor& counts, double rate) {
  CHECK(bias.rank() == 1 && bias.shape() == counts.shape() && bias.dtype() == counts.dtype(),
        "update_load_bias: wants bias and counts [E] in one dtype, got {} {} and {} {}", bias.dtype(), bias.shape(),
        counts.dtype(), counts.shape());
  dispatch_wide(bias.dtype(), "update_load_bias", [&]<class A>(TypeTag<A>) {
    on_device(
        bias.context(), "update_load_bias",
        [&] { cpu::update_load_bias(counts.data<A>(), bias.size(0), rate, bias.data<A>()); },
        [&](auto& cuda) {
          cuda::update_load_bias(counts.data<A>(), bias.size(0), rate, bias.data<A>(), cuda.stream);
        });
  });
}

namespace cpu {

template <class A> void choose(const ChooseShape& s, const A* weights, const A* bias, A* gates, int32_t* chosen) {
  parallel_for(s.tokens, 1024, [=](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      choose_biased(s.sequence_of[t] >= 0 ? weights + t * s.experts : nullptr, bias, s.experts, s.slots,
                    gates + t * s.slots, chosen + t * s.slots);
  });
}

template <class A>
void choose_among(const ChooseShape& s, const A* weights, const A* choice, A* gates, int32_t* chosen) {
  parallel_for(s.tokens, 1024, [=](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      choose_allowed(s.sequence_of[t] >= 0 ? weights + t * s.experts : nullptr, choice + t * s.experts, s.experts,
                     s.slots, gates + t * s.slots, chosen + t * s.slots);
  });
}

template <class A>
void choose_top_p(const ChooseShape& s, const A* weights, double p, A* gates, int32_t* chosen, A* overflow) {
  std::atomic<int64_t> count = 0;
  parallel_for(s.tokens, 1024, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      count += choose_until(s.sequence_of[t] >= 0 ? weights + t * s.experts : nullptr, s.experts, s.slots,
                            static_cast<A>(p), gates + t * s.slots, chosen + t * s.slots);
  });
  *overflow = static_cast<A>(count.load());
}

template <class A> void choose_gradient(const ChooseShape& s, const int32_t* chosen, const A* dgates, A* dweights) {
  std::fill_n(dweights, s.tokens * s.experts, A{0});
  for (int64_t i = 0; i < s.tokens * s.slots; ++i)
    if (chosen[i] >= 0) dweights[i / s.slots * s.experts + chosen[i]] = dgates[i];
}

template <class A> void expert_counts(const int32_t* chosen, int64_t pairs, int64_t experts, A* counts) {
  check_chosen("expert_counts", chosen, pairs, experts);
  std::fill_n(counts, experts, A{0});
  for (int64_t i = 0; i < pairs; ++i)
    if (chosen[i] >= 0) counts[chosen[i]] += 1;
}

template <class A> void update_load_bias(const A* counts, int64_t experts, double rate, A* bias) {
  for (int64_t e = 0; e < experts; ++e) bias[e] += load_bias_step(counts, e, experts, static_cast<A>(rate));
}

}  // namespace cpu

}  // namespace glia
