// Router saturation over training (OLMoE, Muennighoff et al. 2024, 5.1): how early a token goes where it will go in the end.
// Runs with --trace-rows keep the routing of the same test rows at each evaluation.
#pragma once
#include "experiments/analysis/agreement.h"
#include "experiments/report/tables.h"
#include "experiments/training/evaluation.h"

namespace glia {

// Writes <folder>/trace_step<n>.safetensors. The rows' batches lie on the device from the constructor on.
class RoutingProbe {
 public:
  RoutingProbe(Model& model, const Dataset& data, const Options& options, const std::string& folder,
               const std::string& title);
  void keep(int64_t step);

 private:
  Model& model_;
  const std::vector<std::string> topics_;
  std::string folder_, title_;
  Evaluator evaluator_;
};

struct Saturation {
  int64_t step = 0;
  std::vector<results::LayerAgreement> layers;  // with the last step
};
// Of all trace_step<n>.safetensors of a run's folder, by ascending step; empty where there are fewer than two.
std::vector<Saturation> saturation_of(const std::string& folder);

results::Json to_json(const std::vector<Saturation>& steps);
results::Table saturation_table(const std::vector<Saturation>& steps);

}  // namespace glia
