// A finished run's model at work: texts in, labels and probabilities out, many at a time.
#pragma once
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "experiments/records/saved_model.h"

namespace glia {

struct Prediction {
  int label = 0;                      // the likeliest class; of equals the first
  std::vector<double> probabilities;  // [C]
  bool truncated = false;             // the text was longer than the model reads
  // On request, one a layer with experts: where [CLS] went (expert, gate), best first, and how the whole text's gates
  // are spread over the experts.
  struct Layer {
    std::vector<std::pair<int, double>> cls;
    std::vector<double> share;  // [E], sums to 1
  };
  std::vector<Layer> routing;
};

class TextClassifier {
 public:
  // `vocabulary`: as for saved_tokenizer. `batch`: texts that go through the model together.
  TextClassifier(Context& context, const results::Run& run, const std::string& vocabulary, DType compute,
                 int64_t batch = 64);

  const std::vector<std::string>& labels() const { return run_.config.data.class_names; }  // [C]

  // In the order of the texts; a text without pieces is classified as [CLS] [SEP]. Batches are packed, or padded where
  // the run's were.
  std::vector<Prediction> classify(std::span<const std::string> texts, bool routing = false);

 private:
  results::Run run_;
  WordPiece tokenizer_;
  std::unique_ptr<Model> model_;
  int64_t batch_, max_length_;
  bool padded_;
};

}  // namespace glia
