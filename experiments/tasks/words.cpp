// Words, masked ones or next ones: cross-entropy over the vocabulary on the rows that tell them, which are the only ones that the last layer's
// FFN or experts and the head see. The mean is over all such words of a split, however they lie in batches.
#include <cmath>

#include "experiments/tasks/task.h"

namespace glia {
namespace {

class WordMeter : public TaskMeter {
 public:
  WordMeter(Context& context, int64_t batches) : sums_(zeros(context, {batches, 3})) {}

  void add(const Model::Output& out, const Batch&) override {
    sums_.rows(added_, added_ + 1).copy_from(out.sums.reshape({1, 3}));
    ++added_;
  }

  void pass_over(int64_t) override { ++added_; }
  void reduce(Communicator& communicator) override {
    communicator.all_reduce(sums_.raw(), sums_.numel(), sums_.dtype(), Reduction::kSum);
  }

  Reading read() const override {
    const std::vector<double> all = sums_.to_vector<double>();
    double loss = 0, words = 0, right = 0;
    for (size_t i = 0; i < all.size(); i += 3) loss += all[i], words += all[i + 1], right += all[i + 2];
    CHECK(words > 0, "task: no word of the split is to be predicted");
    return {{{"accuracy", right / words}, {"loss", loss / words}, {"perplexity", std::exp(loss / words)}}, {}};
  }

 private:
  Tensor sums_;  // [batches, 3] as Head::Result::sums
  int64_t added_ = 0;
};

}  // namespace

std::unique_ptr<TaskMeter> make_word_meter(Context& context, const BertConfig&, int64_t batches) {
  return std::make_unique<WordMeter>(context, batches);
}

}  // namespace glia
