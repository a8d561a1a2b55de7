#include "tools/benchmarks/work.h"

#include <algorithm>

#include "engine/device/profiler.h"
#include "engine/tensor.h"

namespace glia {

double step_flops(const ModelConfig& m, const StepWork& w, int64_t outputs, bool read_rows_only) {
  const double H = static_cast<double>(m.bert.hidden), F = static_cast<double>(m.bert.ffn),
               E = static_cast<double>(m.moe.n_experts), K = static_cast<double>(m.moe.top_k);
  const bool moe = !m.moe.dense();
  double flops = 0;
  for (int64_t layer = 0; layer < m.bert.layers; ++layer) {
    const bool last = layer + 1 == m.bert.layers && read_rows_only;
    const double rows = last ? w.read : w.tokens;
    flops += 2 * w.tokens * H * 3 * H + 4 * w.pairs * H;  // q, k, v; scores and values
    flops += 2 * (moe ? w.tokens : rows) * H * H;         // a router reads every row, a dense FFN only its own
    flops += (moe ? K : 1) * 4 * rows * H * F;
    // Routers of a context have a second product, of a row a sequence.
    if (moe) flops += 2 * w.tokens * H * E + (m.moe.router == "softmax" ? 0 : 2 * w.sequences * H * E);
  }
  flops += 2 * w.read * H * (H + static_cast<double>(outputs));
  return 3 * flops;
}

double optimiser_bytes(const Model& model, double tokens, double moment) {
  double weights = 0;
  for (const Parameter& p : model.parameters().all()) {
    if (p.frozen) continue;
    const bool table = &p == model.parameters().table();
    const double rows = static_cast<double>(p.shape[0]);
    const double share = table ? std::min(1.0, tokens / rows) : 1;
    weights += share * static_cast<double>(p.shape.numel());
  }
  const bool mixed = model.parameters().copy().defined();
  const double gradient = model.config().bfloat16_gradients ? 2 : 4;
  return weights * (2 * (4 + 2 * moment) + gradient + (mixed ? 2 : 0));
}

double copy_ceiling_gb(Context& context) {
  const bool gpu = context.device().is_cuda();
  const int64_t n = int64_t{1} << (gpu ? 28 : 25);
  const Tensor from = full(context, {n}, 1.0, DType::kFloat32), to = empty_like(from);
  double best = 0;
  for (int i = 0; i < 8; ++i) {
    const auto begin = mark_time(context.backend());
    Tensor(to).copy_from(from);
    const auto end = mark_time(context.backend());
    context.synchronize();
    const double ms = milliseconds_between(context.backend(), begin.get(), end.get());
    best = std::max(best, 8e-6 * static_cast<double>(n) / ms);
  }
  return best;
}

}  // namespace glia
