#include "moe/mixture.h"

#include <algorithm>

#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/moe/choose.h"
#include "moe/mixtures/mixture_parts.h"
#include "moe/moe_layer.h"
#include "moe/update_rule.h"

namespace glia {
namespace {

std::span<const MixtureRow> rows() {
  static const MixtureRow all[] = {
      {"routed",
       [](ParameterSet& set, const std::string& layer_name, const MoeConfig& config, const BertConfig& bert,
          int layer) -> std::unique_ptr<Mixture> {
         return std::make_unique<MoeLayer>(set, layer_name, config, bert, layer);
       },
       "y = Σ_k g_k Expert_k(x) over the experts that the router chose",
       "every expert is a copy of the FFN, plus noise", "the router's pairs and gates",
       "Shazeer et al. 2017, arXiv 1701.06538",
       [](const MoeConfig&, double experts, double) {
         return FfnCost{experts, experts};
       }},
      {"soft", make_soft,
       "slot s reads Σ_t softmax over the sequence's tokens (l_ts) · x_t, expert ⌊s / slots⌋ makes z_s of it, and y_t = Σ_s "
       "softmax over all slots (l_ts) · z_s; l are the router's scores, a column a slot",
       "every expert is a copy of the FFN, plus noise", "each expert's share of a token: the sum over its slots",
       "Puigcerver et al. 2024, arXiv 2308.00951: there over an image's patches, here over a sequence; with --router cosine "
       "its normalised logits",
       // All slots of its sequence, shared by its tokens.
       [](const MoeConfig& c, double, double length) {
         const auto n = static_cast<double>(c.n_experts);
         return FfnCost{n * static_cast<double>(c.options.get<int64_t>(soft_options()[0])) / length, n};
       },
       true, true, soft_options(),
       [](const MoeConfig& c) {
         const auto slots = c.options.get<int64_t>(soft_options()[0]);
         return fmt::format("{} slot{} of each of {} experts a sequence", slots, slots == 1 ? "" : "s",
                            c.n_experts);
       }},
      {"merged",
       make_merged,
       "p = softmax(mean of the router's scores over the sequence); y_t = FFN(x_t) with the weights Σ_e p_e W_e and the "
       "biases Σ_e p_e b_e",
       "every expert is a copy of the FFN, plus noise",
       "p of the sequence, at each of its tokens",
       "Muqeeth et al. 2023, arXiv 2306.03745 (SMEAR): with --router softmax the scores of the mean token, as there; without "
       "its layer norm before the router and its dropout of experts",
       // Its own FFN, and what merging costs: every expert's weights once a sequence.
       [](const MoeConfig& c, double, double length) {
         const auto n = static_cast<double>(c.n_experts);
         return FfnCost{1 + n / length, n};
       },
       true,
       false,
       {},
       [](const MoeConfig& c) { return fmt::format("{} experts merged into one a sequence", c.n_experts); }},
  };
  return all;
}

// Experts that every token has, beside any mixture.
class WithShared : public Mixture {
 public:
  WithShared(std::unique_ptr<Mixture> mixture, ParameterSet& set, const std::string& layer_name,
             const MoeConfig& config, const BertConfig& bert)
      : mixture_(std::move(mixture)),
        experts_(set, layer_name + ".moe.shared", config.options.get<int64_t>(kSharedExperts), bert.hidden,
                 bert.ffn, bert.init_std, layer_name + ".ffn", dense_share(config)) {}

  const Mixture& mixture() const { return *mixture_; }
  bool reads_all_rows() const override { return mixture_->reads_all_rows(); }
  bool second_residual() const override { return mixture_->second_residual(); }
  Result forward(const Var& x, const Pass& pass, bool read_rows_only) const override {
    Result r = mixture_->forward(x, pass, read_rows_only);
    // One group of rows an expert, so that all of them are one product, as the chosen ones are.
    const DType type = accumulation_dtype(x.dtype());
    Gates all = choose(full(x.context(), {x.size(0), experts_.count}, 1, type), {}, experts_.count, pass.sequences);
    Choice choice{std::move(all.gates), std::move(all.experts), 0};
    if (read_rows_only) choice = read_rows(choice, pass);
    r.y = add(r.y, run_experts(experts_, r.x, choice));
    return r;
  }
  void before_update(ParameterSet& set, const StepStatistics& statistics) const override {
    mixture_->before_update(set, statistics);
  }
  void after_step(const StepStatistics& statistics) const override { mixture_->after_step(statistics); }
  Explanation explain(const Var& x, const Pass& pass) const override { return mixture_->explain(x, pass); }

