#include "experiments/records/classifier.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "data/batches/batching.h"
#include "engine/core/check.h"
#include "engine/core/parallel.h"
#include "experiments/training/feed/batch_buffer.h"
#include "experiments/training/training.h"

namespace glia {
namespace {

// Tokens of a batch are rounded up to this with rows of nobody: a library's product is planned anew for each shape.
constexpr int64_t kBucket = 512;

std::vector<double> softmax_of(const double* logits, int64_t classes) {
  const double largest = *std::max_element(logits, logits + classes);
  std::vector<double> p(static_cast<size_t>(classes));
  double sum = 0;
  for (int64_t c = 0; c < classes; ++c) sum += p[static_cast<size_t>(c)] = std::exp(logits[c] - largest);
  for (double& value : p) value /= sum;
  return p;
}

// `first` … `first + count`: the text's rows in the batch.
Prediction::Layer layer_of(const results::LayerTrace& trace, int64_t first, int64_t count) {
  Prediction::Layer layer;
  layer.share.assign(static_cast<size_t>(trace.n_experts), 0.0);
  for (int64_t t = first; t < first + count; ++t) {
    const auto& experts = trace.experts[static_cast<size_t>(t)];
    const auto& gates = trace.gates[static_cast<size_t>(t)];
    for (size_t k = 0; k < experts.size(); ++k) {
      layer.share[static_cast<size_t>(experts[k])] += gates[k];
      if (t == first) layer.cls.emplace_back(experts[k], gates[k]);
    }
  }
  const double sum = std::accumulate(layer.share.begin(), layer.share.end(), 0.0);
  if (sum > 0)
    for (double& share : layer.share) share /= sum;
  return layer;
}

}  // namespace

TextClassifier::TextClassifier(Context& context, const results::Run& run, const std::string& vocabulary,
                               DType compute, int64_t batch)
    : run_(run),
      tokenizer_(saved_tokenizer(run, vocabulary)),
      model_(load_saved_model(context, run, compute)),
      batch_(batch),
      max_length_(saved_max_length(*model_, run)),
      padded_(run.config.options.value("padding", "packed") == "padded") {
  if (run.config.task() != "classification")
    fail_input("{}: expected a run that classifies, got one of task {}", run.folder, run.config.task());
  CHECK(batch >= 1, "classify: wants a batch of at least 1, got {}", batch);
  if (labels().size() != static_cast<size_t>(model_->config().bert.classes))
    fail_input("{}/config.json: expected the names of {} classes, got {}", run.folder,
               model_->config().bert.classes, labels().size());
}

std::vector<Prediction> TextClassifier::classify(std::span<const std::string> texts, bool routing) {
  std::vector<Prediction> predictions(texts.size());
  if (texts.empty()) return predictions;
  std::vector<std::vector<int32_t>> ids(texts.size());
  parallel_for(static_cast<int64_t>(texts.size()), 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      predictions[static_cast<size_t>(i)].truncated =
          tokenizer_.encode_sequence(texts[static_cast<size_t>(i)], max_length_, ids[static_cast<size_t>(i)]);
  });
  TokenSplit split;
  for (const std::vector<int32_t>& row : ids) {
    split.ids.insert(split.ids.end(), row.begin(), row.end());
    split.offsets.push_back(static_cast<int64_t>(split.ids.size()));
  }
  split.labels.assign(texts.size(), 0);

  BatchOptions options;
  options.batch_size = batch_;
  options.shuffle = options.drop_last = false;
  options.layout = padded_ ? BatchLayout::kPadded : BatchLayout::kPacked;
  options.padded_length = max_length_;
  options.pad_id = std::max(0, tokenizer_.vocabulary().pad());
  const BatchPlan plan(split, options);
  Context& context = model_->context();
  const NoGrad no_grad(context);
  BatchBuffer buffer(context, round_up(plan.max_tokens(), kBucket), std::min<int64_t>(batch_, split.size()),
                     padded_ ? max_length_ : longest_sequence(split), padded_);
  std::vector<int32_t> slot(static_cast<size_t>(buffer.ints()));
  const int64_t classes = model_->config().bert.classes;
  size_t next = 0;
  for (int64_t b = 0; b < plan.batches(); ++b) {
    BatchView view = buffer.view(slot.data());
    plan.fill(b, view);
    const int64_t tokens = round_up(view.tokens, kBucket);
    buffer.upload(slot.data(), view, tokens);
    const Model::Output out = model_->forward(buffer.batch(tokens, view.sequences), false);
    const std::vector<double> logits = out.logits.value().to_vector<double>();  // waits: the slot is free again
    std::vector<results::LayerTrace> layers;
    if (routing)
      for (const Routing& r : out.routings)
        if (r.n_experts > 0) layers.push_back(layer_trace(r));
    for (int64_t s = 0; s < view.sequences; ++s, ++next) {
      Prediction& p = predictions[next];
      p.probabilities = softmax_of(logits.data() + s * classes, classes);
      p.label = static_cast<int>(std::max_element(p.probabilities.begin(), p.probabilities.end()) -
                                 p.probabilities.begin());
      for (const results::LayerTrace& layer : layers)
        p.routing.push_back(layer_of(layer, view.offsets[s], split.length(static_cast<int64_t>(next))));
    }
  }
  return predictions;
}

}  // namespace glia
