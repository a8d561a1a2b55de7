// l_s = (W x_s + b) + c_s: AHR. c_s = W_a x_cls + b_a, the sequence's first row biases its tokens' logits; or in a model that
// reads from left to right, where the first row knows nothing, W_a m_s + b_a with what row s may know of its sequence.
#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/sequences/running_mean.h"
#include "moe/routers/parts.h"
#include "nn/row_cache.h"

namespace glia {
namespace {

const OptionRow kContext = {
    "context",
    std::string("first"),
    "what biases a token's logits: its sequence's first row; prompt-mean, the mean of the prompt's rows, or of the rows "
    "so far within it; running-mean, of the rows so far; last-prompt-token, the prompt's last row, or the own one "
    "within it; border, that the prompt has ended and nothing of what is in it",
    0,
    0,
    {"first", "prompt-mean", "running-mean", "last-prompt-token", "border"}};

std::span<const OptionRow> options() {
  static const OptionRow rows[] = {kContext};
  return rows;
}

std::string context_of(const OptionValues& own) { return own.get<std::string>(kContext); }
bool wants_borders(const OptionValues& own) {
  const std::string context = context_of(own);
  return context != "first" && context != "running-mean";
}

// The contexts of rows so far. A mean of rows and a linear map of them may change places, so W_a comes first: a mean of E
// columns instead of H.
class SoFarRouter : public Router {
 public:
  SoFarRouter(ParameterSet& set, const std::string& name, const RouterOptions& o)
      : options_(o),
        source_(context_of(o.own)),
        token_(router_linear(set, name + ".token", o)),
        context_(router_linear(set, name + ".context", o)) {}

  Routing route(const RoutingInputs& in) const override {
    Var told = context(in);
    if (in.pass.context_rows.defined()) told = gather_rows(told, in.pass.context_rows);
    Var scores = add(linear_scores(in, token_), told);
    Gates gates = top_k_gates(scores, options_.top_k, in.pass.sequences);
    Routing r = routing_of(std::move(scores), std::move(gates), options_.top_k);
    r.matrix = token_.weight->var;
    return r;
  }

 private:
  Var context(const RoutingInputs& in) const {  // [T, E]
    if (in.pass.cache) return cached_context(in, *in.pass.cache);
    const Sequences& sequences = in.pass.sequences;
    if (source_ == "running-mean") return running_mean(linear_scores(in, context_), sequences);
    if (!in.pass.borders.defined())
      fail_input("--context {}: expected sequences with a prompt (--prompt), got some without", source_);
    if (source_ == "border")
      return of_border(in, behind_border(sequences, in.pass.borders, in.x.size(1), in.x.dtype()));
    const Var own = linear_scores(in, context_);
    return source_ == "prompt-mean" ? running_mean(own, sequences, in.pass.borders)
                                    : held_at_border(own, sequences, in.pass.borders);
  }

  // W_a m + b_a where m is 1 in every column, as long as a normalised row, or 0.     m [T, H]
  Var of_border(const RoutingInputs& in, const Tensor& m) const {
    return router_logits(m, context_.weight->var, context_.bias->var, {}, ContextMode::kNone, in.pass.sequences);
  }

  // Of one sequence that grows. What all rows behind the prompt share is made once; else what is said of the rows so far is
  // said again of them with the new ones, in the same order.
  Var cached_context(const RoutingInputs& in, RowCache& cache) const {
    const int64_t before = cache.rows(), count = in.x.size(0),
                  border = source_ == "running-mean" ? 0 : cache.border();
    if (source_ != "running-mean" && border == 0) fail_input("--context {}: expected a prompt, got none", source_);
    const auto of_rows = [&] {
      const Sequences rows = make_sequences(in.context(), {static_cast<int32_t>(before + count)});
      const Tensor borders = from_vector(in.context(), std::vector<int32_t>{static_cast<int32_t>(border)}, {1});
      if (source_ == "border") {
        const Tensor m = behind_border(rows, borders, in.x.size(1), in.x.dtype());
        return of_border(in, m.rows(before, before + count)).value();
      }
      const Tensor all = cache.router_rows(in.layer, "own", linear_scores(in, context_).value());
      return (source_ == "last-prompt-token" ? held_at_border(all, rows, borders)
                                             : running_mean(all, rows, borders))
          .value()
          .rows(before, before + count);
    };
    if (border == 0 || before + count < border) return of_rows();
    if (before < border) {
      const Tensor c = of_rows();
      cache.once(in.layer, "held", [&] { return c.rows(count - 1, count).clone(); });
      return c;
    }
    const Tensor held = cache.once(in.layer, "held", [] { return Tensor(); });
    return sequence_broadcast(held, in.pass.sequences);
  }

  RouterOptions options_;
  std::string source_;
  Linear token_, context_;  // W [E, H], b [E]; W_a, b_a
};

OracleRouting oracle_of(const OracleInputs& in) {
  const std::string source = context_of(in.options);
  if (source == "first") return oracle_top_k(in, OracleContext::kAdd);
  const auto E = static_cast<size_t>(in.n_experts), H = static_cast<size_t>(in.hidden);
  std::vector<double> rows;  // [T, H] of the context
  size_t start = 0;
  if (source == "border")
    for (size_t b = 0; b < in.lengths.size(); ++b)
      for (int64_t i = 0; i < in.lengths[b]; ++i)
        rows.insert(rows.end(), H, in.borders[b] > 0 && i + 1 >= in.borders[b] ? 1.0 : 0.0);
  else
    for (size_t b = 0; b < in.lengths.size(); start += static_cast<size_t>(in.lengths[b++]))
      for (size_t i = 0; i < static_cast<size_t>(in.lengths[b]); ++i) {
        const bool prompt = source != "running-mean" && in.borders[b] > 0;
        const size_t last = prompt ? std::min(i, static_cast<size_t>(in.borders[b]) - 1) : i;
        for (size_t h = 0; h < H; ++h) {
          double sum = 0;
          for (size_t s = 0; s <= last; ++s) sum += in.x[(start + s) * H + h];
          rows.push_back(source == "last-prompt-token" ? in.x[(start + last) * H + h]
                                                       : sum / static_cast<double>(last + 1));
        }
      }
  std::vector<double> l = oracle_linear(in.x, in.weight("token.weight"), in.weight("token.bias"));
  const std::vector<double> c = oracle_linear(rows, in.weight("context.weight"), in.weight("context.bias"));
  for (size_t i = 0; i < l.size(); ++i) l[i] += c[i];
  CHECK(l.size() % E == 0, "astrocyte-hierarchical: {} scores for {} experts", l.size(), E);
  return oracle::choose(in, l, l, oracle::map(l, [](double v) { return std::exp(v); }), true);
}

}  // namespace

RouterRow astrocyte_hierarchical_row() {
  RouterRow row = {
      "astrocyte-hierarchical",
      [](ParameterSet& set, const std::string& name, const RouterOptions& o) -> std::unique_ptr<Router> {
        if (context_of(o.own) == "first") return std::make_unique<TopKRouter>(set, name, o, ContextMode::kAdd);
        return std::make_unique<SoFarRouter>(set, name, o);
      },
      "l = (W x + b) + (W_a x_cls + b_a), or with other contexts (W_a m + b_a) with m the mean of rows or a row; softmax over "
      "the K largest",
      "Astrocyte-Inspired Hierarchical Routing (docs/science.md 1); contexts of a causal model: docs/causal.md",
      {},
      options(),
      {},
      oracle_of};
  row.reads_borders = wants_borders;
  return row;
}

}  // namespace glia