 private:
  std::unique_ptr<Mixture> mixture_;
  Experts experts_;
};

}  // namespace

const FeedForward& without_shared(const FeedForward& layer) {
  const auto* shared = dynamic_cast<const WithShared*>(&layer);
  return shared ? shared->mixture() : layer;
}

std::span<const MixtureRow> mixture_registry() { return rows(); }

const OptionRow& mixture_option() {
  static const OptionRow row = [] {
    OptionRow option = {"mixture", std::string("routed"), "how experts are mixed by what the router says", 0, 0,
                        {}};
    for (const MixtureRow& mixture : rows()) option.choices.push_back(mixture.name);
    return option;
  }();
  return row;
}

const MixtureRow& mixture_row(const MoeConfig& config) {
  const auto name = config.options.get<std::string>(mixture_option());
  check_option(mixture_option(), name);
  for (const MixtureRow& row : rows())
    if (name == row.name) return row;
  fail_input("mixture: '{}' is no row of the table", name);
}

namespace {

// Whether tokens are sent to experts of their own; the other mixtures weigh all experts.
bool is_routed(const MoeConfig& config) { return &mixture_row(config) == &rows()[0]; }

}  // namespace

bool routing_varies(const MoeConfig& config) {
  const RouterRow& router = router_row(config.router);
  return is_routed(config) &&
         !(router.traits.gates_sum_to_one && gates_sum(router, config.options) == 1 && router.traits.fixed_k);
}

std::vector<std::string> columns_outside(const MoeConfig& config) {
  if (config.dense() || !is_routed(config)) return {};
  const std::span<const char* const> columns = router_row(config.router).columns;
  return {columns.begin(), columns.end()};
}

std::string why_not_causal(const MoeConfig& config) {
  if (config.dense()) return "";
  if (mixture_row(config).reads_future) return "mixes by all tokens of a sequence";
  return why_not_causal(router_row(config.router), config.options);
}

std::unique_ptr<Mixture> make_mixture(ParameterSet& set, const std::string& layer_name, const MoeConfig& config,
                                      const BertConfig& bert, int layer) {
  const MixtureRow& row = mixture_row(config);
  for (const MixtureRow& other : rows())
    for (const OptionRow& option : other.options)
      if (std::string_view(other.name) != row.name && config.options.contains(option.name))
        fail_input("--{}: expected --mixture {}, got {}", option.name, other.name, row.name);
  std::unique_ptr<Mixture> mixture = row.make(set, layer_name, config, bert, layer);
  check_option(kSharedExperts, config.options.get<int64_t>(kSharedExperts));
  if (config.options.get<int64_t>(kSharedExperts) == 0) return mixture;
  return std::make_unique<WithShared>(std::move(mixture), set, layer_name, config, bert);
}

void check_pair(const MoeConfig& c) {
  if (!c.dense() && !is_routed(c)) check_weighable(c);
}

std::map<std::string, std::string> idle_options(const MoeConfig& c) {
  std::map<std::string, std::string> idle;
  if (c.dense()) return idle;
  const RouterRow& router = router_row(c.router);
  const MixtureRow& mixture = mixture_row(c);
  const auto add = [&](const char* option, const std::string& wanted, std::string_view got) {
    if (c.options.contains(option))
      idle[option] = fmt::format("--{}: expected {} with it, got {}", option, wanted, got);
  };
  for (const OptionRow& option : router.options)
    if (const char* wanted = router.wanted_by ? router.wanted_by(option.name, c.options) : nullptr)
      add(option.name, wanted, fmt::format("router {} without", c.router));
  for (const UpdateRuleRow& rule : update_rule_registry())
    for (const OptionRow& option : rule.options)
      if (const std::string name = update_rule_of(c.options); name != rule.name)
        add(option.name, fmt::format("--update-rule {}", rule.name), name);
  if (!is_routed(c))
    for (const OptionRow& option : router.of_gates)
      add(option.name, fmt::format("--mixture {}", rows()[0].name),
          fmt::format("{}, which reads the scores of router {} alone", mixture.name, c.router));
  return idle;
}

std::vector<std::string> losses_without_gradient(const MoeConfig& c) {
  std::vector<std::string> idle;
  if (c.dense()) return idle;
  const RouterTraits& traits = router_row(c.router).traits;
  const OptionValues weights = mixture_losses(c);
  for (const LossRow& row : loss_registry())
    for (const OptionRow& option : row.weights) {
      const auto weight = weights.get<double>(option);
      const bool of_routing = row.reads == LossReads::kRouting || row.reads == LossReads::kCounted;
      // Logarithms of shares that sum to 1: their log Σ exp is 0, whatever they are.
      const bool of_sum = traits.normalised && std::string_view(option.name) == "z-loss";
      if (weight != 0 && ((traits.constant && of_routing) || of_sum))
        idle.push_back(fmt::format("--{} {:.3g}", option.name, weight));
    }
  return idle;
}

namespace {

// Of whatever router: behind its own.
void add_common_options(std::vector<OptionRow>& all) {
  for (const OptionRow& option : update_rule_options()) all.push_back(option);
  all.push_back(mixture_option());
  all.push_back(kSharedExperts);
  for (const MixtureRow& row : rows()) all.insert(all.end(), row.options.begin(), row.options.end());
}

}  // namespace

std::vector<OptionRow> shared_options() {
  std::vector<OptionRow> all = further_loss_options();
  add_common_options(all);
  return all;
}

std::vector<OptionRow> routing_options(std::string_view router) {
  const RouterRow& row = router_row(router);
  std::vector<OptionRow> all(row.options.begin(), row.options.end());
  for (const OptionRow& weight : further_loss_options(row)) all.push_back(weight);
  add_common_options(all);
  return all;
}

RouterOptions router_options(const MoeConfig& config, int64_t hidden, double init_std) {
  const std::vector<OptionRow> shared = shared_options();
  RouterOptions o{hidden, config.n_experts, config.top_k, init_std, {}};
  for (const auto& [name, value] : config.options.all())
    if (std::none_of(shared.begin(), shared.end(),
                     [&, key = std::string_view(name)](const OptionRow& row) { return key == row.name; }))
      o.own.set(name, value);
  return o;
}

}  // namespace glia
