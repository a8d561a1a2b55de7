// What routers are put together from.
#pragma once
#include "engine/ops/moe/choose.h"
#include "engine/ops/routing/noise/random_rows.h"
#include "moe/experts.h"
#include "moe/router.h"
#include "moe/routers/top_k_router.h"

namespace glia {

// W x + b of each row, in the routers' precision.     → [T, E], tail rows 0
Var linear_scores(const RoutingInputs& in, const Linear& linear);

// The routing of experts chosen by these scores. `chosen`: K, or 0 where it varies.
Routing routing_of(Var scores, Gates gates, int64_t chosen);

// Of a choice that the token alone makes.
Explanation by_token(const Var& scores);

// One loss of the router's own. value [1]
void add_loss(Routing& routing, const char* name, double weight, Var value);

// For a random op on the pass's rows; a router that draws in two places gives each a site below 16.
RandomKey noise_key(const RoutingInputs& in, uint32_t site = 0);

// `value` in the rows of sequences, 0 in the tail.     → [T, n], a constant
Tensor constant_rows(const Sequences& sequences, int64_t n, double value, DType dtype);

Var root(const Var& x);  // of numbers above 0
// ‖W_first,e x‖ of every row and expert; `all`: every expert for each row, as choose() gives it, −1: 0.
// x [T, H], all int32 [T, E] → [T, E] in x's accumulation type
Var first_product_lengths(const Var& x, const Tensor& all, const Experts& experts);

// CV² over the experts of the sums of p over the rows of all ranks' sequences: var(Σ_t p_te, ddof 1) / mean².
//     p [T, E] → [1]
Var imbalance(const Var& p, const Sequences& sequences);

inline const OptionRow kBiasRate = {"bias-rate", 1e-3, "u in b += u · sign(mean load − load), after each step", 0,
                                    1};

// A bias of each expert that the choice alone reads, steered by the loads (Wang et al. 2024): state, what a pass counts, and
// what a step changes.
class LoadBias {
 public:
  LoadBias(ParameterSet& set, const std::string& router, const RouterOptions& options);
  const Tensor& value() const { return bias_->value; }  // b [E]
  void count(Routing& routing, const RoutingInputs& in) const;
  void after_step(const StepStatistics& step) const;

 private:
  State* bias_;
  double rate_;
};

namespace oracle {
// The K largest of `choice`, each with its entry of `weights`; divided by their sum where `normalise`.     both [T, E]
OracleRouting choose(const OracleInputs& in, std::vector<double> scores, const std::vector<double>& choice,
                     const std::vector<double>& weights, bool normalise);
// All experts whose choice is finite, by descending choice, each with its entry of `weights`.     both [T, E]
OracleRouting choose_finite(const OracleInputs& in, std::vector<double> scores, const std::vector<double>& choice,
                            const std::vector<double>& weights);
// f of each number.
template <class F> std::vector<double> map(std::vector<double> x, F f) {
  for (double& v : x) v = f(v);
  return x;
}
std::vector<double> softmax_rows(const std::vector<double>& x, int64_t n);
// var(ddof 1) / mean² of the sums over rows.     p [T, E]
double imbalance(const std::vector<double>& p, int64_t n_experts);
// 1 where an expert was chosen, else 0.     → [T, E]
std::vector<double> chosen_mask(const OracleRouting& r, int64_t n_experts);
}  // namespace oracle

}  // namespace glia
