#include "experiments/records/routing/routing_shares.h"

#include <fmt/format.h>

#include "engine/core/check.h"
#include "engine/core/file.h"

namespace glia::results {
namespace {

// The first columns of u: the experts without what is outside them.
Matrix experts_of(const Matrix& u, int n_experts) {
  Matrix m(u.rows, n_experts);
  for (int c = 0; c < u.rows; ++c)
    for (int e = 0; e < n_experts; ++e) m(c, e) = u(c, e);
  return m;
}

// Of all tokens, whatever their topic.
std::vector<double> shares_of_all(const ShareTable& t) {
  std::vector<double> shares(size_t(t.all.cols));
  double tokens = 0;
  for (const double n : t.rows) tokens += n;
  for (int c = 0; c < t.all.rows && tokens > 0; ++c)
    for (int e = 0; e < t.all.cols; ++e) shares[size_t(e)] += t.all(c, e) * t.rows[size_t(c)] / tokens;
  return shares;
}

MetricValue optional_value(const std::optional<double>& value) {
  return value ? MetricValue(*value) : MetricValue();
}

}  // namespace

std::vector<MetricRow> cost_rows() {
  return {
      {.name = kActiveParameters,
       .label = "active",
       .help =
           "active: parameters that a token meets, embedding tables aside; of experts those that it has on the mean",
       .stage = Stage::evaluation,
       .digits = 0,
       .least = 0},
      {.name = kFlops,
       .label = "FLOPs a token",
       .help = "FLOPs a token: of a forward pass, 2 a weight of every product; attention's own products aside",
       .stage = Stage::evaluation,
       .digits = 0,
       .least = 0}};
}

std::vector<MetricRow> share_rows() {
  return {
      {.name = "choice_shares",
       .label = "choices",
       .help = "choices: share of the tokens' choices that each expert has, then each column outside the experts",
       .stage = Stage::routing,
       .form = Form::vector}};
}

void set_shares(LayerMetrics& metrics, const LayerShares& shares, int n_experts) {
  metrics["specialisation_mass"] = optional_value(specialisation(experts_of(shares.mass.all, n_experts)));
  metrics["specialisation_choices"] = optional_value(specialisation(experts_of(shares.choices.all, n_experts)));
  metrics["unrouted"] = shares.mass.unrouted;
  metrics["choice_shares"] = shares_of_all(shares.choices);
}

void write_shares(const std::string& folder, const std::vector<LayerShares>& layers, int n_experts,
                  const std::vector<std::string>& columns, const std::vector<std::string>& class_names) {
  std::vector<std::string> names;
  for (int e = 0; e < n_experts; ++e) names.push_back(fmt::format("expert{}", e));
  names.insert(names.end(), columns.begin(), columns.end());
  for (size_t l = 0; l < layers.size(); ++l)
    for (const auto& [kind, table] : {std::pair{"mass", &layers[l].mass}, {"choices", &layers[l].choices}})
      for (const bool cls : {false, true})
        write_file_atomic(fmt::format("{}/utilization_{}_{}layer{}.csv", folder, kind, cls ? "cls_" : "", l + 1),
                          utilisation_csv(cls ? table->cls : table->all, class_names, names));
}

}  // namespace glia::results
