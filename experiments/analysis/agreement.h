// Whether two routings divide the tokens alike. Experts have no identity across layers, seeds and models: they are
// matched first, one to one, so that they share as many tokens as possible. Matching finds some agreement between any
// two routings, so what it finds after the tokens of one side were permuted stands beside (docs/analysis.md).
#pragma once
#include <cstdint>
#include <vector>

#include "experiments/records/routing/routing_counts.h"

namespace glia::results {

class TraceFile;

// How often expert e of one routing and f of another have a token together.
struct Joint {
  Matrix counts;     // [E, E']
  double total = 0;  // Σ over tokens of the larger number of experts: overlap 1 would be all of it
  Joint(int rows, int cols) : counts(rows, cols) {}
};

// Share of the choices that agree when each expert is matched to one of the other side, best assignment; 0 … 1.
double matched_overlap(const Joint& joint);
// Share that agrees when expert e is expert e.
double same_overlap(const Joint& joint);
// 2 I / (H + H') of the joint counts, 0 … 1; 1 where neither side varies.
double normalised_information(const Joint& joint);

// The agreement of two layers' first choices.
struct LayerPair {
  int a = 0, b = 0;  // from 0
  Joint joint;
  LayerPair(int a, int b, int n_experts) : a(a), b(b), joint(n_experts, n_experts) {}
};

// All pairs a < b, or where their counts would fill memory those of neighbours.
std::vector<LayerPair> layer_pairs(int layers, int n_experts);
// [L, N] of a chunk: each token's first expert, or −1.
std::vector<int32_t> first_choices(const TokenTrace& chunk);
void add(LayerPair& pair, const std::vector<int32_t>& first, int64_t tokens);
// What a random permutation of one side's tokens makes of the joint counts: a draw from the tables of these sums, so that
// no token needs to be kept. The last number of each side is that of the tokens without an expert; `draw` names the draw.
Joint permuted_joint(std::vector<int64_t> rows, std::vector<int64_t> columns, uint32_t draw);

// Of two traces of the same tokens, layer by layer, all choices.
struct LayerAgreement {
  int layer = 0;                    // from 0
  double same_first = 0, same = 0;  // router saturation: no matching; the first choices, and all of them
  double chance_same_first = 0, chance_same = 0;  // of even use: 1 / E and K / E where all tokens have K experts
  double matched = 0, information = 0;
  std::vector<double> permuted;  // matched, once for each permutation, ascending
  double chance() const;         // mean of `permuted`; NaN without any, as p()
  double p() const;              // (1 + how many of them are at least `matched`) / (1 + how many)
};
// Throws when the files do not have the same tokens (number, and ids and offsets where both know them), layers and
// experts.
std::vector<LayerAgreement> agreement(const TraceFile& a, const TraceFile& b, int permutations);

}  // namespace glia::results
