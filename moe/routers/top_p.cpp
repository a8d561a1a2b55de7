// Dynamic top-p (Huang et al. 2024): as many experts as it takes until their probabilities sum to more than p.
#include "engine/ops/loss/softmax.h"
#include "engine/ops/moe/choose.h"
#include "moe/routers/top_k_router.h"

namespace glia {
namespace {

const OptionRow kP = {"top-p", 0.4, "probability that a token's experts sum to, at least", 0, 1};
const OptionRow kMost = {"max-k", int64_t{0},
                         "experts a token at most; a token that wants more is an error; 0: all of them", 0, 4096};

std::span<const OptionRow> options() {
  static const OptionRow rows[] = {kP, kMost};
  return rows;
}

class TopPRouter : public Router {
 public:
  TopPRouter(ParameterSet& set, const std::string& name, const RouterOptions& o)
      : options_(o), token_(router_linear(set, name + ".token", o)), slots_(o.own.get<int64_t>(kMost)) {
    if (slots_ > o.n_experts)
      fail_input("router top-p: --max-k: expected at most the {} experts, got {}", o.n_experts, slots_);
    if (slots_ == 0) slots_ = o.n_experts;
  }

  Routing route(const RoutingInputs& in) const override {
    const Sequences& sequences = in.pass.sequences;
    Routing r;
    r.n_experts = options_.n_experts;
    r.matrix = token_.weight->var;
    r.scores = router_logits(in.x, token_.weight->var, token_.bias->var, {}, ContextMode::kNone, sequences);
    TopP chosen = choose_top_p(softmax(r.scores), options_.own.get<double>(kP), slots_, sequences);
    r.gates = std::move(chosen.gates);
    r.experts = std::move(chosen.experts);
    // Counted where it can happen, and read with the losses: nothing waits for it.
    if (slots_ < r.n_experts) r.losses.push_back({{kOverflow}, {0}, Var(chosen.overflow)});
    return r;
  }

 private:
  RouterOptions options_;
  Linear token_;
  int64_t slots_;
};

OracleRouting oracle(const OracleInputs& in) {
  const auto E = static_cast<size_t>(in.n_experts);
  OracleRouting r;
  r.scores = oracle_linear(in.x, in.weight("token.weight"), in.weight("token.bias"));
  for (size_t t = 0; t < static_cast<size_t>(in.tokens()); ++t) {
    const std::vector<double> p = oracle_softmax(&r.scores[t * E], in.n_experts);
    r.experts.emplace_back();
    r.gates.emplace_back();
    double sum = 0;
    for (const int32_t e : oracle_order(p.data(), in.n_experts)) {
      r.experts.back().push_back(e);
      r.gates.back().push_back(p[static_cast<size_t>(e)]);
      if ((sum += r.gates.back().back()) > in.options.get<double>(kP)) break;
    }
  }
  return r;
}

}  // namespace

RouterRow top_p_row() {
  // 1e-4 is the paper's; the released code has no such loss (docs/science.md 12).
  static constexpr LossDefault losses[] = {{"switch-loss", 1e-2}, {"entropy-loss", 1e-4}};
  return {
      "top-p",
      [](ParameterSet& set, const std::string& name, const RouterOptions& o) -> std::unique_ptr<Router> {
        return std::make_unique<TopPRouter>(set, name, o);
      },
      "P = softmax(W x + b); the fewest experts whose P sums to more than p, weighed by P",
      "Huang et al. 2024, arXiv 2403.07652; its entropy loss has the weight 1e-4 there, and is not in the released code",
      {.gates_sum_to_one = false, .fixed_k = false, .weighable = false, .learned_k = true},
      options(),
      losses,
      oracle,
      [](const RouterOptions& o) {
        const auto most = o.own.get<int64_t>(kMost);
        return static_cast<double>(most > 0 ? std::min(most, o.n_experts) : o.n_experts);
      }};
}

}  // namespace glia
