// What the analysis of a layer's routing counts, token by token: sums that chunks of a trace are added to, so that a
// trace of any length takes the memory of its experts, topics and words alone. docs/analysis.md has the formulas.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "experiments/records/routing/routing_metrics.h"

namespace glia::results {

// The routing of consecutive tokens of any model; ours or one that was trained elsewhere.
struct TokenTrace {
  int64_t tokens = 0;                // N
  int layers = 0, slots = 0;         // L, K: slots a token
  int n_experts = 0, topics = 1;     // E, C
  std::span<const int32_t> experts;  // [N, L, K] best first; −1: nobody
  std::span<const float> gates;      // [N, L, K] >= 0
  std::span<const int32_t> topic;    // [N]; empty: all of topic 0
  std::span<const uint8_t> first;    // [N] 1: the first token of its sequence; empty: none
  std::span<const int32_t> word;     // [N] the row of the token's id among the ids that occur; empty: not known
  std::span<const float> entropy;    // [N, L] bits, of the router's probabilities; empty: not known
  int64_t begin = 0;                 // the number of its first token, for messages
};

// Tokens of one batch: the loads of each are looked at by themselves (batch violation).
inline constexpr int64_t kBatchTokens = 8192;

struct LayerCounts {
  int layer = 0, n_experts = 0, topics = 0;
  int64_t tokens = 0, unrouted = 0;                // unrouted: without an expert, or with gates of 0 alone
  Matrix gates, first_gates;                       // [C, E] sums; first_gates: of first rows
  Matrix shares;                                   // [C, E] sums of each token's gates over their own sum
  Matrix choice_shares;                            // [C, E] sums of one over the number of each token's experts
  Matrix choices;                                  // [C, E] how often the expert is among a token's
  std::vector<double> topic_tokens, topic_firsts;  // [C]
  std::vector<double> topic_routed;                // [C] tokens with an expert
  Matrix together;                                 // [E, E] tokens that have both; diagonal 0
  double margin = 0;                               // sum over routed tokens of the first gate minus the second
  double gate_entropy = 0;                         // … of the entropy in bits of the gates over their own sum
  double even_entropy = 0;                         // … of what that is at most: log2 of the number of experts
  double entropy = 0;                              // sum over tokens of TokenTrace::entropy
  bool entropy_known = false;
  std::vector<double> batch_loads;  // [E] of the batch that is being filled
  int64_t batch_tokens = 0, batches = 0;
  double batch_violation = 0;                  // sum over whole batches
  std::vector<uint32_t> words, words_experts;  // [V], [V, E]: tokens of a word, and of them those with the expert

  LayerCounts(int layer, int n_experts, int topics);
  // CHECKs that every expert exists and stands once, and that gates are numbers of 0 or more: who reads a file has said so.
  void add(const TokenTrace& chunk);

  // Experts a token has on average.
  double experts_a_token() const;

 private:
  void add_words(const TokenTrace& chunk);
};

// Of a whole trace in memory.
LayerCounts counts_of(const TokenTrace& trace, int layer);

// Throws when the sizes of a chunk do not fit each other.
void check_sizes(const TokenTrace& trace);

// --- what rows of the metric table read from them -------------------------------------------------

// Words that occur this often enter the specialisation of words (the cutoff of OLMoE).
inline constexpr uint32_t kLeastWord = 10;

// Mean over the words with N_x >= kLeastWord of the largest N_xe / N_x (OLMoE, Muennighoff et al. 2024, 5.3: top-K
// choices, every word alike); n/a when no word occurs so often.
std::optional<double> word_specialisation(const LayerCounts& counts);

// N_ij / N_i (OLMoE 5.2): of the tokens that have i, the share that has j too; diagonal 0, rows of experts that nobody
// chose 0.                                                                                                → [E, E]
Matrix co_activation(const LayerCounts& counts);

// N_{e,D} / N_D (OLMoE 5.3): of a topic's tokens the share that has the expert.                             → [C, E]
Matrix topic_choices(const LayerCounts& counts);

}  // namespace glia::results
