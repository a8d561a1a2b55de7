// All that is said of a finished run beyond its own files: the routing of its test rows as a trace, its predictions, and on
// request what experts are for.
#pragma once
#include "experiments/analysis/causal.h"
#include "experiments/analysis/layer_states.h"
#include "experiments/analysis/saturation.h"

namespace glia {

struct RunAnalysis {
  results::TraceAnalysis routing;
  std::vector<std::string> words;  // of the run's vocabulary; empty where it is not found
  std::optional<Causal> causal;
  std::vector<LayerStates> states;
  // Of a router with columns beside its experts: their names, and of each layer the share of the choices that each expert and
  // then each column has, [L] of [E + X]: those of the run's evaluation.
  std::vector<std::string> columns;
  std::vector<std::vector<double>> choices;
  std::vector<Saturation> saturation;  // of a run that was trained with --trace-rows
};

// Evaluates the saved model again; writes predictions.csv (of all test rows alone, not of a part of them) and
// trace.safetensors into the run's folder. `deeply`: knock-out and states too, which take (L · E + C · log E) evaluations.
RunAnalysis analyse_run(const results::Run& run, const Options& options, Device device, bool deeply, int words);

// Of a classifier without experts: predictions.csv alone, for the report's intervals over test rows. An error for other runs.
results::Predictions predict_run(const results::Run& run, const Options& options, Device device);

// analysis.json's keys, and the tables.
results::Json to_json(const RunAnalysis& analysis);
std::vector<results::Table> all_tables(const RunAnalysis& analysis);
std::vector<results::NamedPicture> pictures(const RunAnalysis& analysis);

}  // namespace glia
