// The second half of an encoder layer: a dense FFN here, a mixture of experts in moe/. What a layer has to report
// beside its output is returned, never stored: losses kept in a global list leak from one model into another.
#pragma once
#include <memory>
#include <vector>

#include "nn/bert_config.h"
#include "nn/linear.h"
#include "nn/pass.h"

namespace glia {

// One layer's losses on its routing: total += Σ_i weights[i] · values[i] (then averaged over the layers). A weight of
// 0 reports a number without training on it.
struct AuxiliaryLosses {
  std::vector<std::string> names;  // "balance", "energy", "z", …
  std::vector<double> weights;
  Var values;  // [names.size()], unweighted, float32 or float64
  // Over several ranks: gives `values` once all layers are done. What a loss sums over the ranks is then differentiated before the
  // first layer's gradients are on their way, and does not wait in line behind them.
  std::function<Var()> later = {};
};

// What a router tells its own after_step(), and how the values of several micro-batches (or ranks) become one.
enum class StatisticReduction {
  kSum,   // loads, counts
  kMean,  // shares of batches of one size
  kMax,
  kEach,  // not additive (quantiles): every value is kept
};
struct Statistic {
  std::string name;
  Tensor value;
  StatisticReduction reduction = StatisticReduction::kSum;
};

// Who goes where: pairs of a token and an expert, each with a gate. Letters: T tokens, S slots of a token (K where
// every token has K experts; more where their number varies), E experts.
//
// Choice and weight are separate: gates need not sum to 1, and a token may have no expert. A choice made by expert
// (Expert Choice) fits too: each token's list is filled in the experts' order.
struct Routing {
  Tensor experts;         // int32 [T, S], distinct in a row; −1: nobody (the tail; fewer than S chosen)
  Var gates;              // [T, S], float32 or float64; 0 where nobody
  int64_t n_experts = 0;  // E; 0: a dense layer, which routes nothing
  int64_t capacity = 0;   // at most so many pairs, known on the host; 0: T · S
  int64_t chosen = 0;     // experts of every token, or 0 where that varies
  Var scores;      // [T, E] the logits that the choice comes from, 0 in the tail: what is explained and measured
  Var all_scores;  // [T, E + X] with those of columns outside E, as the next layer's router may read them, or undefined
  Var matrix;      // [E, H] where the scores are a linear function of the token (and perhaps more), else undefined
  Var load_losses;  // [2] = {balance, energy} where they came with the choice, else undefined
  Var importance;   // [E] of these rows, what those are functions of and ranks sum, likewise
  // Columns outside E, of a router that lets a token go to no FFN (null, zero, copy): how often each was chosen and with
  // which gate [T, X], 0 in the tail, undefined where there are none; and what they add to the experts' sum, [T, H] in
  // x's dtype, undefined where nothing.
  Tensor other_choices, other_gates;
  Var beside;
  // Of a router that draws part of its choice and learns which draws paid: the logarithm of each token's draw's
  // probability [T, 1], 0 in the tail, undefined else; and how much of the reward reaches a layer from the one above it.
  Var policy;
  double policy_discount = 1;
  std::vector<AuxiliaryLosses> losses;
  std::vector<Statistic> statistics;  // for after_step(); nothing reads them in evaluation
};

// What the next MoE layer's router may read of this one; undefined where there are no scores.
inline const Var& scores_for_next(const Routing& r) { return r.all_scores.defined() ? r.all_scores : r.scores; }

class FeedForward {
 public:
  virtual ~FeedForward() = default;
  // Whether forward() reads the rows it gives no output for (a router's losses and contexts do).
  virtual bool reads_all_rows() const { return false; }
  // Adds a second residual and norm after attention (the published code's MoE layers; docs/science.md 6).
  virtual bool second_residual() const { return false; }
  struct Result {
    Var y;
    Var bias;  // [H], still to be added to y (by whoever reads it next), or undefined
    Var x;     // the rows of the input that y belongs to: what the residual adds
    Routing routing;
  };
  // x [T, H] → [T, H]. With read_rows_only: → [R, H], the rows that the pass reads (Pass::read_rows); x then is [T, H]
  // where reads_all_rows(), else these rows already.
  virtual Result forward(const Var& x, const Pass& pass, bool read_rows_only) const = 0;
};

class DenseFeedForward : public FeedForward {
 public:
  DenseFeedForward(ParameterSet& set, const std::string& name, const BertConfig& config);
  Result forward(const Var& x, const Pass& pass, bool read_rows_only) const override;
  Linear up, down;  // [F, H], [H, F]
};

}  // namespace glia
