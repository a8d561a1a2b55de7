// How much of a sequence's topic its routing alone tells: a linear probe on routing signatures (docs/analysis.md).
#pragma once
#include <optional>
#include <vector>

#include "experiments/records/routing/routing_counts.h"

namespace glia::results {

struct Probe {
  int train = 0, test = 0;  // sequences
  double accuracy = 0;      // on the latter
  double chance = 0;        // always naming the topic that is most frequent there
};

// Ridge regression of the topics, one of C, on the features [n, d] of about half of the rows; the accuracy on the others.
// Row r is trained on where r · 2654435761 mod 2³² is below 2³¹ (the golden ratio: no regular order of the topics falls
// into step with it). Features and targets are centred by the means of these rows; the ridge is kRidge times the mean squared norm of a row, so that
// it does not depend on the features' scale. n/a where they have fewer than two topics, or no row is left.
inline constexpr double kRidge = 1e-2;
std::optional<Probe> ridge_probe(const Matrix& features, const std::vector<int32_t>& labels, int topics);

// Collects the signatures of a trace's sequences: a sequence's mean gate of each expert in each layer. At most
// kMostSequences of them, evenly spread, and fewer where signatures are long.
class Signatures {
 public:
  static constexpr int64_t kMostSequences = 4096, kMostValues = 32 << 20;

  // `offsets` [B + 1] and `labels` [B] must outlive it.
  Signatures(const std::vector<int64_t>& offsets, const std::vector<int32_t>& labels, int layers, int n_experts);
  void add(const TokenTrace& chunk);  // chunks in their order
  std::optional<Probe> probe(int topics) const;
  const Matrix& features() const { return features_; }  // [n, L · E]
  const std::vector<int32_t>& labels() const { return taken_labels_; }

 private:
  const std::vector<int64_t>& offsets_;
  std::vector<int64_t> taken_;  // numbers of the sequences, ascending
  std::vector<int32_t> taken_labels_;
  Matrix features_;
  size_t at_ = 0;  // the first that is not complete
};

}  // namespace glia::results
