// The topic of each sequence: cross-entropy on its label, measured by a confusion matrix.
#include <cmath>

#include "engine/ops/loss/statistics.h"
#include "experiments/tasks/task.h"

namespace glia {
namespace {

class ClassificationMeter : public TaskMeter {
 public:
  ClassificationMeter(Context& context, int64_t classes, int64_t batches)
      : classes_(classes),
        confusion_(zeros(context, {classes, classes}, DType::kFloat64)),
        losses_(zeros(context, {batches})) {}

  void add(const Model::Output& out, const Batch& batch) override {
    accumulate_confusion(out.logits.value(), batch.labels, confusion_);
    const auto i = static_cast<int64_t>(sequences_.size());
    losses_.rows(i, i + 1).copy_from(out.parts.rows(0, 1));
    sequences_.push_back(batch.sequences.count);
  }

  void pass_over(int64_t sequences) override { sequences_.push_back(sequences); }
  void reduce(Communicator& communicator) override {
    for (const Tensor& t : {confusion_, losses_})
      communicator.all_reduce(t.raw(), t.numel(), t.dtype(), Reduction::kSum);
  }

  Reading read() const override {
    const std::vector<double> counts = confusion_.to_vector<double>(), ce = losses_.to_vector<double>();
    int64_t rows = 0;
    for (const int64_t n : sequences_) rows += n;
    double loss = 0, right = 0;
    for (size_t i = 0; i < sequences_.size(); ++i)
      loss += ce[i] * static_cast<double>(sequences_[i]) / static_cast<double>(rows);
    Reading r;
    for (int64_t c = 0; c < classes_; ++c) {
      double all = 0;
      for (int64_t p = 0; p < classes_; ++p) all += counts[static_cast<size_t>(c * classes_ + p)];
      const double hit = counts[static_cast<size_t>(c * classes_ + c)];
      right += hit;
      r.class_accuracy.push_back(all > 0 ? hit / all : std::nan(""));  // n/a: no row of the class
    }
    r.values = {{"accuracy", right / static_cast<double>(rows)}, {"loss", loss}};
    return r;
  }

 private:
  int64_t classes_;
  Tensor confusion_;  // float64 [C, C]
  Tensor losses_;     // [batches]
  std::vector<int64_t> sequences_;
};

}  // namespace

std::unique_ptr<TaskMeter> make_classification_meter(Context& context, const BertConfig& config, int64_t batches) {
  return std::make_unique<ClassificationMeter>(context, config.classes, batches);
}

}  // namespace glia
