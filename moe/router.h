// The contract of a router, and how to make one. To add a router: moe/routers/<name>.cpp and a row in
// moe/registry.cpp; tests, tools/gradcheck, flags, config.json and docs/routers/ walk the registry.
#pragma once
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/command_line/options.h"
#include "engine/ops/moe/moe.h"
#include "moe/experts.h"
#include "moe/oracle.h"
#include "moe/step_statistics.h"
#include "nn/feed_forward.h"

namespace glia {

// Everything that a choice may depend on. A new router needs no new argument.
struct RoutingInputs {
  const Var& x;                      // [T, H] the layer's rows
  const Pass& pass;                  // sequences, training or not, ids, labels, the previous MoE layer's scores
  int layer = 0;                     // keys a router's random numbers; context() draws them
  const Experts* experts = nullptr;  // the layer's own, for routers that read them; nullptr where it has none
  // [E + 1] state of the layer: pairs of each expert, and rows, in the step's micro-batches so far on all ranks; or undefined
  Tensor counted = {};

  Context& context() const { return x.context(); }
};

struct RouterOptions {
  int64_t hidden = 512, n_experts = 8, top_k = 2;
  double init_std = 0.02;
  OptionValues own = {};  // of the router's table of options
};

// What a choice comes from, for tools/route: a token's experts are the largest of `compared`, or of the scores, among those
// that its sequence may have. Where anything else takes part (a limit over tokens or experts) there is no explanation but
// `grounds`: scores, and state of each expert, are told of any router.
struct Explanation {
  // Numbers that the choice rests on, of each sequence [B, n] or of each token [T, n].
  struct Ground {
    const char* name;   // "task probability"
    const char* label;  // in front of the columns' numbers: "e" for experts
    int first;          // the first column's number
    Tensor values;
  };
  Tensor token_logits;  // [T, E] before the context; undefined: this router's choices have no such explanation
  ContextMode mode = ContextMode::kNone;
  Tensor context;  // [B, E] the bias, or the factor sigmoid(c); undefined for kNone
  // [T, E] what the choice compares where that is not the scores, and the same without the context; and in words.
  Tensor compared, compared_alone;
  const char* comparison = "";
  // [B, E] 0: an expert that the sequence's tokens may have, −∞: not (as keep_largest() says it); undefined: all. And its name.
  Tensor allowed;
  const char* allowed_name = "";
  std::vector<Ground> of_sequences, of_tokens;
};

class Router {
 public:
  virtual ~Router() = default;
  // Experts, gates and scores, and what after_step() wants to know. A pure function of the inputs, the weights and
  // the state: nothing is stored, tail rows go nowhere. Losses are the registry's (moe/losses/losses.h); a router adds those
  // only that nobody else could have.
  virtual Routing route(const RoutingInputs& in) const = 0;
  // After the optimiser's update: changes the router's state by what route() returned under `name`, summed up over the
  // step's micro-batches. Device ops only, so that a CUDA graph holds it. Never called in evaluation.
  virtual void after_step(const StepStatistics&) const {}
  virtual Explanation explain(const RoutingInputs&) const { return {}; }
};

// What tests and tables may assume of a router.
struct RouterTraits {
  bool gates_sum_to_one =
      true;  // by default (RouterRow::gates_sum): so equal experts are the dense FFN; with K = 1 there is no gradient: refused
  bool fixed_k = true;             // every token has K experts
  bool experts_permutable = true;  // permuting the experts' parameters permutes the choices and nothing else
  bool reads_future = false;       // a token's choice depends on later ones: not causal
  bool trains_on_batch = false;    // in training it depends on the batch's other tokens, in evaluation not
  bool needs_labels = false;       // in training
  bool untrained = false;          // by design: K = 1 is allowed though gates sum to 1
  bool shares = false;             // gates are divided by their sum, though a token may have none
  bool normalised = false;         // scores are logarithms that softmax leaves as they are: their z-loss is 0
  bool stateful = false;           // after_step() changes something
  bool reads_experts = false;      // the experts' own weights: no router without them
  bool linear = true;  // scores are linear in the token: Routing::matrix is there for losses that read it
  bool weighable =
      true;  // its scores are all it says, so a mixture may weigh every expert by them; no limit or loss of its own
  bool learned_k = false;  // how many experts a token has is learned, whatever K says
  bool constant = false;   // nothing of its routing has a gradient: a loss on it would change nothing
};

// Whether a token's only gate would always be 1, which nothing could be learned from: K = 1 is refused then.
inline bool refuses_one_expert(const RouterTraits& t) {
  return !t.untrained && (t.shares || (t.gates_sum_to_one && t.fixed_k));
}

// The name under which a router that bounds its slots counts the tokens that wanted more: a loss of weight 0, read
// where losses are read. Whoever reads one above 0 fails the run.
constexpr const char* kOverflow = "overflow";

// A loss's weight where neither flag nor configuration says another.
struct LossDefault {
  const char* option;
  double weight;
};

using MakeRouter = std::unique_ptr<Router>(ParameterSet& set, const std::string& name,
                                           const RouterOptions& options);

struct RouterRow {
  const char* name;
  MakeRouter* make;
  const char* formula;
  const char* source;
  RouterTraits traits = {};
  std::span<const OptionRow> options = {};
  std::span<const LossDefault> losses = {};
  RouterOracle* oracle = nullptr;
  // FFNs where loads are even, or the most where their number is learned; nullptr: K, or E.
  double (*experts_a_token)(const RouterOptions& options) = nullptr;
  std::span<const char* const> columns = {};  // those beside the experts, as Routing::other_choices has them
  // What an option changes of the traits: why a choice reads later tokens, or nullptr where it does not; absent: as the
  // traits say. And whether it reads Pass::borders.
  const char* (*future)(const OptionValues& own) = nullptr;
  bool (*reads_borders)(const OptionValues& own) = nullptr;
  const OptionRow* labels = nullptr;  // how many labels it tells apart: those of the data at least
  // What every token's gates sum to where an option says it, 0: not all to one number; absent: 1 or no, as the trait says.
  double (*gates_sum)(const OptionValues& own) = nullptr;
  // What an option would need to change anything, where the others leave it without effect: "--context-balance on"; nullptr: nothing.
  const char* (*wanted_by)(std::string_view option, const OptionValues& own) = nullptr;
  std::span<const OptionRow> of_gates = {};  // those of its options that leave its scores as they are
};

// What every token's gates sum to with these options; 0: not all to one number, or there may be none.
inline double gates_sum(const RouterRow& row, const OptionValues& own) {
  return row.gates_sum ? row.gates_sum(own) : row.traits.gates_sum_to_one ? 1 : 0;
}

// Why a causal model cannot have this router with these options, in words that follow "it"; "": it can.
std::string why_not_causal(const RouterRow& row, const OptionValues& own);

std::span<const RouterRow> router_registry();
// Errors: an unknown name (the message lists the known ones).
const RouterRow& router_row(std::string_view router);
// Errors: as router_row(), 1 <= K <= E violated, K = 1 where gates sum to 1, an option that the router does not have.
std::unique_ptr<Router> make_router(std::string_view router, ParameterSet& set, const std::string& name,
                                    const RouterOptions& options);

}  // namespace glia
