#include "experiments/analysis/run_trace.h"

#include <algorithm>

#include "engine/core/check.h"
#include "experiments/records/recompute.h"
#include "moe/layer_walk.h"

namespace glia {
namespace {

using results::TraceContent;

// Routers need not put a token's experts in any order, nor use the leading slots.
void append_token(TraceContent& t, const Choices& layer, size_t row) {
  const size_t slots = size_t(layer.slots);
  std::vector<size_t> order;
  for (size_t k = 0; k < slots; ++k)
    if (layer.experts[row * slots + k] >= 0) order.push_back(row * slots + k);
  std::ranges::stable_sort(order, [&](size_t a, size_t b) { return layer.gates[a] > layer.gates[b]; });
  for (size_t k = 0; k < size_t(t.slots); ++k) {
    t.experts.push_back(k < order.size() ? layer.experts[order[k]] : -1);
    t.gates.push_back(k < order.size() ? float(layer.gates[order[k]]) : 0.0f);
  }
}

void check_layers(TraceContent& t, const std::vector<Routing>& routings) {
  int slots = 0;
  for (size_t l = 0; l < routings.size(); ++l) {
    if (routings[l].n_experts == 0 || !routings[l].experts.defined())
      fail_input("{}: layer {} has no experts that tokens are sent to", t.title, l + 1);
    CHECK(t.n_experts == 0 || t.n_experts == int(routings[l].n_experts), "{}: layer {} has {} experts, others {}",
          t.title, l + 1, routings[l].n_experts, t.n_experts);
    t.n_experts = int(routings[l].n_experts);
    slots = std::max(slots, int(routings[l].experts.size(1)));
  }
  CHECK(t.slots == 0 || (t.slots == slots && t.layers == int(routings.size())),
        "{}: {} slots in {} layers, in other batches {} in {}", t.title, slots, routings.size(), t.slots, t.layers);
  t.slots = slots, t.layers = int(routings.size());
}

void append_batch(TraceContent& t, const Batch& batch, const Model::Output& out, bool first_rows) {
  if (out.routings.empty()) fail_input("{}: has no experts", t.title);
  check_layers(t, out.routings);
  const auto offsets = batch.sequences.offsets.to_vector<int32_t>(), ids = batch.ids.to_vector<int32_t>(),
             labels = batch.labels.to_vector<int32_t>();
  std::vector<Choices> layers(out.routings.begin(), out.routings.end());
  for (size_t b = 0; b + 1 < offsets.size(); ++b) {
    for (int32_t n = offsets[b]; n < (first_rows ? offsets[b] + 1 : offsets[b + 1]); ++n) {
      for (const Choices& layer : layers) append_token(t, layer, size_t(n));
      t.ids.push_back(ids[size_t(n)]);
      ++t.tokens;
    }
    t.offsets.push_back(int32_t(t.tokens));
    t.labels.push_back(labels[b]);
  }
}

}  // namespace

TraceContent trace_of(const Model& model, const Evaluator& evaluator, const std::string& title,
                      const std::vector<std::string>& topics, bool first_rows) {
  TraceContent trace;
  trace.title = title, trace.topics = topics;
  trace.offsets.push_back(0);
  const NoGrad no_grad(model.context());
  evaluator.for_each_batch(
      [&](const Batch& batch) { append_batch(trace, batch, model.forward(batch, false), first_rows); });
  return trace;
}

Options without_padding(Options options) {
  options.padding = "packed";
  return options;
}

std::string title_of(const results::Run& run) {
  return fmt::format("{}, seed{}", run.config.config, run.config.seed_index);
}

TraceContent trace_run(const results::Run& run, const Options& given, Device device, bool first_rows) {
  if (!run.config.moe()) fail_input("{}: has no experts ({})", run.folder, run.config.router);
  return with_evaluator(run, without_padding(given), device,
                        [&](Model& model, Evaluator& evaluator, const Dataset& data) {
                          return trace_of(model, evaluator, title_of(run), data.class_names, first_rows);
                        });
}

}  // namespace glia
