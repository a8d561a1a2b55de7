// How one text went through a model's routers: filled by whoever runs the model, printed and counted here.
#pragma once
#include <string>
#include <vector>

#include "experiments/records/results.h"

namespace glia::results {

// What the sequence's context does to a token's logits: nothing (softmax), a bias (AHR), a factor (astrocyte,
// mean-pool).
enum class ContextKind { none, added, multiplied };

struct LayerTrace {
  int n_experts = 0;
  // Both empty for routers whose logits are not a function of the token changed by the context.
  Matrix token_logits;  // [S, E] W_r x + b_r, before the context
  Matrix logits;        // [S, E] what the choice was made from
  ContextKind kind = ContextKind::none;
  std::vector<double> context;  // [E] the bias or factor; empty for none
  // [S, E] what the choice compares where that is not the logits, and the same without the context; and in words.
  Matrix compared, compared_alone;
  std::string comparison;
  std::vector<int> allowed;  // the experts that the sequence's tokens may have, ascending; empty: all. And its name
  std::string allowed_name;
  // Numbers that the choice rests on: names, and what stands in front of the columns' numbers, which count from `first`.
  struct Ground {
    std::string name, label;
    int first = 0;
    Matrix values;  // [1, n] of the sequence, or [S, n] of its tokens
  };
  std::vector<Ground> of_sequence, of_tokens;
  std::vector<std::vector<int>> experts;   // [S][k] chosen, best first
  std::vector<std::vector<double>> gates;  // [S][k]
  Matrix scores;                           // [S, E] of a router without logits above; empty: it has none
  // What the router keeps of each expert between steps, [E], such as a bias that balances loads: the choice reads it.
  std::vector<std::pair<std::string, std::vector<double>>> kept;
  // [S] the columns beside the experts that a token chose, with their gates; empty: no router with such columns.
  std::vector<std::vector<std::pair<std::string, double>>> beside;
};

struct RoutingTrace {
  std::string config, text;
  bool truncated = false;             // the text was longer than the model reads
  std::vector<std::string> tokens;    // [S] with [CLS] and [SEP]
  std::vector<LayerTrace> layers;     // [L]; empty for dense
  std::vector<std::string> topics;    // [C]
  std::vector<double> probabilities;  // [C]
};

// Throws when the sizes do not fit each other.
void check_trace(const RoutingTrace& trace);

// The k experts that a token would choose without the context (lower index wins a tie), best first.
std::vector<int> choice_without_context(const LayerTrace& layer, int token);

// How often the context changed a choice.
struct ContextEffect {
  int tokens = 0;            // of this layer
  int changed_set = 0;       // another set of experts than without the context
  int changed_top = 0;       // another first expert
  bool cls_changed = false;  // the set of token 0, the only one that counts in the last layer
};
ContextEffect context_effect(const LayerTrace& layer);

// Which of the two decided a chosen expert: compares how far its token logit and its bias stand above their means
// over experts. Only for an added context.
enum class Decider { token, context };
Decider decided_by(const LayerTrace& layer, int token, int expert);

// Per layer what of the sequence the choices rest on, and a line a token: its experts and gates, in brackets the logit or score, or
// the token's logit + the context's bias, and, where it differs, the choice without the context. Coloured by expert for a
// terminal.
std::string as_text(const RoutingTrace& trace, bool color);
Json as_json(const RoutingTrace& trace);

}  // namespace glia::results
