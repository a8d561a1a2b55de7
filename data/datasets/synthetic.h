// Text on made-up topics, from word lists and sentence patterns of our own: what the system learns on when no real
// data is there, and a yardstick, since the best possible accuracy is known.
//
// A row is a title and some sentences; patterns and lengths know nothing of the topic. Each noun, verb and
// adjective is topical with probability kTopicalShare, else from shared lists. A topical word comes from the row's
// topic with probability 1 − d + d / C and from each other topic with d / C (d: the difficulty, C: the topics);
// within a topic it is uniform over its own words, or, with probability kAmbiguousShare, over the words that it
// shares with a neighbour. No word stands in two lists, so a text's likelihood under a topic is Π P(word | topic)
// times what all topics have in common: the posterior is exact, and no classifier beats its argmax.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "data/datasets/dataset.h"

namespace glia::datasets {

struct SyntheticOptions {
  int64_t topics = 4;
  double difficulty = 0.5;  // 0: every word gives the topic away; 1: no word does
  uint64_t seed = 1;
};

class SyntheticCorpus {
 public:
  static constexpr double kTopicalShare = 0.4, kAmbiguousShare = 0.2;

  explicit SyntheticCorpus(const SyntheticOptions& options);

  const std::vector<std::string>& class_names() const { return class_names_; }

  // Row `row` of a stream, a pure function of (seed, stream, row); stream 0 is train, 1 test. Topics take turns.
  struct Row {
    std::string text;
    int32_t topic;
  };
  Row row(uint32_t stream, int64_t row) const;

  // P(topic | text), [C]: exact for texts of row().
  std::vector<double> posterior(std::string_view text) const;

 private:
  enum Part { kNoun, kVerb, kAdjective, kParts };
  struct Topic {
    std::vector<std::string> words[kParts];
  };
  struct Draw;
  void sentence(Draw& draw, std::string_view pattern, int32_t topic, std::string& text) const;
  const std::string& word(Draw& draw, Part part, int32_t topic) const;

  SyntheticOptions options_;
  std::vector<std::string> class_names_;
  std::vector<Topic> topics_;
  std::vector<std::vector<std::string>> ambiguous_;  // nouns; list j belongs to topics j and j + 1 (mod C)
  std::unordered_map<std::string, std::vector<double>> log_likelihood_;  // of each topical word, [C]
};

}  // namespace glia::datasets
