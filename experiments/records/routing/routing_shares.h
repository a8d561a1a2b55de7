// Whose the tokens are where gates do not sum to 1 or a token may have no expert (docs/science.md 4): by gate mass and by
// choices, over the experts and the columns outside them. Runs of routers with K experts and gates that sum to 1 have
// none of this.
#pragma once
#include "experiments/records/results.h"

namespace glia::results {

// What a token costs (moe/cost.h), among eval.json's values.
inline constexpr const char *kActiveParameters = "active_parameters", *kFlops = "flops_per_token";
std::vector<MetricRow> cost_rows();

struct ShareTable {
  Matrix all, cls;           // [C, E + X], rows sum to 1 or are 0
  std::vector<double> rows;  // [C]: tokens that have anything
  double unrouted = 0;       // share of all tokens that have nothing
};

struct LayerShares {
  ShareTable mass, choices;
};

// Their rows of the metric table, behind the others of a layer.
std::vector<MetricRow> share_rows();
void set_shares(LayerMetrics& metrics, const LayerShares& shares, int n_experts);

// As the other one, with other names of the columns: `topic,expert0,…,null`.
std::string utilisation_csv(const Matrix& u, const std::vector<std::string>& topics,
                            const std::vector<std::string>& columns);
// utilization_{mass,choices}[_cls]_layer<l>.csv: `topic,expert0,…,null`, columns outside the experts by their names.
void write_shares(const std::string& folder, const std::vector<LayerShares>& layers, int n_experts,
                  const std::vector<std::string>& columns, const std::vector<std::string>& class_names);
// The choices of a finished run as those files have them; nothing where the run has no such files. Errors as
// read_run_utilisation()'s.
struct RunChoices {
  std::vector<std::string> columns;  // [X] those outside the experts
  std::vector<Matrix> layers;        // [L] of [C, E + X]
};
RunChoices read_choices(const Run& run, bool cls);

}  // namespace glia::results
