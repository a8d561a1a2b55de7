// Losses that read the experts: what they say of one token, and how their weights answer to the router's.
#include <cmath>

#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/products/matmul.h"
#include "engine/ops/ranks/sum_over_ranks.h"
#include "engine/ops/rows/reduce.h"
#include "engine/ops/rows/rows.h"
#include "engine/ops/rows/topk.h"
#include "moe/losses/losses.h"
#include "moe/routers/parts.h"

namespace glia {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity(), kTiny = 1e-8;

// With d_k = ⟨y_k, y_k⟩ the projection of y_j on y_k has the squared length ⟨y_j, y_k⟩² d_k / (d_k + ε)².
Var orthogonality(const LossInputs& from) {
  const Dispatch& d = from.pairs->dispatch;
  const int64_t tokens = d.row_of.size(0), slots = d.row_of.size(1);
  const DType type = accumulation_dtype(from.pairs->outputs.dtype());
  const Var y = cast(gather_rows(from.pairs->outputs, d.row_of.reshape({tokens * slots})), type);  // 0 of nobody
  const Var length = reshape(sum(square(y), 1), {tokens, slots});
  const Var wide = reshape(y, {tokens, slots, y.size(1)});
  const Var with_own = sum(square(matmul(wide, wide, false, true)), 1);  // Σ_j ⟨y_j, y_k⟩² [T, S]
  const Var per_length = div(length, square(add_scalar(length, kTiny)));
  const Var all = sum(mul(sub(with_own, square(length)), per_length));
  const Sequences& q = from.in.pass.sequences;
  return over_ranks(reshape(div(all, real_rows(q, type)), {1}), q);
}

std::vector<double> orthogonality_oracle(const OracleRouting& r, int64_t, int64_t) {
  double sum = 0;
  for (size_t t = 0; t < r.outputs.size(); ++t) {
    const size_t n = r.experts[t].size(), H = n ? r.outputs[t].size() / n : 0;
    const auto dot = [&](size_t j, size_t k) {
      double s = 0;
      for (size_t h = 0; h < H; ++h) s += r.outputs[t][j * H + h] * r.outputs[t][k * H + h];
      return s;
    };
    for (size_t j = 0; j < n; ++j)
      for (size_t k = 0; k < n; ++k)
        if (j != k) sum += std::pow(dot(j, k) / (dot(k, k) + kTiny), 2) * dot(k, k);
  }
  return {sum / static_cast<double>(r.outputs.size())};
}

// The router's rows as probes, in training each within half the way to its nearest neighbour.     → [E, H]
Var probes(const LossInputs& from) {
  const Var& w = from.routing.matrix;
  if (!from.in.pass.training) return w;
  const int64_t n = w.size(0);
  const Tensor one = full(w.context(), {1, n}, 1.0, w.dtype()), eye = identity(w.context(), n, w.dtype());
  const Var square_length = reshape(sum(square(w), 1), {n, 1}), across = matmul(square_length, one);
  const Var apart =
      add(sub(add(across, matmul(one, square_length, true, true)), scale(matmul(w, w, false, true), 2)),
          scale(eye, 1e30).value());
  const Var nearest = scale(max(scale(apart, -1), 1), -1);
  const Var reach =
      scale(div(root(add_scalar(relu(nearest), 1e-12)), root(add_scalar(reshape(square_length, {n}), 1e-12))), 0.5);
  RandomKey key = noise_key(from.in, 15);  // the last of the layer's sites, which no router draws from
  key.first_row = nullptr;
  const Tensor u = random_rows(w.context(), n, w.size(1), w.dtype(), RandomKind::kUniform, key);
  const Tensor row = full(w.context(), {1, w.size(1)}, 1.0, w.dtype());
  const Var moved = mul(matmul(reshape(reach, {n, 1}), row), add_scalar(scale(u, 2), -1).value());
  return mul(w, add_scalar(moved, 1));
}

// M_ij = ‖W_first,j r_i‖: every probe through every expert's first product.
Var answers(const LossInputs& from) {
  const Var probe = probes(from);
  const int64_t n = probe.size(0);
  const Tensor all = top_k(full(probe.context(), {n, n}, 1.0, probe.dtype()), n).indices;  // 0 … n − 1 in each row
  return first_product_lengths(cast(probe, from.in.pass.compute), all, *from.in.experts);
}

const OptionRow kAlpha = {
    "coupling-alpha", 1.0,
    "α of --coupling-loss: how much of what an expert answers to its own row others may; 0.5 in its "
    "paper at 256 experts",
    0, 1e6};

// Σ over i ≠ j of relu(M_ij − α M_ii) + relu(M_ij − α M_jj); the diagonal's are 0 where α is 1.
Var coupling(const LossInputs& from) {
  const Var m = answers(from);
  const int64_t n = m.size(0);
  const Tensor one = full(m.context(), {1, n}, 1.0, m.dtype());
  const Tensor eye = identity(m.context(), n, m.dtype());
  const double alpha = from.options.get<double>(kAlpha);
  Var own = reshape(sum(mul(m, eye), 1), {n, 1});
  if (alpha != 1) own = scale(own, alpha);
  const Var of_probe = relu(sub(m, matmul(own, one))), of_expert = relu(sub(m, matmul(one, own, true, true)));
  Var all = add(of_probe, of_expert);
  if (alpha != 1) all = mul(all, add_scalar(scale(eye, -1), 1).value());
  return scale(reshape(sum(all), {1}), 1.0 / static_cast<double>(n * n));
}

std::vector<double> coupling_oracle(const OracleRouting& r, int64_t n_experts, int64_t) {
  const auto E = static_cast<size_t>(n_experts), H = r.matrix.size() / E, F = r.first.size() / r.matrix.size();
  std::vector<double> m(E * E);
  for (size_t i = 0; i < E; ++i)
    for (size_t j = 0; j < E; ++j) {
      for (size_t f = 0; f < F; ++f) {
        double sum = 0;
        for (size_t h = 0; h < H; ++h) sum += r.first[(j * F + f) * H + h] * r.matrix[i * H + h];
        m[i * E + j] += sum * sum;
      }
      m[i * E + j] = std::sqrt(m[i * E + j]);
    }
  double loss = 0;
  for (size_t i = 0; i < E; ++i)
    for (size_t j = 0; j < E; ++j)
      loss += std::max(0.0, m[i * E + j] - m[i * E + i]) + std::max(0.0, m[j * E + i] - m[i * E + i]);
  return {loss / static_cast<double>(E * E)};
}

}  // namespace

