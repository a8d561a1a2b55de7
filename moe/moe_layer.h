// A mixture of experts in the FFN's place: y_s = Σ_k g_sk Expert_{e_sk}(x_s). Dropless and deterministic: rows are
// grouped by expert in a stable order and each token gathers its K results.
#pragma once
#include "moe/experts.h"
#include "moe/router.h"

namespace glia {

struct MoeConfig {
  std::string router = "none";  // a name of the registry; "none": dense
  int64_t n_experts = 8, top_k = 2;
  double balance = 0, energy = 0;  // α, β
  double z_loss = 0;
  bool second_residual = false;  // the published code's extra residual and norm (docs/science.md 6)

  bool dense() const { return router == "none"; }
};

class MoeLayer : public FeedForward {
 public:
  // Parameters "<layer_name>.moe.router.…" and "<layer_name>.moe.experts.…".
  MoeLayer(ParameterSet& set, const std::string& layer_name, const MoeConfig& config, const BertConfig& bert,
           int layer);

  bool reads_all_rows() const override { return true; }
  bool second_residual() const override { return second_residual_; }
  // With read_rows_only all rows are routed and enter the losses, but only the rows that are read pass through experts.
  Result forward(const Var& x, const Pass& pass, bool read_rows_only) const override;

  const Router& router() const { return *router_; }
  const Experts& experts() const { return experts_; }

 private:
  std::unique_ptr<Router> router_;
  Experts experts_;
  bool second_residual_;
};

}  // namespace glia
