// A router of one's own: experts chosen from tanh(x) instead of x, in a layer of four experts that learns |x| + x² row by row.
//   g++ own_router.cpp $(pkg-config --cflags --libs glia) -o own_router && ./own_router
#include <cstdio>

#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/rows/reduce.h"
#include "moe/router.h"
#include "nn/optimizer.h"

using namespace glia;

class TanhRouter : public Router {
 public:
  TanhRouter(ParameterSet& set, const RouterOptions& o)
      : options_(o), token_(set, "router.token", o.hidden, o.n_experts, o.init_std) {}

  Routing route(const RoutingInputs& in) const override {
    Routing r;
    r.n_experts = options_.n_experts;
    r.chosen = options_.top_k;
    r.scores =
        router_logits(tanh(in.x), token_.weight->var, token_.bias->var, {}, ContextMode::kNone, in.pass.sequences);
    Gates gates = top_k_gates(r.scores, options_.top_k, in.pass.sequences);
    r.gates = gates.gates;
    r.experts = gates.experts;
    return r;
  }

 private:
  RouterOptions options_;
  Linear token_;
};

int main() try {
  Context context(Device::parse("cpu"), 1);
  constexpr int64_t kRows = 256, kHidden = 4, kExperts = 4;
  ParameterSet set;
  const TanhRouter router(set, {kHidden, kExperts, /*top_k=*/2, /*init_std=*/0.5});
  const Experts experts(set, "experts", kExperts, kHidden, /*ffn=*/16, /*std=*/0.5);
  set.materialise(context, /*seed=*/1);
  AdamWOptions options;
  options.learning_rate = 0.02, options.warmup_steps = 0, options.total_steps = 400;
  AdamW optimiser(set, options);

  const Sequences sequences = make_sequences(context, {kRows}), first = make_sequences(context, {1});
  const Pass pass{sequences, first, /*training=*/true};
  const Var x(random_normal(context, {kRows, kHidden}, 1.0, 2, purpose::kTest));  // [T, H]
  const Var wanted = add(add(relu(x), relu(scale(x, -1))), square(x));
  double loss = 0;
  for (uint32_t step = 0; step < 400; ++step) {
    context.set_step(step);
    set.clear_gradients();
    const Routing r = router.route({x, pass});
    const Dispatch d = make_dispatch(r.experts, kExperts, expert_alignment(context, x.dtype()));
    const Var y = expert_layer(x, r.gates, d, experts.up_weight->var, experts.up_bias->var,
                               experts.down_weight->var, experts.down_bias->var);
    const Var error = mean(square(sub(y, wanted)));
    backward(error);
    optimiser.step();
    loss = error.value().item();
    if (step % 100 == 99) std::printf("step %u  mean squared error %.4f\n", step + 1, loss);
  }
  return loss < 0.2 ? 0 : 1;
} catch (const Error& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
