#include "moe/update_rule.h"

#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/products/matmul.h"
#include "engine/ops/rows/reduce.h"
#include "engine/ops/rows/rows.h"
#include "engine/ops/rows/topk.h"

namespace glia {
namespace {

const OptionRow kAlpha = {"orthogonal-alpha", 0.1, "α of --update-rule orthogonal: how slowly inputs become known",
                          1e-12, 1e12};
const OptionRow kOrthogonal[] = {kAlpha};

Var reciprocal(const Var& x) { return div(full(x.context(), x.shape(), 1, x.dtype()), x); }

// Orthogonal updates: every second step an expert's first weights move where the mean inputs of the others do not notice.
// P_e = I − D_e projects away from the mean inputs that expert e has had, found one after another as recursive least
// squares finds them. D starts at 0, so that the first updates are AdamW's.
class OrthogonalRule : public UpdateRule {
 public:
  OrthogonalRule(ParameterSet& set, const std::string& layer_name, const Experts& experts,
                 const OptionValues& options)
      : weight_(experts.up_weight),
        count_(experts.count),
        hidden_(weight_->shape[2]),
        alpha_(options.get<double>(kAlpha)),
        known_(set.add_state(layer_name + ".moe.orthogonal.known", {count_, hidden_, hidden_}, Init::zero())),
        turn_(set.add_state(layer_name + ".moe.orthogonal.turn", {1, 1}, Init::zero())) {}

  std::vector<Statistic> observe(const Var& x, const Routing& routing) const override {
    const NoGrad no_grad(x.context());
    const DType type = known_->value.dtype();
    const Var chosen =
        scatter_last(full(x.context(), routing.experts.shape(), 1, type), routing.experts, count_);  // [T, E]
    return {{"orthogonal.inputs", matmul(chosen, cast(x, type), true).value()},
            {"orthogonal.rows", sum(chosen, 0).value()}};
  }

  void before_update(ParameterSet& set, const StepStatistics& step) const override {
    const NoGrad no_grad(set.context());
    project(set.gradient(*weight_));
    // An expert without rows has no input to learn: 0 / 1.
    const Var rows = add_scalar(relu(add_scalar(step["orthogonal.rows"], -1)), 1);
    learn(matmul(reshape(reciprocal(rows), {count_, 1, 1}),
                 reshape(step["orthogonal.inputs"], {count_, 1, hidden_})));
    turn_->value.copy_from(add_scalar(scale(turn_->value, -1), 1).value());
  }

 private:
  // G := G P̄ with the mean of the others' P, if it is the turn.     G [E, F, H]
  void project(Tensor gradient) const {
    const DType type = known_->value.dtype();
    const Var weights = reshape(matmul(turn_->value, reshape(others(), {1, count_ * count_})), {count_, count_}),
              known = reshape(known_->value, {count_, hidden_ * hidden_}),
              mean = reshape(matmul(weights, known), known_->value.shape()), g = cast(gradient, type);
    gradient.copy_from(cast(sub(g, matmul(g, mean)), gradient.dtype()).value());
  }
  // With y = P x and k = y / (α + xᵀ y):  P −= k yᵀ.     x [E, 1, H]
  void learn(const Var& x) const {
    const Var y = sub(x, matmul(x, known_->value)),
              size = add_scalar(sum(reshape(mul(x, y), {count_, hidden_}), 1), alpha_),
              k = matmul(reshape(reciprocal(size), {count_, 1, 1}), y);
    known_->value.copy_from(add(known_->value, matmul(k, y, true)).value());
  }
  // [E, E]: 1 / (E − 1) off the diagonal. Made once: an upload may not be captured.
  const Tensor& others() const {
    if (!others_.defined()) {
      std::vector<double> m(static_cast<size_t>(count_ * count_), 1.0 / static_cast<double>(count_ - 1));
      for (int64_t e = 0; e < count_; ++e) m[static_cast<size_t>(e * count_ + e)] = 0;
      const Tensor wide = from_vector(known_->value.context(), m, {count_, count_});
      others_ = cast(wide, known_->value.dtype());
    }
    return others_;
  }

  Parameter* weight_;
  int64_t count_, hidden_;
  double alpha_;
  State *known_, *turn_;  // D [E, H, H]; [1, 1]: 1 where the coming update is projected
  mutable Tensor others_;
};

constexpr UpdateRuleRow kRules[] = {
    {"orthogonal",
     [](ParameterSet& set, const std::string& layer_name, const Experts& experts,
        const OptionValues& options) -> std::unique_ptr<UpdateRule> {
       return std::make_unique<OrthogonalRule>(set, layer_name, experts, options);
     },
     "every second step G_e := G_e · mean of the others' P for the first weights, then AdamW; P_e −= k (P_e x)ᵀ with "
     "k = P_e x / (α + xᵀ P_e x), x the mean input of expert e in the step",
     "after Liu et al. 2023, arXiv 2310.09762 (OMoE); P as in Zeng et al. 2019, arXiv 1810.01256 (OWM)",
     "projected are gradients, which AdamW then scales number by number, and not AdamW's updates: what an update does to "
     "the others' inputs is not quite 0. Projected are the first weights alone, whose inputs are the tokens. P is "
     "learnt from one mean input a step and expert; the first update is AdamW's. Its projector was checked against no code of "
     "theirs",
     kOrthogonal},
};

}  // namespace

std::span<const UpdateRuleRow> update_rule_registry() { return kRules; }

namespace {

OptionRow rule_row() {
  OptionRow row = {"update-rule", std::string("none"), "what changes the experts' gradients before AdamW", 0, 0,
                   {"none"}};
  for (const UpdateRuleRow& rule : kRules) row.choices.push_back(rule.name);
  return row;
}

}  // namespace

std::vector<OptionRow> update_rule_options() {
  std::vector<OptionRow> all = {rule_row()};
  for (const UpdateRuleRow& rule : kRules) all.insert(all.end(), rule.options.begin(), rule.options.end());
  return all;
}

std::string update_rule_of(const OptionValues& options) {
  const OptionRow row = rule_row();
  const auto name = options.get<std::string>(row);
  check_option(row, name);
  return name;
}

std::unique_ptr<UpdateRule> make_update_rule(ParameterSet& set, const std::string& layer_name,
                                             const Experts& experts, const OptionValues& options) {
  const std::string name = update_rule_of(options);
  for (const UpdateRuleRow& rule : kRules)
    if (name == rule.name) {
      if (experts.count < 2)
        fail_input("--update-rule {}: expected 2 experts or more, got {}", name, experts.count);
      return rule.make(set, layer_name, experts, options);
    }
  return nullptr;
}

}  // namespace glia
