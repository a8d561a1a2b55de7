#include "nn/optimizer.h"

namespace glia {

AdamW::AdamW(ParameterSet& parameters, const AdamWOptions& options, bool rows_wait)
    : parameters_(parameters), options_(options) {
  Context& context = parameters.context();
  const int64_t low = parameters.low_size(), trained = parameters.trained_size(), rest = trained - low;
  buffers_.p = parameters.values().rows(0, trained);
  buffers_.low = parameters.low_gradients();
  buffers_.g = parameters.gradients();
  if (parameters.copy().defined()) buffers_.copy = parameters.copy().rows(0, trained);
  buffers_.m = zeros_like(buffers_.p);
  buffers_.v = zeros_like(buffers_.p);
  buffers_.decayed = parameters.decayed_size();
  for (const ParameterGroup& g : parameters.groups())
    buffers_.groups.push_back({g.begin, g.decayed, g.end, g.rate < 0 ? 1 : g.rate / options.learning_rate,
                               g.weight_decay < 0 ? options.weight_decay : g.weight_decay});
  buffers_.partial = zeros(context, {norm_chunks(low) + norm_chunks(rest)}, DType::kFloat64);
  buffers_.factors = zeros(context, {adamw_factor::kCount}, DType::kFloat64);
  buffers_.ticket = zeros(context, {1}, DType::kInt32);
  Parameter* table = parameters.table();
  if (!rows_wait || !table || table->frozen || table->grouped() || table->shape[1] % 8 != 0) return;
  AdamWRows& rows = buffers_.rows;
  rows.count = table->shape[0], rows.width = table->shape[1];
  rows.stamps = zeros(context, {rows.count}, DType::kInt32);
  rows.history = zeros(context, {kRowPeriod, 4}, buffers_.p.dtype());
  rows.clock = zeros(context, {1}, DType::kInt32);
  table->before_read = [this](const RowOrder& order) { adamw_catch_up(buffers_, options_, order); };
}

AdamW::~AdamW() {
  if (buffers_.rows.count == 0) return;
  parameters_.table()->before_read = nullptr;
  try {
    adamw_catch_up(buffers_, options_, {});
  } catch (const Error& error) {
    fmt::print(stderr, "glia: {}\n", error.what());
  }
}

void AdamW::step() {
  parameters_.complete_gradients();
  adamw_step(buffers_, options_, buffers_.rows.count ? parameters_.table()->touched : Tensor{});
}

AdamW::Report AdamW::report() const {
  const std::vector<double> f = buffers_.factors.to_vector<double>();
  return {f[adamw_factor::kNorm], f[adamw_factor::kLearningRate], static_cast<int64_t>(f[adamw_factor::kSkipped])};
}

}  // namespace glia
