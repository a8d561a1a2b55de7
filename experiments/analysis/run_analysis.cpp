#include "experiments/analysis/run_analysis.h"

#include <numeric>

#include "engine/core/check.h"
#include "experiments/analysis/run_trace.h"
#include "experiments/records/recompute.h"
#include "experiments/records/routing/routing_shares.h"
#include "experiments/records/saved_model.h"

namespace glia {
namespace {

// Told by the configuration, before a trace is made and written.
void want_single_experts(const results::Run& run) {
  const std::string mixture = mixture_row(saved_model_config(run, DType::kFloat32).moe).name;
  if (mixture != std::get<std::string>(mixture_option().standard))
    fail_input(
        "--knock-out: {}: expected experts that tokens are sent to one by one, got the mixture {} ({}), which has "
        "none; without --knock-out its routing is told",
        run.folder, mixture, run.config.config);
}

// A trace has experts alone: what tokens chose beside them is the evaluation's.
void add_choices(RunAnalysis& a, const results::Run& run) {
  a.columns = results::read_choices(run, false).columns;
  if (a.columns.empty() || !run.evaluation) return;
  for (const results::LayerMetrics& layer : run.evaluation->layers) {
    const std::vector<double>& shares = layer["choice_shares"].values;
    if (shares.size() == size_t(run.config.experts()) + a.columns.size()) a.choices.push_back(shares);
  }
}

results::Table choices_table(const RunAnalysis& a) {
  results::Table t;
  t.title = "Choices beside the experts";
  t.note =
      "share of the tokens' choices in the run's evaluation, in percent: of all experts together, and of each column beside "
      "them. All else that is said here is of the experts alone.";
  t.header = {"layer", "experts"};
  t.header.insert(t.header.end(), a.columns.begin(), a.columns.end());
  for (size_t l = 0; l < a.choices.size(); ++l) {
    const std::vector<double>& shares = a.choices[l];
    const auto beside = shares.end() - long(a.columns.size());
    auto& row = t.rows.emplace_back(std::vector{std::to_string(l + 1)});
    row.push_back(fmt::format("{:.1f}", 100 * std::accumulate(shares.begin(), beside, 0.0)));
    for (auto share = beside; share != shares.end(); ++share) row.push_back(fmt::format("{:.1f}", 100 * *share));
  }
  return t;
}

}  // namespace

RunAnalysis analyse_run(const results::Run& run, const Options& given, Device device, bool deeply, int words) {
  if (!run.config.moe()) fail_input("{}: has no experts ({})", run.folder, run.config.router);
  if (deeply) want_single_experts(run);
  const Options o = without_padding(given);
  return with_evaluator(run, o, device, [&](Model& model, Evaluator& evaluator, const Dataset& data) {
    RunAnalysis out;
    const std::string path = run.folder + "/trace.safetensors";
    write_trace(path, trace_of(model, evaluator, title_of(run), data.class_names, false));
    out.routing = results::analyse(results::TraceFile(path), words);
    out.saturation = saturation_of(run.folder);
    out.words = data.vocabulary().tokens();
    add_choices(out, run);
    const bool all_rows = o.utilisation_rows == 0 || o.utilisation_rows >= data.test.size();
    if (all_rows && run.config.task() == "classification")
      results::write_predictions(run.folder, predict(model, evaluator));
    if (!deeply) return out;
    std::vector<results::Matrix> utilisation;
    for (const results::LayerAnalysis& layer : out.routing.layers) utilisation.push_back(layer.reading.all);
    out.causal = knock_out(model, evaluator, data.test, options_on(o, device), data.vocabulary(), utilisation,
                           data.class_names);
    out.states = layer_states(model, evaluator, int(data.classes()));
    return out;
  });
}

results::Predictions predict_run(const results::Run& run, const Options& options, Device device) {
  if (run.config.moe() || run.config.task() != "classification")
    fail_input("{}: expected a classifier without experts, got {} with {}", run.folder, run.config.task(),
               run.config.router);
  return with_evaluator(run, without_padding(options), device,
                        [&](Model& model, Evaluator& evaluator, const Dataset&) {
                          const results::Predictions predictions = predict(model, evaluator);
                          results::write_predictions(run.folder, predictions);
                          return predictions;
                        });
}

results::Json to_json(const RunAnalysis& a) {
  results::Json json = results::to_json(a.routing, a.words);
  if (!a.choices.empty()) json["choices"] = {{"columns", a.columns}, {"layers", a.choices}};
  if (a.causal) json["knock_out"] = to_json(*a.causal);
  if (!a.states.empty()) json["states"] = to_json(a.states);
  if (!a.saturation.empty()) json["saturation"] = to_json(a.saturation);
  return json;
}

std::vector<results::Table> all_tables(const RunAnalysis& a) {
  std::vector<results::Table> tables = results::all_tables(a.routing, a.words);
  if (!a.choices.empty()) tables.push_back(choices_table(a));
  if (!a.saturation.empty()) tables.push_back(saturation_table(a.saturation));
  if (a.causal)
    for (results::Table& table : causal_tables(*a.causal)) tables.push_back(std::move(table));
  if (!a.states.empty()) tables.push_back(states_table(a.states));
  return tables;
}

std::vector<results::NamedPicture> pictures(const RunAnalysis& a) {
  std::vector<results::NamedPicture> list = results::pictures(a.routing);
  if (a.causal) list.push_back({"knock_out", "What a topic loses without an expert.", lost_picture(*a.causal)});
  return list;
}

}  // namespace glia
