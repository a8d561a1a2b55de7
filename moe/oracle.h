// Routers and their losses once more, as plain loops in float64 over std::vector: what tests compare with. Only rows
// that belong to a sequence appear here.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "engine/core/command_line/options.h"

namespace glia {

struct OracleInputs {
  int64_t hidden = 0, n_experts = 0, top_k = 0;
  OptionValues options;
  std::vector<double> x;         // [T, H]
  std::vector<int32_t> lengths;  // [B], Σ = T
  std::vector<int32_t> ids;      // [T] of the tokens
  std::vector<int32_t> borders;  // [B] rows of each sequence that are its prompt; empty: there is no border
  // A weight or a state by its name within the router, "token.weight", or a shared state by its full name.
  std::function<std::vector<double>(const std::string&)> weight;

  int64_t tokens() const { return static_cast<int64_t>(x.size()) / hidden; }
};

struct OracleRouting {
  std::vector<std::vector<int32_t>> experts;                 // [T][…], in the router's order
  std::vector<std::vector<double>> gates;                    // likewise
  std::vector<double> scores;                                // [T, E]
  std::vector<double> losses = {};                           // of the router's own, in its order, in evaluation
  std::vector<double> beside = {};                           // [T, H] as Routing::beside
  std::vector<double> other_choices = {}, other_gates = {};  // [T, X]
  std::vector<std::vector<double>> outputs = {};  // [T][pairs of t · H] of its experts; filled in likewise
  std::vector<double> first = {};                 // [E, F, H] the experts' first weights; likewise
  std::vector<double> matrix = {};                // [E, H] as Routing::matrix; filled in by whoever compares
};

using RouterOracle = OracleRouting(const OracleInputs&);

// w x + b of each row.     x [N, H], weight [E, H], bias [E] → [N, E]
std::vector<double> oracle_linear(const std::vector<double>& x, const std::vector<double>& weight,
                                  const std::vector<double>& bias);
std::vector<double> oracle_softmax(const double* row, int64_t n);
// Indices by descending value, lower index first among equals.
std::vector<int32_t> oracle_order(const double* row, int64_t n);

// The routers of docs/science.md 1: softmax over the K largest of linear logits, which the sequence's context (its
// first row, or the mean of the others) changes.
enum class OracleContext { kNone, kAdd, kGate, kGateByMean };
OracleRouting oracle_top_k(const OracleInputs& in, OracleContext context);

}  // namespace glia
