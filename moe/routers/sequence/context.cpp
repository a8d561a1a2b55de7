// The astrocyte routers' extensions as options of one router: where a sequence's context comes from, what is made of it,
// how it enters the tokens' logits, and whether a bias balances the loads instead of a loss.
#include <cmath>
#include <optional>

#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/loss/softmax.h"
#include "engine/ops/norm/normalise_rows.h"
#include "engine/ops/products/matmul.h"
#include "engine/ops/rows/bias.h"
#include "engine/ops/sequences/sequence_max.h"
#include "moe/routers/parts.h"
#include "nn/row_cache.h"

namespace glia {
namespace {

const OptionRow kSource = {
    "context-source",
    std::string("first"),
    "of a sequence: its first row, the mean or the largest of its rows, or query: a mean weighed by how "
    "much each row answers a learned query",
    0,
    0,
    {"first", "mean", "max", "query"}};
const OptionRow kMode = {
    "context-mode", std::string("add"), "how the context enters the logits: add it, or gate by its sigmoid", 0, 0,
    {"add", "gate"}};
const OptionRow kMlp = {"context-mlp", false,
                        "on: the context goes through a layer of H / 4 units with GELU first"};
const OptionRow kLossFree = {"context-balance", false,
                             "on: a bias on the choice alone, steered as loss-free's, balances the loads"};

std::span<const OptionRow> options() {
  static const OptionRow rows[] = {kSource, kMode, kMlp, kLossFree, kBiasRate};
  return rows;
}

class ContextRouter : public Router {
 public:
  ContextRouter(ParameterSet& set, const std::string& name, const RouterOptions& o)
      : options_(o),
        source_(o.own.get<std::string>(kSource)),
        mode_(o.own.get<std::string>(kMode) == "add" ? ContextMode::kAdd : ContextMode::kGate),
        token_(router_linear(set, name + ".token", o)) {
    int64_t width = o.hidden;
    if (o.own.get<bool>(kMlp)) {
      width = std::max<int64_t>(1, o.hidden / 4);
      inner_ = std::make_unique<Linear>(set, name + ".inner", o.hidden, width, o.init_std);
    }
    RouterOptions narrow = o;
    narrow.hidden = width;
    context_ = std::make_unique<Linear>(router_linear(set, name + ".context", narrow));
    if (source_ == "query") query_ = std::make_unique<Linear>(set, name + ".query", o.hidden, 1, o.init_std);
    if (o.own.get<bool>(kLossFree)) bias_.emplace(set, name, o);
  }

  Routing route(const RoutingInputs& in) const override {
    const Sequences& sequences = in.pass.sequences;
    Var scores = router_logits(in.x, token_.weight->var, token_.bias->var, context(in), mode_, sequences);
    Gates gates;
    if (bias_) {  // explain() adds it up again
      gates = choose(softmax(scores), bias_->value(), options_.top_k, sequences);
      gates.gates = share_rows(gates.gates);
    } else {
      gates = top_k_gates(scores, options_.top_k, sequences);
    }
    Routing r = routing_of(std::move(scores), std::move(gates), options_.top_k);
    r.matrix = token_.weight->var;
    if (bias_) bias_->count(r, in);
    return r;
  }
  void after_step(const StepStatistics& step) const override {
    if (bias_) bias_->after_step(step);
  }
  Explanation explain(const RoutingInputs& in) const override {
    Explanation e = by_token(linear_scores(in, token_));
    e.mode = mode_;
    const Var c = context(in);
    e.context = mode_ == ContextMode::kAdd ? c.value() : sigmoid(c).value();
    if (!bias_) return e;
    const auto with_bias = [&](const Var& logits) {
      return bias_add(softmax(logits).value(), bias_->value()).value();
    };
    e.compared = with_bias(router_logits(in.x, token_.weight->var, token_.bias->var, c, mode_, in.pass.sequences));
    e.compared_alone = with_bias(e.token_logits);
    e.comparison = "softmax of the logits + load bias";
    return e;
  }

 private:
  Var context(const RoutingInputs& in) const {  // [B, E]
    const DType dtype = token_.weight->var.dtype();
    Var c = cast(source(in), dtype);
    if (inner_) c = gelu((*inner_)(c));
    return (*context_)(c);
  }
  Var source(const RoutingInputs& in) const {  // [B, H]
    Sequences all = in.pass.sequences;
    all.key_lengths = {};  // in the padded layout of the published code padding counts (docs/science.md 6)
    if (source_ == "first") {
      const auto first = [&] { return first_rows(in.x, all); };
      return in.pass.cache ? Var(in.pass.cache->once(in.layer, "first", [&] { return first().value(); })) : first();
    }
    if (source_ == "mean") return sequence_mean(in.x, all, true);
    if (source_ == "max") return sequence_max(in.x, all);
    // Softmax over the sequence's rows, shifted by the largest: Σ e^a x / Σ e^a, both as means.
    const Var answer = linear_scores(in, *query_);  // [T, 1]
    const Tensor top = sequence_broadcast(sequence_max(answer.value(), all), all).value();
    const Var weight = exp(sub(answer, top));
    const int64_t h = options_.hidden;
    const Var ones = full(in.context(), {1, h}, 1.0, weight.dtype());
    const Var x = mul(cast(in.x, weight.dtype()), matmul(weight, ones));
    // A sequence of no rows has 0 of all, which is not to be divided by; others have 1 / their rows or more.
    const Var sum = add_scalar(sequence_mean(weight, all, false), 1e-18);
    return div(sequence_mean(x, all, false), matmul(sum, ones));
  }

