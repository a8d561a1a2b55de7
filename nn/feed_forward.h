// The second half of an encoder layer: a dense FFN here, a mixture of experts in moe/. What a layer has to report
// beside its output is returned, never stored: losses kept in a global list leak from one model into another.
#pragma once
#include <memory>
#include <vector>

#include "nn/bert_config.h"
#include "nn/linear.h"
#include "nn/pass.h"

namespace glia {

// A router's losses for one layer: total += Σ_i weights[i] · values[i] (then averaged over the layers).
struct AuxiliaryLosses {
  std::vector<std::string> names;  // "balance", "energy", "z", …
  std::vector<double> weights;
  Var values;  // [names.size()], unweighted, float32 or float64
};

struct Statistic {
  std::string name;
  Tensor value;
};

// Who goes where.
struct Routing {
  Tensor experts;         // int32 [T, K]; −1: nobody (the tail; fewer than K chosen)
  Var gates;              // [T, K], float32 or float64; 0 where nobody
  int64_t n_experts = 0;  // 0: a dense layer, which routes nothing
  std::vector<AuxiliaryLosses> losses;
  std::vector<Statistic> statistics;  // anything worth logging
};

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
