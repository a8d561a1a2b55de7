// A step in parts is the step of the whole batch: gradients, dropout, losses; and ranks add theirs before the update.
#include "experiments/training/step.h"

#include "engine/comm/threads.h"
#include "engine/ops/attention/self_attention.h"
#include "engine/ops/elementwise/dropout.h"
#include "engine/ops/norm/layer_norm.h"
#include "experiments/training/feed/data_source.h"
#include "experiments/training/presets.h"
#include "experiments/training/training.h"
#include "moe/losses/losses.h"
#include "moe/update_rule.h"
#include "tests/nn/helpers.h"
#include "tests/training/flag_words.h"

namespace glia::test {
namespace {

const std::vector<int32_t> kLengths = {6, 3, 9, 2, 7, 1, 4, 5};

// The numbers of rows before a part, on the device.
Tensor numbers(Context& context, const std::vector<int32_t>& n) {
  return from_vector(context, n, {static_cast<int64_t>(n.size())});
}

// Sequences [first, end) of tiny_batch(kLengths), as a part of it.
Batch part_of(Context& context, const BertConfig& bert, size_t first, size_t end) {
  const Batch whole = tiny_batch(context, kLengths, bert);
  const std::vector<int32_t> lengths(kLengths.begin() + first, kLengths.begin() + end),
      ids = whole.ids.to_vector<int32_t>(), labels = whole.labels.to_vector<int32_t>();
  const int before = std::accumulate(kLengths.begin(), kLengths.begin() + first, 0),
            tokens = std::accumulate(lengths.begin(), lengths.end(), 0);
  Batch b;
  b.sequences = make_sequences(context, lengths);
  b.sequences.max_length = whole.sequences.max_length;
  b.ids = numbers(context, {ids.begin() + before, ids.begin() + before + tokens});
  b.labels = numbers(context, {labels.begin() + first, labels.begin() + end});
  b.rows_before = numbers(context, {before, static_cast<int32_t>(first)});
  b.share =
      full(context, {64}, static_cast<double>(end - first) / static_cast<double>(kLengths.size()), DType::kFloat64);
  return b;
}

struct Stepped {
  std::vector<double> gradient, losses, weights, state;
};

// One step from the same weights, as run(step, context) makes it.
template <class F> Stepped step_of(const ModelConfig& config, std::unique_ptr<Communicator> communicator, F run) {
  Context context(test_device(), 5);
  if (communicator) context.set_communicator(std::move(communicator));
  context.set_step(3);
  Model model(context, config, 3);
  AdamW optimiser(model.parameters(), {});
  TrainingStep step(model, optimiser);
  run(step, context);
  Stepped s{values(model.parameters().gradients()), values(step.losses()), values(model.parameters().values()), {}};
  for (const State& state : model.parameters().states())
    for (const double v : values(state.value)) s.state.push_back(v);
  return s;
}

// Of the batch as a whole or in `parts`.
Stepped step_in(const ModelConfig& config, int parts) {
  return step_of(config, nullptr, [&](TrainingStep& step, Context& context) {
    for (int i = 0; i < parts; ++i) {
      const size_t each = kLengths.size() / parts;
      step.run(parts == 1 ? tiny_batch(context, kLengths, config.bert)
                          : part_of(context, config.bert, i * each, (i + 1) * each),
               {i, parts});
    }
  });
}

TEST_CASE("step: N parts have the gradient of one batch, dropout included, whatever rows the last layer runs on") {
  for (const std::string& router : {std::string("none"), plain_router(), context_router()})
    for (const bool read_only : {true, false}) {
      INFO(router, " ", read_only);
      ModelConfig config = tiny_config(router);
      config.bert.dropout = 0.3, config.last_layer_cls_only = read_only;
      config.moe.balance = config.moe.energy = 0;
      const Stepped whole = step_in(config, 1);
      for (const int parts : {2, 4, 8}) {
        const Stepped in_parts = step_in(config, parts);
        EXPECT(largest_difference(whole.gradient, in_parts.gradient) < 1e-12);
        EXPECT(std::abs(whole.losses[0] - in_parts.losses[0]) < 1e-12);
      }
      EXPECT(largest(whole.gradient) > 1e-3);
    }
}

TEST_CASE("step: losses on routing are each part's own, weighted by its share") {
  const ModelConfig config = tiny_config(plain_router());
  const Stepped in_parts = step_in(config, 2);
  std::vector<double> mean(in_parts.losses.size());
  for (const size_t first : {0, 4}) {
    Context context(test_device(), 5);
    Model model(context, config, 3);
    const Model::Output out = model.forward(part_of(context, config.bert, first, first + 4), true);
    const std::vector<double> parts = values(out.parts);
    mean[0] += out.loss.value().item() / 2;
    for (size_t i = 0; i < parts.size(); ++i) mean[1 + i] += parts[i] / 2;
  }
  REQUIRE(mean.size() == 4);  // the loss, ce, balance, energy
  EXPECT(largest_difference(mean, in_parts.losses) < 1e-14);
}

TEST_CASE("step: a part's rows drop what they drop in the whole batch, in every op that drops") {
  Context context(test_device(), 9);
  context.set_step(2);
  RandomKey key = context.random_key(purpose::kTest);
  const std::vector<int32_t> lengths = {5, 3, 6, 4};
  const int64_t first = 8, rows = 18, width = 24;
  const Tensor before = numbers(context, {static_cast<int32_t>(first)}), none = numbers(context, {0});
  const Tensor x = random_normal(context, {rows, width}, 1, 1, purpose::kTest),
               gain = random_normal(context, {width}, 1, 2, purpose::kTest), bias = zeros(context, {width}),
               weight = random_normal(context, {3 * width, width}, 0.3, 3, purpose::kTest),
               weight_bias = zeros(context, {3 * width});
  const auto of = [&](const Tensor& number) {
    RandomKey k = key;
    if (number.defined()) k.first_row = static_cast<const uint32_t*>(number.raw());
    return k;
  };
  const auto every = [&](const Tensor& x, const std::vector<int32_t>& lengths, const RandomKey& key) {
    AttentionOptions options;
    options.heads = 2, options.dropout = 0.4, options.key = key;
    const Sequences s = make_sequences(context, lengths);
    return std::vector<Tensor>{dropout(x, 0.4, key).value(),
                               dropout_residual_layer_norm(x, x, gain, bias, 1e-6, 0.4, key).value(),
                               dropout_residual_layer_norm(x, {}, gain, bias, 1e-6, 0, {}, {{}, 0.4, key}).value(),
                               self_attention(x, weight, weight_bias, s, options).value()};
  };
  const std::vector<Tensor> whole = every(x, lengths, of({})), zero = every(x, lengths, of(none)),
                            part = every(x.rows(first, rows), {6, 4}, of(before)),
                            other = every(x.rows(first, rows), {6, 4}, of({}));
  for (size_t i = 0; i < whole.size(); ++i) {
    INFO(i);
    EXPECT(values(zero[i]) == values(whole[i]));
    EXPECT(largest_difference(values(part[i]), values(whole[i].rows(first, rows))) < 1e-5);
    EXPECT(largest_difference(values(other[i]), values(whole[i].rows(first, rows))) > 1e-2);
  }
  EXPECT(contains(error_of([&] { dropout(zeros(context, {2, 6}), 0.4, of(before)); }), "multiple of 4, got 6"));
}

// The step of `ranks` threads, each of which runs its rows in `parts`: one result a rank.
std::vector<Stepped> step_over(const ModelConfig& config, int ranks, int parts) {
  std::vector<Stepped> each(static_cast<size_t>(ranks));
  run_ranks(ranks, [&](std::unique_ptr<Communicator> communicator) {
    const auto rank = static_cast<size_t>(communicator->rank());
    each[rank] = step_of(config, std::move(communicator), [&](TrainingStep& step, Context& context) {
      const size_t rows = kLengths.size() / each.size() / parts, first = rank * rows * parts;
      for (int i = 0; i < parts; ++i)
        step.run(part_of(context, config.bert, first + i * rows, first + (i + 1) * rows), {i, parts});
    });
  });
  return each;
}

TEST_CASE("step: over ranks it is the step of the whole batch, losses on routing included") {
  if (!test_device().is_cpu()) return;  // ranks are threads
  ModelConfig config = tiny_config(plain_router());
  for (const bool losses : {true, false}) {
    config.moe.balance = losses ? 0.3 : 0, config.moe.energy = losses ? 0.2 : 0;
    config.moe.options.set("update-rule", std::string(losses ? "none" : update_rule_registry()[0].name));
    for (const OptionRow& weight : further_loss_weights()) config.moe.options.set(weight.name, losses ? 0.1 : 0.0);
    const Stepped alone = step_in(config, 1);
    for (const int ranks : {2, 4, 8})
      for (int parts = 1; parts <= (losses ? 1 : 8 / ranks); parts *= 2) {
        const std::vector<Stepped> each = step_over(config, ranks, parts);
        for (const Stepped& one : each) {
          INFO(ranks, parts);
          EXPECT(largest_difference(one.gradient, alone.gradient) < 1e-12);
          if (losses) EXPECT(largest_difference(one.losses, alone.losses) < 1e-12);
          EXPECT(largest_difference(one.weights, alone.weights) < 1e-9);  // small gradients meet Adam's eps
          EXPECT(largest_difference(one.state, alone.state) < 1e-12);
          EXPECT(one.gradient == each[0].gradient);
          EXPECT(one.weights == each[0].weights);
          EXPECT(one.state == each[0].state);
        }
      }
  }
}

TEST_CASE("step: what cannot be a part is an error") {
  Context context(test_device());
  const ModelConfig config = tiny_config("none");
  Model model(context, config, 3);
  AdamW optimiser(model.parameters(), {});
  TrainingStep step(model, optimiser);
  const Batch batch = tiny_batch(context, kLengths, config.bert);
  EXPECT(contains(error_of([&] { step.run(batch, {2, 2}); }), "part 2 of 2"));
  EXPECT(contains(error_of([&] { step.run(batch, {0, 2}); }), "wants the share"));
}

Options corpus(std::vector<const char*> more) {
  const std::vector<std::string> usual = words_of(
      "run_all --dataset synthetic --cache '' --synthetic-rows 170 --synthetic-test-rows 24 --vocab-size 300 --layers 2 --hidden 64 --heads 1 --ffn 128 --experts 4 --batch 8 --epochs 3 --lr 0.003 --log-every 100 --progress off --bucket 128");
  std::vector<const char*> words = pointers_to(usual);
  words.insert(words.end(), more.begin(), more.end());
  Options o = resolve(parse_command_line(static_cast<int>(words.size()), words.data(), Flag::kRunAll, ""));
  return o;
}

struct Trained {
  std::vector<double> losses, weights;
  int64_t steps = 0, tokens = 0;
};

Trained train(const Options& o, const char* config, Device device, int64_t steps, bool seek = false) {
  const Dataset data = load_data(o);
  Context context(device, 42);
  Trainer trainer(context, data, o, run_model(o, configuration(config)), 42);
  Trained t;
  for (int64_t i = 0; i < steps; ++i) {
    if (seek) trainer.seek(i);
    trainer.step();
    for (const StepLosses& l : trainer.read_losses()) t.losses.push_back(l.loss);
  }
  t.weights = values(trainer.model().parameters().values());
  t.steps = trainer.total(), t.tokens = trainer.tokens_done();
  return t;
}

TEST_CASE(
    "step: --micro-batches trains on the same rows, and a run that went on has the bits of one that did not") {
  for (const char* rows : {"packed", "padded"}) {
    Options o = corpus({"--padding", rows, "--device", "cpu", "--max-length", "80"});
    const Trained whole = train(o, "dense", Device::cpu(), 25);
    for (const int64_t parts : {2, 8}) {
      INFO(rows, " ", parts);
      o.micro_batches = parts;
      const Trained in_parts = train(o, "dense", Device::cpu(), 25);
      EXPECT(in_parts.steps == whole.steps);
      EXPECT(in_parts.tokens == whole.tokens);
      REQUIRE(in_parts.losses.size() == 25);  // more than an epoch
      for (size_t i = 0; i < 25; ++i)         // AdamW makes much of the rounding of gradients that are nearly 0
        EXPECT(in_parts.losses[i] == doctest::Approx(whole.losses[i]).epsilon(i < 3 ? 1e-4 : 2e-2));
      EXPECT(train(o, "dense", Device::cpu(), 25, true).weights == in_parts.weights);
    }
  }
}

TEST_CASE("step: more parts than batches are kept ahead; parts that do not divide the batch are an error") {
  Options o = corpus({"--device", "cpu", "--batch", "80", "--micro-batches", "80", "--epochs", "1"});
  EXPECT(train(o, "softmax-moe", Device::cpu(), 1).losses.size() == 1);
  EXPECT(contains(error_of([] {
                    corpus({"--device", "cpu", "--micro-batches", "3"});
                  }),
                  "--micro-batches: expected a divisor of --batch, got '3'"));
}

TEST_CASE("step: on a GPU, parts that are replayed as graphs have the bits of eager ones, and the CPU agrees") {
  if (cuda_device_count() == 0) SKIP("no GPU here");
  for (const char* precision : {"float32", "bfloat16"})
    for (const char* config : {"dense", "astrocyte-hierarchical"}) {
      INFO(config, " ", precision);
      Options o = corpus({"--micro-batches", "4", "--device", "cpu"});
      o.precision = o.gradients = precision;
      const Trained replayed = train(o, config, Device::cuda(), 40);
      o.graphs = false;
      const Trained eager = train(o, config, Device::cuda(), 40), cpu = train(o, config, Device::cpu(), 5);
      EXPECT(replayed.losses == eager.losses);
      EXPECT(replayed.weights == eager.weights);
      const double tolerance = o.precision == "float32" ? 1e-3 : 3e-2;
      for (size_t i = 0; i < 5; ++i) EXPECT(eager.losses[i] == doctest::Approx(cpu.losses[i]).epsilon(tolerance));
    }
}

}  // namespace
}  // namespace glia::test