LossRow orthogonality_row() {
  return {
      {"orthogonality"},
      {{"orthogonality-loss", 0.0, "weight of the projections of a token's experts' outputs on each other", 0,
        kInfinity}},
      false,
      "mean over tokens of Σ_{j≠k} ‖⟨y_j, y_k⟩ / (⟨y_k, y_k⟩ + 1e-8) · y_k‖², y the outputs of the token's experts; no "
      "gradient to the router",
      "Guo et al. 2025, arXiv 2505.22323",
      "its sum over tokens is a mean here, so that a weight means the same in batches of any size. In the last layer it makes "
      "all rows pass through the experts, where else those that the head reads do",
      orthogonality,
      orthogonality_oracle,
      LossReads::kOutputs};
}

LossRow coupling_row() {
  return {
      {"coupling"},
      {{"coupling-loss", 0.0, "weight of the loss that ties the router's rows to the experts; 1 in its paper", 0,
        kInfinity}},
      false,
      "(1/E²) Σ_{i≠j} relu(M_ij − α M_ii) + relu(M_ji − α M_ii), M_ij = ‖W_first,j (r_i ∘ δ_i)‖, r_i the router's rows, δ_i "
      "uniform in 1 ± min_j ‖r_i − r_j‖ / (2 ‖r_i‖) in training",
      "Lv et al. 2025, arXiv 2512.23447 (ERC, expert-router coupling), followed by an account of the paper: no code of "
      "theirs was seen",
      "W_first is an expert's only first product, without its bias, where the paper's experts are gated. δ is 1 in "
      "evaluation. The gradient goes through the bound of δ too, as there",
      coupling,
      coupling_oracle,
      LossReads::kExperts,
      nullptr,
      {kAlpha}};
}

}  // namespace glia
