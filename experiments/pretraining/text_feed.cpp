#include "experiments/pretraining/text_feed.h"

#include <algorithm>
#include <memory>

#include "data/datasets/prompts.h"
#include "engine/comm/alone.h"
#include "experiments/tasks/next_words.h"
#include "experiments/tasks/task.h"

namespace glia {
namespace {

constexpr uint64_t kHeldOutSeed = 12;  // of order and masks

PieceOptions pieces_of(const PretrainOptions& o, const Corpus& corpus) {
  const Vocabulary& words = corpus.vocabulary();
  PieceOptions p;
  p.places = o.tokens;
  p.longest = o.max_length;
  p.cls = words.cls(), p.sep = words.sep();
  p.prompts = o.prompt == "sentence";
  if (p.prompts) p.enders = sentence_enders(words);
  if (find_task(o.task).causal()) {
    p.masking = next_words();
    return p;
  }
  if (words.mask() < 0) fail_input("{}: expected a vocabulary with [MASK], found none in it", words.source());
  p.masking.rate = o.mask_rate;
  p.masking.mask_id = words.mask();
  p.masking.vocabulary = static_cast<int32_t>(words.size());
  // Random words are words: what stands before the last special token is none, in BERT's files as in those that are trained here.
  p.masking.first_word = std::max({words.unk(), words.cls(), words.sep(), words.pad(), words.mask()}) + 1;
  if (p.masking.first_word >= p.masking.vocabulary)
    fail_input("{}: expected words after the special tokens, found none", words.source());
  return p;
}

}  // namespace

PieceOptions training_pieces(const PretrainOptions& o, const Corpus& corpus) {
  PieceOptions p = pieces_of(o, corpus);
  p.seed = p.masking.seed = static_cast<uint64_t>(o.seed);
  const auto share = static_cast<int64_t>(o.mask_rate * static_cast<double>(o.tokens));
  if (!p.masking.next_words) p.masking.rows = std::max<int64_t>(1, share > 64 ? share / 64 * 64 : share);
  p.sequences = piece_room(corpus.training, p);
  if (o.joint > 0) p.masking.sequences = p.sequences;
  return p;
}

PieceOptions held_out_pieces(const PretrainOptions& o, const Corpus& corpus) {
  PieceOptions p = pieces_of(o, corpus);
  p.seed = p.masking.seed = kHeldOutSeed;
  p.epochs = 1, p.moving = false;
  p.sequences = piece_room(corpus.held_out, p);
  if (o.joint > 0) p.masking.sequences = p.sequences;
  return p;
}

BatchFeed text_feed(const PretrainOptions& o, const Corpus& corpus) {
  const PieceOptions pieces = training_pieces(o, corpus);
  BatchFeed feed;
  feed.tokens = o.tokens;
  feed.sequences = pieces.sequences;
  feed.longest = o.max_length;
  feed.vocabulary = corpus.vocabulary().size();
  feed.masking = pieces.masking;
  feed.borders = pieces.prompts;
  const int64_t body = o.max_length - 2;
  int64_t places = corpus.training.tokens();
  for (int64_t d = 0; d < corpus.training.size(); ++d)
    places += 2 * ((corpus.training.length(d) + body - 1) / body);
  feed.batches_a_epoch = std::max<int64_t>(1, places / o.tokens);
  feed.from = [&corpus, pieces](int64_t first) -> FillBatch {
    const auto stream = std::make_shared<PieceStream>(corpus.training, pieces);
    if (first > 0) stream->seek(first);
    return [stream](BatchView& view) { return stream->fill(view); };
  };
  return feed;
}

HeldOut::HeldOut(Context& context, const PretrainOptions& o, const Corpus& corpus)
    : task_(find_task(o.task)), joint_(o.joint > 0) {
  const PieceOptions pieces = held_out_pieces(o, corpus);
  sequences_ = pieces.sequences;
  PieceStream stream(corpus.held_out, pieces);
  std::vector<int32_t> slot;
  const WordBeginnings word_beginnings(corpus.vocabulary());
  const Communicator& ranks = context.communicator();
  for (;; ++batches_) {
    BatchBuffer buffer(context, o.tokens, sequences_, o.max_length, false, 0, pieces.masking, false,
                       pieces.prompts);
    slot.resize(static_cast<size_t>(buffer.ints()));
    BatchView view = buffer.view(slot.data());
    if (!stream.fill(view)) break;
    if (task_.causal()) {
      asked_ += view.read_rows;
      const auto asked = static_cast<size_t>(view.read_rows);
      std::vector<int32_t> before = before_targets(view.ids, {view.read, asked});
      // A piece begins behind [CLS], but within a document, and there perhaps within a word.
      for (size_t row = 0, b = 0; row < asked; ++row) {
        while (view.offsets[b + 1] <= view.read[row]) ++b;
        if (view.read[row] == view.offsets[b]) before[row] = stream.before()[b];
      }
      words_ += word_beginnings.among(before, {view.targets, asked});
    }
    if (batches_ % ranks.size() != ranks.rank()) continue;
    const int64_t tokens = round_up(view.tokens, o.bucket);
    buffer.upload(slot.data(), view, tokens);
    context.synchronize();  // the slot is used again
    parts_.push_back({std::move(buffer), tokens});
  }
}

HeldOut::Measured HeldOut::measure(const Model& model) const {
  Context& context = model.context();
  const NoGrad no_grad(context);
  const std::unique_ptr<TaskMeter> meter =
      joint_ ? make_joint_meter(context, batches_) : task_.meter(context, model.config().bert, batches_);
  Communicator& ranks = context.communicator();
  const int rank = ranks.rank(), turns = ranks.size();
  for (int64_t i = 0; i < batches_; ++i) {
    if (i % turns != rank) {
      meter->pass_over(sequences_);
      continue;
    }
    const Alone alone(context);
    const Part& part = parts_[static_cast<size_t>(i / turns)];
    const Batch batch = part.buffer.batch(part.tokens, sequences_);
    meter->add(model.forward(batch, false), batch);
  }
  if (turns > 1) meter->reduce(ranks);
  TaskMeter::Reading reading = meter->read();
  if (words_ > 0) set_word_losses(reading.values, asked_, words_);
  return {reading.values.get("loss"), reading.values.get("accuracy"), std::move(reading.values)};
}

}  // namespace glia
