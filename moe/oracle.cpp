#include "moe/oracle.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace glia {

std::vector<double> oracle_linear(const std::vector<double>& x, const std::vector<double>& weight,
                                  const std::vector<double>& bias) {
  const size_t E = bias.size(), H = weight.size() / E, rows = x.size() / H;
  std::vector<double> y(rows * E);
  for (size_t t = 0; t < rows; ++t)
    for (size_t e = 0; e < E; ++e) {
      y[t * E + e] = bias[e];
      for (size_t h = 0; h < H; ++h) y[t * E + e] += weight[e * H + h] * x[t * H + h];
    }
  return y;
}

std::vector<double> oracle_softmax(const double* row, int64_t n) {
  std::vector<double> p(row, row + n);
  const double top = *std::max_element(p.begin(), p.end());
  double sum = 0;
  for (double& v : p) sum += v = std::exp(v - top);
  for (double& v : p) v /= sum;
  return p;
}

std::vector<int32_t> oracle_order(const double* row, int64_t n) {
  std::vector<int32_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return row[a] > row[b]; });
  return order;
}

namespace {

// [B, H]: each sequence's first row, or the mean of its others.
std::vector<double> context_rows(const OracleInputs& in, bool mean) {
  const auto H = static_cast<size_t>(in.hidden);
  std::vector<double> rows(in.lengths.size() * H);
  size_t start = 0;
  for (size_t b = 0; b < in.lengths.size(); start += static_cast<size_t>(in.lengths[b++]))
    for (size_t h = 0; h < H; ++h) {
      const auto n = static_cast<size_t>(in.lengths[b]);
      if (!mean) rows[b * H + h] = in.x[start * H + h];
      for (size_t t = 1; mean && t < n; ++t)
        rows[b * H + h] += in.x[(start + t) * H + h] / static_cast<double>(n - 1);
    }
  return rows;
}

}  // namespace

OracleRouting oracle_top_k(const OracleInputs& in, OracleContext context) {
  const auto E = static_cast<size_t>(in.n_experts);
  OracleRouting r;
  r.scores = oracle_linear(in.x, in.weight("token.weight"), in.weight("token.bias"));
  if (context != OracleContext::kNone) {
    const std::vector<double> c = oracle_linear(context_rows(in, context == OracleContext::kGateByMean),
                                                in.weight("context.weight"), in.weight("context.bias"));
    size_t t = 0;
    for (size_t b = 0; b < in.lengths.size(); ++b)
      for (int32_t i = 0; i < in.lengths[b]; ++i, ++t)
        for (size_t e = 0; e < E; ++e) {
          if (context == OracleContext::kAdd) r.scores[t * E + e] += c[b * E + e];
          else r.scores[t * E + e] /= 1 + std::exp(-c[b * E + e]);
        }
  }
  for (size_t t = 0; t < static_cast<size_t>(in.tokens()); ++t) {
    std::vector<int32_t> chosen = oracle_order(&r.scores[t * E], in.n_experts);
    chosen.resize(static_cast<size_t>(in.top_k));
    std::vector<double> logits;
    for (const int32_t e : chosen) logits.push_back(r.scores[t * E + static_cast<size_t>(e)]);
    r.experts.push_back(chosen);
    r.gates.push_back(oracle_softmax(logits.data(), in.top_k));
  }
  return r;
}

}  // namespace glia
