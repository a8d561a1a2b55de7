#include "experiments/training/training.h"

#include <algorithm>
#include <cmath>

#include "experiments/tasks/other_prompts.h"
#include "experiments/training/feed/batch_part.h"
#include "experiments/training/pretrained.h"

namespace glia {

RunModel run_model(const Options& o, const Configuration& c) {
  RunModel run{o.name.empty() ? c.name : o.name, c.moe(o.experts, o.top_k, o.second_residual), c.random_ffn};
  if (!o.router.empty()) run.moe.router = o.router;
  if (o.balance >= 0) run.moe.balance = o.balance;
  if (o.energy >= 0) run.moe.energy = o.energy;
  run.moe.expert_ranks = o.expert_parallel;
  if (run.moe.dense()) run.moe.balance = run.moe.energy = 0;
  else
    for (const OptionRow& row : routing_options(run.moe.router))
      if (const auto given = o.routing.all().find(row.name); given != o.routing.all().end())
        run.moe.options.set(row.name, given->second);
  return run;
}

namespace {

// {last} in a pattern is the number of the last layer: a study's patterns then fit models of any depth.
std::string with_last(std::string patterns, int64_t layers) {
  constexpr std::string_view mark = "{last}";
  for (size_t at; (at = patterns.find(mark)) != std::string::npos;)
    patterns.replace(at, mark.size(), std::to_string(layers - 1));
  return patterns;
}

}  // namespace

void check_model(const Options& o, const RunModel& run) {
  if (run.moe.dense()) return;
  check_pair(run.moe);
  ModelConfig config;
  config.bert.causal = find_task(o.task).causal();
  config.moe = run.moe;
  check_causal(config);
  if (o.prompt == "none" && reads_prompts(config))
    fail_input(
        "--prompt: expected title or sentence with router {} and its options, which read each sequence's prompt; "
        "got none",
        run.moe.router);
}

ModelConfig model_config(const Options& o, const RunModel& run, const Dataset& data) {
  return model_config(o, run, data.vocabulary().size(), data.classes());
}

ModelConfig model_config(const Options& o, const RunModel& run, int64_t vocabulary, int64_t classes) {
  ModelConfig m;
  m.bert.layers = o.layers;
  m.bert.hidden = o.hidden;
  m.bert.heads = o.heads;
  m.bert.ffn = o.ffn;
  m.bert.vocabulary = vocabulary;
  m.bert.classes = classes;
  m.bert.positions = o.positions;
  m.bert.types = o.types;
  m.bert.layer_norm_eps = o.norm_eps;
  m.bert.dropout = o.dropout;
  m.bert.pre_norm = o.norm == "pre";
  m.bert.rotary = o.position_encoding == "rotary";
  m.bert.causal = find_task(o.task).causal();
  m.moe = run.moe;
  if (o.encoder == "bag") m.bag = {o.ngrams, o.ngram_buckets};
  m.compute = o.precision == "bfloat16" ? DType::kBFloat16 : DType::kFloat32;
  m.bfloat16_gradients = o.gradients == "bfloat16";
  m.loss_scale = o.loss_scale;
  m.last_layer_cls_only = o.last_layer_cls;
  m.head = find_task(o.task).make_head;
  m.trained = {with_last(o.freeze, o.layers), with_last(o.train, o.layers), o.lr_of, o.weight_decay_of};
  return m;
}

AdamWOptions optimiser_options(const Options& o, int64_t total_steps) {
  AdamWOptions a;
  a.learning_rate = o.lr;
  a.weight_decay = o.weight_decay;
  a.clip = o.clip;
  a.bfloat16_moments = o.adam_state == "bfloat16";
  a.warmup_steps =
      o.warmup < 1 ? std::llround(o.warmup * static_cast<double>(total_steps)) : std::llround(o.warmup);
  a.total_steps = total_steps;
  return a;
}

Masking masking_of(const Options& o, const Vocabulary& vocabulary, uint64_t seed) {
  const TaskRow& task = find_task(o.task);
  if (task.targets == TaskRow::Targets::kLabels) return {};
  if (task.targets == TaskRow::Targets::kNextWords) return next_words();
  if (vocabulary.mask() < 0) fail_input("--task {}: expected a vocabulary with [MASK], found none in it", o.task);
  return {o.mask_rate, vocabulary.mask(), static_cast<int32_t>(vocabulary.size()), seed};
}

std::vector<BatchPlan> training_plans(const Options& o, const Dataset& data, uint64_t seed) {
  BatchOptions b;
  b.batch_size = o.batch / o.micro_batches;
  b.batches_a_step = o.micro_batches;
  b.seed = seed;
  b.layout = o.padding == "padded" ? BatchLayout::kPadded : BatchLayout::kPacked;
  b.padded_length = o.max_length;
  b.pad_id = std::max(0, data.vocabulary().pad());
  b.masking = masking_of(o, data.vocabulary(), seed);
  return plan_run(data.train, b, o.epochs);
}

int64_t total_steps(const Options& o, const Dataset& data) {
  if (data.train.size() < o.batch)
    fail_input("--batch {}: there are only {} training rows", o.batch, data.train.size());
  const int64_t all = data.train.size() / o.batch * o.epochs;
  return o.max_steps > 0 ? std::min(o.max_steps, all) : all;
}

int64_t longest_sequence(const TokenSplit& split) {
  int64_t longest = 0;
  for (int64_t row = 0; row < split.size(); ++row) longest = std::max(longest, split.length(row));
  return longest;
}

namespace {

int64_t upper_length(const Options& o, const Dataset& data) {
  return o.padding == "padded" ? o.max_length : longest_sequence(data.train);
}

// The rows of the word table that a step does not read may wait, if the step reads it once. Of ranks it must be its only use:
// a head that is tied to it gives all rows a gradient, each rank's own.
bool rows_may_wait(const Options& o, const TrainingPlan& plan, Context& context) {
  return o.lazy_embedding && plan.parts.all == 1 &&
         (context.communicator().size() == 1 || plan.feed.masking.rate == 0);
}

// Exact sums give each rank all gradients, so that their norm has the bits of one rank's. Of several groups of divided experts the
// gradients are summed.
AdamWSharing sharing_of(const Options& o, const Model& model) {
  const bool fast = o.reduction != "exact";
  AdamWSharing sharing{o.shard_optimiser,
                       fast && o.expert_parallel > 1 && o.expert_parallel == model.context().communicator().size(),
                       fast && o.shard_optimiser,
                       {}};
  if (const AsideReducer* aside = aside_of(model.context().communicator())) {
    if (o.expert_parallel == 1) sharing.products = [aside](int64_t n) { return aside->worth_sharing(n); };
    // Forward says where it comes to a piece, if there are layers.
    const ElementRange first = low_range_of_piece(1, model.parameters(), false);
    sharing.copies_later = first.begin < first.end;
  }
  for (int piece = 0; piece <= model.config().bert.layers; ++piece) {
    const ElementRange range = low_range_of_piece(piece, model.parameters(), false);
    for (const int64_t cut : {range.begin, range.end})
      if (cut > 0) sharing.cuts.push_back(cut);
  }
  return sharing;
}

// Where rows wait, or would, every rank gathers the rows of the table's gradient that any of them has.
BatchFeed feed_of_rank(const Options& o, const TrainingPlan& plan, Context& context, const AdamW& optimiser) {
  const Communicator& ranks = context.communicator();
  return part_of(plan.feed, ranks.rank(), ranks.size(), o.bucket, o.reduction == "exact",
                 optimiser.rows_of_all_ranks());
}

}  // namespace

void refuse_overflow(const std::string& router, const std::string& where) {
  fail_input("router {}: --max-k: a token wanted more experts than that ({}); 0 allows all", router, where);
}

StepLosses mean_of(const std::vector<StepLosses>& steps) {
  const auto count = static_cast<double>(steps.size());
  StepLosses mean{0, std::vector<double>(steps.front().parts.size(), 0.0)};
  for (const StepLosses& step : steps) {
    mean.loss += step.loss / count;
    for (size_t p = 0; p < mean.parts.size(); ++p) mean.parts[p] += step.parts[p] / count;
  }
  return mean;
}

results::NamedValues named_losses(const StepLosses& mean, const std::vector<std::string>& names,
                                  const std::string& router, int64_t first_step, int64_t last_step) {
  results::NamedValues values;
  values.set("loss", mean.loss);
  for (size_t p = 0; p < names.size(); ++p) {
    if (names[p] == kOverflow && mean.parts[p] > 0)
      refuse_overflow(router, fmt::format("steps {} to {}", first_step, last_step));
    values.set(names[p], mean.parts[p]);
  }
  return values;
}

TrainingPlan training_plan(const Options& o, const Dataset& data, const RunModel& run, uint64_t seed) {
  const auto plans = std::make_shared<const std::vector<BatchPlan>>(training_plans(o, data, seed));
  TrainingPlan plan;
  plan.model = model_config(o, run, data);
  plan.steps = total_steps(o, data);
  plan.optimiser = optimiser_options(o, plan.steps);
  plan.parts.all = o.micro_batches;
  BatchFeed& feed = plan.feed;
  feed.tokens = round_up(max_tokens(*plans), o.bucket);
  feed.sequences = o.batch / o.micro_batches;
  feed.longest = upper_length(o, data);
  feed.padded = o.padding == "padded";
  feed.vocabulary = data.vocabulary().size();
  feed.batches_a_epoch = plans->front().batches();
  feed.masking = plans->front().options().masking;
  feed.borders = !data.train.borders.empty();
  feed.from = [plans, every = feed.batches_a_epoch](int64_t first) -> FillBatch {
    const int64_t epoch = std::min(first / every, static_cast<int64_t>(plans->size()) - 1);
    // The span points into the plans, which the function keeps.
    return [plans, fill = fill_from(std::span(*plans).subspan(static_cast<size_t>(epoch)), first - epoch * every)](
               BatchView& view) { return fill(view); };
  };
  return plan;
}

Trainer::Trainer(Context& context, const Dataset& data, const Options& options, const RunModel& run, uint64_t seed)
    : Trainer(context, training_plan(options, data, run, seed), options, run, seed, data.class_names) {}

Trainer::Trainer(Context& context, const TrainingPlan& plan, const Options& options, const RunModel& run,
                 uint64_t seed, const std::vector<std::string>& class_names)
    : context_(context),
      options_(options),
      parts_(plan.parts),
      total_(plan.steps),
      model_(context, plan.model, seed),
      optimiser_(model_.parameters(), plan.optimiser, rows_may_wait(options, plan, context),
                 sharing_of(options, model_)),
      step_(model_, optimiser_),
      feed_(feed_of_rank(options, plan, context, optimiser_)),
      buffer_(context, feed_.tokens, feed_.sequences, feed_.longest, feed_.padded, feed_.vocabulary, feed_.masking,
              divided(), feed_.borders, feed_.order_parts),
      graphs_(context) {
  context.set_seed(seed);
  if (options.kernels != "auto") context.set_kernels(parse_kernels(options.kernels));
  if (!options.init.empty()) warm_start_ = start_from_weights(model_, options, seed, run.random_ffn, class_names);
  if (run.random_ffn) model_.randomise_ffn(seed);
  if (!model_.config().trained.all())
    fmt::print(stderr, "glia: {}: {}\n", run.name, describe_trained(model_.parameters()));
  slots_ = static_cast<int32_t*>(
      context.backend().allocate_pinned(slot_count() * buffer_.ints() * int64_t{sizeof(int32_t)}));
  CHECK(slots_, "out of memory: host memory for {} batches", slot_count());
  seek(0);
}

Trainer::~Trainer() {
  prefetcher_.reset();
  try {
    context_.synchronize();  // copies from the slots may be under way
  } catch (const Error& error) {
    fmt::print(stderr, "glia: {}\n", error.what());
  }
  context_.backend().release_pinned(slots_);
}

void Trainer::seek(int64_t step) {
  CHECK(step >= 0 && step <= total_, "training: step {} of {}", step, total_);
  prefetcher_.reset();
  context_.synchronize();
  in_flight_.clear();
  done_ = step;
  unread_ = 0;
  std::vector<BatchView> views;
  for (int64_t slot = 0; slot < slot_count(); ++slot) views.push_back(buffer_.view(slots_ + slot * buffer_.ints()));
  prefetcher_ = std::make_unique<Prefetcher>(feed_.from(parts_.before(step)), std::move(views));
}

void Trainer::set_parts(std::span<const Prefetcher::Ready> ready) {
  // Rows that are read all have a target: masked words, or each sequence's first row. Of one rank a batch is whole.
  const auto part_of = [&](const BatchView& view) {
    if (view.part.most_tokens > 0) return view.part;
    PartOfBatch whole;
    whole.all_tokens = view.tokens, whole.all_read = view.read ? view.read_rows : view.sequences;
    return whole;
  };
  const auto own_rows = [](const BatchView& view) { return view.read ? view.read_rows : view.sequences; };
  int64_t tokens = 0, read = 0, all = 0;
  for (const Prefetcher::Ready& r : ready) all += part_of(r.view).all_read;
  for (const Prefetcher::Ready& r : ready) {
    const PartOfBatch part = part_of(r.view);
    const double share = all > 0 ? static_cast<double>(own_rows(r.view)) / static_cast<double>(all) : 0;
    buffer_.set_part(slots_ + r.slot * buffer_.ints(), tokens + part.tokens_before, read + part.read_before, share);
    tokens += part.all_tokens, read += part.all_read;
  }
}

void Trainer::run_part(const Prefetcher::Ready& ready, StepPart part) {
  // Of ranks all launch what the largest part wants: they capture, and replay, the same steps.
  const PartOfBatch& of = ready.view.part;
  const bool whole = of.most_tokens == 0;
  const int64_t tokens = round_up(whole ? ready.view.tokens : of.most_tokens, options_.bucket);
  const int64_t read = whole || !ready.view.read ? -1 : std::max(kReadBucket, round_up(of.most_read, kReadBucket));
  const int64_t sequences = launched_sequences(ready.view, feed_.sequences);
  words_ = word_room(of.most_words);
  buffer_.upload(slots_ + ready.slot * buffer_.ints(), ready.view, tokens, read, sequences);
  in_flight_.push_back(ready.slot);
  graphs_.run({tokens, sequences, read, words_, part.first(), part.last()}, options_.graphs,
              [&] { step_.run(buffer_.batch(tokens, sequences, read, words_), part); });
  tokens_done_ += whole ? ready.view.tokens : of.all_tokens;
}

void Trainer::step() {
  std::vector<Prefetcher::Ready> ready;
  const int64_t parts = parts_.of(done_);
  while (static_cast<int64_t>(ready.size()) < parts) {
    const std::optional<Prefetcher::Ready> next = prefetcher_->next();
    CHECK(next, "training: no batch is left at step {}", done_);
    ready.push_back(*next);
  }
  if (divided()) set_parts(ready);
  context_.set_step(static_cast<uint32_t>(done_));
  for (int i = 0; i < static_cast<int>(parts); ++i) run_part(ready[i], {i, static_cast<int>(parts)});

  const Tensor& losses = step_.losses();
  if (!ring_.defined()) ring_ = empty(context_, {options_.log_every, losses.numel()});
  ring_.rows(unread_ % options_.log_every, unread_ % options_.log_every + 1).copy_from(losses.reshape({1, -1}));
  ++unread_;
  ++done_;
  if (static_cast<int64_t>(in_flight_.size()) < kRunAhead) return;
  context_.synchronize();
  for (const int64_t slot : in_flight_) prefetcher_->release(slot);
  in_flight_.clear();
}

void Trainer::checkpoint(bool due, const std::function<void()>& save) {
  Communicator& ranks = context_.communicator();
  if (optimiser_.shared_out()) {
    // The first rank knows the time.
    Tensor said = full(context_, {1}, due ? 1 : 0, DType::kInt32);
    ranks.broadcast(said.raw(), size_of(DType::kInt32), 0);
    due = said.to_vector<int32_t>()[0] != 0;
    if (due) {
      optimiser_.gather();
      gather_weights();
    }
  }
  if (due && ranks.rank() == 0) save();
  optimiser_.release();
}

std::vector<StepLosses> Trainer::read_losses() {
  std::vector<StepLosses> steps;
  if (unread_ == 0) return steps;
  CHECK(unread_ <= options_.log_every, "training: {} steps since the losses were read, room for {}", unread_,
        options_.log_every);
  const std::vector<double> all = ring_.to_vector<double>();
  const size_t width = static_cast<size_t>(step_.losses().numel());
  for (size_t i = 0; i < static_cast<size_t>(unread_); ++i)
    steps.push_back({all[i * width], {all.begin() + i * width + 1, all.begin() + (i + 1) * width}});
  unread_ = 0;
  return steps;
}

std::vector<double> Trainer::timed_steps(int64_t count) {
  std::vector<std::shared_ptr<void>> marks{mark_time(context_.backend())};
  for (int64_t i = 0; i < count; ++i) {
    if (unread_ == options_.log_every) unread_ = 0;  // nobody reads these losses
    if (done_ == total_) seek(0);
    step();
    marks.push_back(mark_time(context_.backend()));
  }
  context_.synchronize();
  std::vector<double> times;
  for (size_t i = 1; i < marks.size(); ++i)
    times.push_back(milliseconds_between(context_.backend(), marks[i - 1].get(), marks[i].get()));
  return times;
}

}  // namespace glia
