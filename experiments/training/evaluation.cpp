#include "experiments/training/evaluation.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "engine/comm/alone.h"
#include "engine/core/random/rng.h"
#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/loss/statistics.h"
#include "experiments/tasks/next_words.h"
#include "experiments/tasks/other_prompts.h"
#include "experiments/training/training.h"
#include "moe/cost.h"
#include "moe/utilisation.h"

namespace glia {
namespace {

constexpr uint64_t kPartSeed = 11;  // which rows --utilisation-rows takes
constexpr uint64_t kMaskSeed = 12;  // which words of a split are masked: the same in every evaluation and run

results::Matrix matrix_of(const Utilisation::Table& table) {
  results::Matrix m(static_cast<int>(table.classes), static_cast<int>(table.n_experts));
  m.values = table.mean;
  return m;
}

results::ShareTable shares_of(const Utilisation::Views& views) {
  results::ShareTable t{matrix_of(views.all), matrix_of(views.cls), views.all.rows};
  const double routed = std::accumulate(t.rows.begin(), t.rows.end(), 0.0),
               unrouted = std::accumulate(views.all.unrouted.begin(), views.all.unrouted.end(), 0.0);
  t.unrouted = routed + unrouted > 0 ? unrouted / (routed + unrouted) : 0;
  return t;
}

// Gate mass of each expert over all rows.
std::vector<double> loads_of(const Utilisation::Table& table) {
  std::vector<double> loads(static_cast<size_t>(table.n_experts), 0.0);
  for (int64_t c = 0; c < table.classes; ++c)
    for (int64_t e = 0; e < table.n_experts; ++e)
      loads[static_cast<size_t>(e)] +=
          table.rows[static_cast<size_t>(c)] * table.mean[static_cast<size_t>(c * table.n_experts + e)];
  return loads;
}

// The labels of the rows, −1 for those that are near copies.                rows [B] → int32 [B]
Tensor labels_apart(Context& context, const TokenSplit& split, std::span<const int32_t> rows) {
  std::vector<int32_t> labels;
  for (const int32_t row : rows) labels.push_back(split.near_copies[row] ? -1 : split.labels[row]);
  return from_vector(context, labels, {static_cast<int64_t>(labels.size())});
}

// Of a confusion matrix float64 [C, C]: its diagonal's share; NaN where nothing was counted.
double share_of_right(const Tensor& confusion) {
  const std::vector<double> counts = confusion.to_vector<double>();
  const int64_t classes = confusion.size(0);
  double right = 0;
  for (int64_t c = 0; c < classes; ++c) right += counts[static_cast<size_t>(c * classes + c)];
  const double all = std::accumulate(counts.begin(), counts.end(), 0.0);
  return all > 0 ? right / all : std::nan("");
}

// Adds what the batch's routings count under kOverflow to float64 [1].
void add_overflow(const std::vector<Routing>& routings, Tensor& sum) {
  for (const Routing& routing : routings)
    for (const AuxiliaryLosses& losses : routing.losses)
      if (losses.names[0] == kOverflow) sum = add(sum, cast(losses.values, DType::kFloat64)).value();
}

}  // namespace

TokenSplit part_of(const TokenSplit& split, int64_t rows) {
  if (rows == 0 || rows >= split.size()) return split;
  TokenSplit part;
  const std::vector<int32_t> order = random_permutation(split.size(), kPartSeed, purpose::kShuffle, 0);
  for (int64_t i = 0; i < rows; ++i) part.append(split, order[static_cast<size_t>(i)]);
  return part;
}

Evaluator::Evaluator(Model& model, const TokenSplit& split, const Options& o, const Vocabulary& vocabulary,
                     int64_t rows, bool apart)
    : model_(model),
      task_(find_task(o.task)),
      classes_(model.config().bert.classes),
      rows_(split.size()),
      rank_(model.context().communicator().rank()),
      ranks_(model.context().communicator().size()) {
  const bool subset = rows > 0 && rows < split.size();
  const TokenSplit part = subset ? part_of(split, rows) : TokenSplit();
  if (subset) rows_ = rows;
  const TokenSplit& used = subset ? part : split;
  BatchOptions b;
  b.batch_size = o.eval_batch;
  b.shuffle = b.drop_last = false;
  b.layout = o.padding == "padded" ? BatchLayout::kPadded : BatchLayout::kPacked;
  b.padded_length = o.max_length;
  b.pad_id = std::max(0, vocabulary.pad());
  b.masking = masking_of(o, vocabulary, kMaskSeed);
  const BatchPlan plan(used, b);
  apart = apart && task_.targets == TaskRow::Targets::kLabels && !used.near_copies.empty();
  if (apart) near_copies_ = used.near_copy_count();
  const bool padded = o.padding == "padded";
  const int64_t longest = padded ? o.max_length : longest_sequence(used);
  Context& context = model.context();
  std::vector<int32_t> slot;
  const WordBeginnings word_beginnings(vocabulary);
  for (int64_t i = 0; i < plan.batches(); ++i) {
    const int64_t tokens = round_up(plan.tokens(i), o.bucket), sequences = plan.sequences(i);
    sequences_.push_back(sequences);
    if (!is_mine(static_cast<size_t>(i)) && !task_.causal()) continue;
    Part part{BatchBuffer(context, tokens, sequences, longest, padded, 0, b.masking, false, !used.borders.empty()),
              tokens, sequences};
    slot.resize(static_cast<size_t>(part.buffer.ints()));
    BatchView view = part.buffer.view(slot.data());
    plan.fill(i, view);
    if (task_.causal()) {
      asked_ += view.read_rows;
      const auto asked = static_cast<size_t>(view.read_rows);
      words_ += word_beginnings.among(before_targets(view.ids, {view.read, asked}), {view.targets, asked});
    }
    if (!is_mine(static_cast<size_t>(i))) continue;
    parts_.push_back(std::move(part));
    parts_.back().buffer.upload(slot.data(), view, tokens);
    if (apart) parts_.back().labels_apart = labels_apart(context, used, plan.rows(i));
    context.synchronize();  // the slot is used again
  }
}

void Evaluator::for_each_batch(const std::function<void(const Batch&)>& f) const {
  for (const Part& part : parts_) f(part.buffer.batch(part.tokens, part.sequences));
}

void Evaluator::reduce(TaskMeter& meter, std::optional<Utilisation>& utilisation,
                       std::span<const Tensor> sums) const {
  if (ranks_ == 1) return;
  Communicator& ranks = model_.context().communicator();
  meter.reduce(ranks);
  if (utilisation) utilisation->reduce(ranks);
  for (const Tensor& sum : sums)
    if (sum.defined()) ranks.all_reduce(sum.raw(), sum.numel(), sum.dtype(), Reduction::kSum);
}

void Evaluator::run(TaskMeter& meter, const std::function<void(Batch&)>& change,
                    const std::function<void(const Part&, const Model::Output&, const Batch&)>& read) const {
  const NoGrad no_grad(model_.context());
  for (size_t i = 0, next = 0; i < sequences_.size(); ++i) {
    if (!is_mine(i)) {
      meter.pass_over(sequences_[i]);
      continue;
    }
    const Alone alone(model_.context());
    const Part& part = parts_[next++];
    Batch batch = part.buffer.batch(part.tokens, part.sequences);
    if (change) change(batch);
    const Model::Output out = model_.forward(batch, false);
    meter.add(out, batch);
    if (read) read(part, out, batch);
  }
}

std::unique_ptr<TaskMeter> Evaluator::make_meter() const {
  return task_.meter(model_.context(), model_.config().bert, static_cast<int64_t>(sequences_.size()));
}

results::NamedValues Evaluator::values_of(results::NamedValues read) const {
  if (words_ > 0) set_word_losses(read, asked_, words_);
  return read;
}

results::NamedValues Evaluator::cost_of_other_prompts(const results::NamedValues& own) const {
  const std::unique_ptr<TaskMeter> meter = make_meter();
  run(*meter, [](Batch& batch) { batch.context_rows = rows_of_other_prompts(batch); }, {});
  std::optional<Utilisation> none;
  reduce(*meter, none, {});
  const results::NamedValues other = values_of(meter->read().values);
  results::NamedValues cost;
  for (const auto& [name, value] : other)
    if (const std::string key = cost_of_other_prompt(name); !key.empty()) cost.set(key, value - own.get(name));
  return cost;
}

Measured Evaluator::measure() {
  Context& context = model_.context();
  const NoGrad no_grad(context);
  const ModelConfig& config = model_.config();
  const bool moe = !config.moe.dense();
  const std::unique_ptr<TaskMeter> meter = make_meter();
  std::optional<Utilisation> utilisation;
  Tensor overflow = zeros(context, {1}, DType::kFloat64);
  const bool shares = moe && routing_varies(config.moe);
  if (moe)
    utilisation.emplace(context, config.bert.layers, classes_, config.moe.n_experts, shares,
                        static_cast<int64_t>(columns_outside(config.moe).size()));
  Tensor confusion_apart;  // float64 [C, C]
  if (near_copies_) confusion_apart = zeros(context, {classes_, classes_}, DType::kFloat64);
  run(*meter, {}, [&](const Part& part, const Model::Output& out, const Batch& batch) {
    if (near_copies_) accumulate_confusion(out.logits.value(), part.labels_apart, confusion_apart);
    if (moe) utilisation->add(out.routings, batch.labels, batch.sequences);
    add_overflow(out.routings, overflow);
  });
  reduce(*meter, utilisation, std::array{confusion_apart, overflow});
  Measured m;
  m.rows = rows_;
  TaskMeter::Reading reading = meter->read();
  m.values = values_of(std::move(reading.values));
  m.class_accuracy = std::move(reading.class_accuracy);
  m.near_copies = near_copies_;
  // Where all rows are near copies there is nothing to be right about.
  if (const double apart = near_copies_ ? share_of_right(confusion_apart) : std::nan(""); !std::isnan(apart))
    m.values.set(results::kAccuracyWithoutNearCopies, apart);
  if (moe && overflow.to_vector<double>()[0] > 0) refuse_overflow(config.moe.router, "evaluation");
  if (!moe) return m;
  m.experts_a_token = expected_experts(config.moe);
  double pairs = 0, tokens = 0;
  for (const Utilisation::Layer& layer : utilisation->read()) {
    m.utilisation.push_back({matrix_of(layer.all), matrix_of(layer.cls)});
    const std::vector<double> loads = loads_of(layer.all);
    // Weights that are no numbers come to light here where an evaluation is due before the next line of losses.
    if (const double mass = std::accumulate(loads.begin(), loads.end(), 0.0); !std::isfinite(mass))
      fail_input(
          "evaluation: the gates of layer {} sum to {}: the model's numbers are none any more (a lower --lr?)",
          m.utilisation.size(), mass);
    m.layers.push_back(results::layer_metrics(m.utilisation.back().all, m.utilisation.back().cls, loads));
    if (!shares) continue;
    m.shares.push_back({shares_of(layer.mass), shares_of(layer.choices)});
    results::set_shares(m.layers.back(), m.shares.back(), static_cast<int>(config.moe.n_experts));
    const Utilisation::Table& t = layer.choices.all;
    for (size_t c = 0; c < t.rows.size(); ++c) pairs += t.pairs[c], tokens += t.rows[c] + t.unrouted[c];
  }
  if (tokens > 0 && !router_row(config.moe.router).traits.fixed_k) m.experts_a_token = pairs / tokens;
  return m;
}

}  // namespace glia
