#include "nn/optimizer.h"

namespace glia {

AdamW::AdamW(ParameterSet& parameters, const AdamWOptions& options) : parameters_(parameters), options_(options) {
  Context& context = parameters.context();
  const int64_t low = parameters.low_size(), rest = parameters.flat_size() - low;
  buffers_.p = parameters.values();
  buffers_.low = parameters.low_gradients();
  buffers_.g = parameters.gradients();
  buffers_.copy = parameters.copy();
  buffers_.m = zeros_like(parameters.values());
  buffers_.v = zeros_like(parameters.values());
  buffers_.decayed = parameters.decayed_size();
  buffers_.partial = zeros(context, {norm_chunks(low) + norm_chunks(rest)}, DType::kFloat64);
  buffers_.factors = zeros(context, {adamw_factor::kCount}, DType::kFloat64);
}

void AdamW::step() {
  parameters_.complete_gradients();
  adamw_step(buffers_, options_);
}

AdamW::Report AdamW::report() const {
  const std::vector<double> f = buffers_.factors.to_vector<double>();
  return {f[adamw_factor::kNorm], f[adamw_factor::kLearningRate], static_cast<int64_t>(f[adamw_factor::kSkipped])};
}

}  // namespace glia
