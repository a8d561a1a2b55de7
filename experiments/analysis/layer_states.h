// What a saved model's layers make of the same tokens: how alike the experts are, and how much of the routing's
// specialisation random routers find in what the layer's router reads.
#pragma once
#include "experiments/report/tables.h"
#include "experiments/training/evaluation.h"

namespace glia {

struct LayerStates {
  double own = 0;              // the router's specialisation on these rows
  std::vector<double> random;  // that of softmax routers with random weights on the same rows, one a draw
  results::Matrix
      similarity;  // [E, E] linear CKA of the experts' outputs on the same tokens; empty: no routed experts
};

inline constexpr int kRandomDraws = 5;
inline constexpr int64_t kSimilarityRows = 512;  // tokens that all experts are asked about
std::vector<LayerStates> layer_states(const Model& model, const Evaluator& evaluator, int topics);

// Linear CKA (Kornblith et al. 2019) of each two of E representations [n, H] of the same rows: ‖YᵀZ‖² / (‖YᵀY‖ ‖ZᵀZ‖),
// columns centred; 0 where one does not vary.     → [E, E]
results::Matrix linear_cka(const std::vector<results::Matrix>& outputs);

results::Json to_json(const std::vector<LayerStates>& layers);
results::Table states_table(const std::vector<LayerStates>& layers);

}  // namespace glia
