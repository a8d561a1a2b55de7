// Next words: the loss of words.cpp, and what it is made of.
#include "experiments/tasks/next_words.h"

#include <algorithm>
#include <cmath>

#include "experiments/tasks/task.h"

namespace glia {

std::unique_ptr<TaskMeter> make_word_meter(Context&, const BertConfig&, int64_t);

std::string name_of(const DistanceClass& d) {
  if (d.first == d.last) return std::to_string(d.first);
  return fmt::format("{}-{}", d.first, d.last > 0 ? std::to_string(d.last) : "");
}

bool WordBeginnings::operator()(int32_t before, int32_t id) const {
  if (id < 0 || id == words_.cls() || id == words_.sep()) return false;
  if (first_byte_ < 0 || byte_of(id) < 0) return !words_.token(id).starts_with("##");
  const auto in_run = [](int byte) {
    return byte >= 128 || (byte >= '0' && byte <= '9') || ((byte | 32) >= 'a' && (byte | 32) <= 'z');
  };
  const int byte = byte_of(id);
  if (!in_run(byte)) return byte > ' ' && byte != 127;
  return before < 0 || byte_of(before) < 0 || !in_run(byte_of(before));
}

int64_t WordBeginnings::among(std::span<const int32_t> before, std::span<const int32_t> targets) const {
  CHECK(before.size() == targets.size(), "words: want a token before each target, got {} and {}", before.size(),
        targets.size());
  int64_t n = 0;
  for (size_t i = 0; i < targets.size(); ++i) n += (*this)(before[i], targets[i]);
  return n;
}

std::vector<int32_t> before_targets(const int32_t* ids, std::span<const int32_t> read) {
  std::vector<int32_t> before;
  for (const int32_t row : read) before.push_back(row < 0 ? -1 : ids[row]);
  return before;
}

void set_word_losses(results::NamedValues& values, int64_t tokens, int64_t words) {
  const double loss = values.get("loss") * static_cast<double>(tokens) / static_cast<double>(words);
  values.set("word_loss", loss);
  values.set("word_perplexity", std::exp(loss));
}

namespace {

// Losses of single rows stay on the device, with what they belong to, until they are read: nothing waits before.
class NextWordMeter : public TaskMeter {
 public:
  NextWordMeter(Context& context, const BertConfig& config, int64_t batches)
      : words_(make_word_meter(context, config, batches)), context_(context), topics_(config.classes) {}

  void add(const Model::Output& out, const Batch& batch) override {
    words_->add(out, batch);
    CHECK(out.row_losses.defined() && batch.read.defined(),
          "next words: wants the losses of the rows that are read");
    rows_.push_back({out.row_losses, batch.read, batch.targets, batch.sequences.sequence_of,
                     batch.sequences.offsets, batch.borders, batch.labels});
  }
  void pass_over(int64_t sequences) override { words_->pass_over(sequences); }
  void reduce(Communicator& communicator) override {
    words_->reduce(communicator);
    const std::vector<double> own = sums();
    const Tensor all = from_vector(context_, own, {static_cast<int64_t>(own.size())}, DType::kFloat64);
    communicator.all_reduce(all.raw(), all.numel(), all.dtype(), Reduction::kSum);
    reduced_ = all.to_vector<double>();
  }

  Reading read() const override {
    Reading r = words_->read();
    const std::vector<double> all = reduced_.empty() ? sums() : reduced_;
    const auto set = [&](const std::string& name, size_t i) {
      if (all[2 * i + 1] > 0) r.values.set("loss." + name, all[2 * i] / all[2 * i + 1]);
    };
    for (size_t d = 0; d < kDistances.size(); ++d) set("at-" + name_of(kDistances[d]), d);
    for (int64_t c = 0; c < topics_; ++c)
      set(fmt::format("topic-{}", c), kDistances.size() + static_cast<size_t>(c));
    return r;
  }

 private:
  struct Rows {
    Tensor losses, read, targets, sequence_of, offsets, borders, labels;
  };
  static size_t class_of(int64_t distance) {
    size_t d = 0;
    while (kDistances[d].last > 0 && distance > kDistances[d].last) ++d;
    return d;
  }

  // Of each distance, then of each topic: Σ losses and how many.
  std::vector<double> sums() const {
    std::vector<double> all(2 * (kDistances.size() + static_cast<size_t>(topics_)), 0.0);
    for (const Rows& rows : rows_) {
      const auto losses = rows.losses.to_vector<double>();
      const auto read = rows.read.to_vector<int32_t>(), targets = rows.targets.to_vector<int32_t>(),
                 sequence_of = rows.sequence_of.to_vector<int32_t>(), offsets = rows.offsets.to_vector<int32_t>(),
                 labels = rows.labels.to_vector<int32_t>(),
                 borders = rows.borders.defined() ? rows.borders.to_vector<int32_t>() : std::vector<int32_t>();
      for (size_t i = 0; i < read.size(); ++i) {
        if (read[i] < 0 || targets[i] < 0) continue;
        const auto b = static_cast<size_t>(sequence_of[static_cast<size_t>(read[i])]);
        const int64_t border = borders.empty() ? 1 : std::max(borders[b], 1);
        const size_t places[] = {class_of(read[i] + 2 - offsets[b] - border),
                                 kDistances.size() + static_cast<size_t>(labels[b])};
        for (const size_t place : places) all[2 * place] += losses[i], all[2 * place + 1] += 1;
      }
    }
    return all;
  }

  std::unique_ptr<TaskMeter> words_;
  Context& context_;
  int64_t topics_;
  std::vector<Rows> rows_;
  std::vector<double> reduced_;
};

}  // namespace

std::unique_ptr<TaskMeter> make_next_word_meter(Context& context, const BertConfig& config, int64_t batches) {
  return std::make_unique<NextWordMeter>(context, config, batches);
}

}  // namespace glia