  RouterOptions options_;
  std::string source_;
  ContextMode mode_;
  Linear token_;
  std::unique_ptr<Linear> context_, inner_, query_;  // [E, H or H/4], [H/4, H] or null, [1, H] or null
  std::optional<LoadBias> bias_;
};

// [B, H]
std::vector<double> source_rows(const OracleInputs& in) {
  const auto H = static_cast<size_t>(in.hidden);
  const auto source = in.options.get<std::string>(kSource);
  std::vector<double> rows, answer;
  if (source == "query") answer = oracle_linear(in.x, in.weight("query.weight"), in.weight("query.bias"));
  size_t start = 0;
  for (const int32_t length : in.lengths) {
    const auto n = static_cast<size_t>(length);
    std::vector<double> weight(n, source == "mean" ? 1.0 / static_cast<double>(n - 1) : 0.0);
    if (source == "mean") weight[0] = 0;
    if (source == "first") weight[0] = 1;
    if (source == "query") weight = oracle_softmax(&answer[start], length);
    for (size_t h = 0; h < H; ++h) {
      double value = source == "max" ? -INFINITY : 0;
      for (size_t t = 0; t < n; ++t) {
        const double x = in.x[(start + t) * H + h];
        value = source == "max" ? std::max(value, x) : value + weight[t] * x;
      }
      rows.push_back(value);
    }
    start += n;
  }
  return rows;
}

OracleRouting oracle_of(const OracleInputs& in) {
  const auto E = static_cast<size_t>(in.n_experts);
  std::vector<double> c = source_rows(in),
                      l = oracle_linear(in.x, in.weight("token.weight"), in.weight("token.bias"));
  if (in.options.get<bool>(kMlp))
    c = oracle::map(oracle_linear(c, in.weight("inner.weight"), in.weight("inner.bias")),
                    [](double v) { return 0.5 * v * (1 + std::erf(v / std::sqrt(2.0))); });
  c = oracle_linear(c, in.weight("context.weight"), in.weight("context.bias"));
  size_t t = 0;
  for (size_t b = 0; b < in.lengths.size(); ++b)
    for (int32_t i = 0; i < in.lengths[b]; ++i, ++t)
      for (size_t e = 0; e < E; ++e) {
        if (in.options.get<std::string>(kMode) == "add") l[t * E + e] += c[b * E + e];
        else l[t * E + e] /= 1 + std::exp(-c[b * E + e]);
      }
  const std::vector<double> p = oracle::softmax_rows(l, in.n_experts);
  std::vector<double> choice = p;
  if (in.options.get<bool>(kLossFree)) {
    const std::vector<double> bias = in.weight("load_bias");
    for (size_t i = 0; i < choice.size(); ++i) choice[i] += bias[i % E];
  }
  return oracle::choose(in, l, choice, p, true);
}

}  // namespace

RouterRow context_row() {
  RouterRow row = {
      "context",
      [](ParameterSet& set, const std::string& name, const RouterOptions& o) -> std::unique_ptr<Router> {
        return std::make_unique<ContextRouter>(set, name, o);
      },
      "l = (W x + b) + c, or (W x + b) * sigmoid(c); c = W_c s + b_c, or W_c gelu(W_i s + b_i) + b_c; s the sequence's "
      "first row, mean without it, largest, or Σ softmax(q · x + b_q) x; softmax over the K largest l, or over the K with the "
      "largest softmax(l)_e + b_e, b as loss-free has it",
      "Astrocyte-Inspired Hierarchical Routing's future work (docs/science.md 7)",
      {},
      options(),
      {},
      oracle_of};
  row.future = [](const OptionValues& own) {
    return own.get<std::string>(kSource) == "first"
               ? nullptr
               : "reads all rows of a sequence but with --context-source first";
  };
  row.wanted_by = [](std::string_view option, const OptionValues& own) -> const char* {
    return option == kBiasRate.name && !own.get<bool>(kLossFree) ? "--context-balance on" : nullptr;
  };
  return row;
}

}  // namespace glia
