// Words, masked ones or next ones: cross-entropy over the vocabulary on the rows that tell them, which are the only ones that the last layer's
// FFN or experts and the head see. The mean is over all such words of a split, however they lie in batches. With topics beside the
// words (nn/heads/joint_head.h) those of the texts that have one are counted alike.
#include <cmath>

#include "experiments/tasks/task.h"

namespace glia {
namespace {

class WordMeter : public TaskMeter {
 public:
  WordMeter(Context& context, int64_t batches, int64_t losses) : sums_(zeros(context, {batches, 3 * losses})) {}

  void add(const Model::Output& out, const Batch&) override {
    sums_.rows(added_, added_ + 1).copy_from(out.sums.reshape({1, sums_.size(1)}));
    ++added_;
  }

  void pass_over(int64_t) override { ++added_; }
  void reduce(Communicator& communicator) override {
    communicator.all_reduce(sums_.raw(), sums_.numel(), sums_.dtype(), Reduction::kSum);
  }

  Reading read() const override {
    const std::vector<double> all = sums_.to_vector<double>();
    const auto columns = static_cast<size_t>(sums_.size(1));
    std::vector<double> sum(columns, 0.0);
    for (size_t i = 0; i < all.size(); ++i) sum[i % columns] += all[i];
    CHECK(sum[1] > 0, "task: no word of the split is to be predicted");
    const double loss = sum[0] / sum[1];
    Reading r{{{"accuracy", sum[2] / sum[1]}, {"loss", loss}, {"perplexity", std::exp(loss)}}, {}};
    // No text of the split need have a topic.
    if (columns == 6 && sum[4] > 0)
      r.values.set("task_accuracy", sum[5] / sum[4]), r.values.set("task_loss", sum[3] / sum[4]);
    return r;
  }

 private:
  Tensor sums_;  // [batches, 3] as Head::Result::sums, or [batches, 6]
  int64_t added_ = 0;
};

}  // namespace

std::unique_ptr<TaskMeter> make_word_meter(Context& context, const BertConfig&, int64_t batches) {
  return std::make_unique<WordMeter>(context, batches, 1);
}

std::unique_ptr<TaskMeter> make_joint_meter(Context& context, int64_t batches) {
  return std::make_unique<WordMeter>(context, batches, 2);
}

}  // namespace glia
