// Tasks: every row of the registry trains, is measured and reads only the rows it says; the masked-LM head on a table that also
// is the input, with rows that wait and without.
#include "experiments/tasks/task.h"

#include "data/batches/batching.h"
#include "engine/ops/loss/vocabulary_loss.h"
#include "nn/optimizer.h"
#include "tests/nn/helpers.h"

namespace glia::test {
namespace {

ModelConfig task_config(const TaskRow& task, const std::string& router, DType compute = DType::kFloat64) {
  ModelConfig c = tiny_config(router, compute);
  c.head = task.make_head;
  c.bert.causal = task.causal();
  return c;
}

// A batch as the task wants it: with masked words where it masks words.
Batch task_batch(Context& context, const TaskRow& task, const BertConfig& bert, uint64_t seed = 1) {
  const std::vector<int32_t> lengths = {6, 3, 9};
  Batch b = tiny_batch(context, lengths, bert, seed, 20);
  std::vector<int32_t> ids = b.ids.to_vector<int32_t>();
  ids[18] = ids[19] = -1;
  if (task.targets != TaskRow::Targets::kLabels) {
    Masking m{0.3, 1, static_cast<int32_t>(bert.vocabulary), seed};
    if (task.causal()) m = next_words();
    std::vector<int32_t> read(static_cast<size_t>(masked_room(m, 20)), -1), targets = read, offsets = {0, 6, 9, 18},
                                                                            spans = lengths;
    BatchView view;
    view.ids = ids.data(), view.offsets = offsets.data(), view.lengths = spans.data();
    view.read = read.data(), view.targets = targets.data();
    fill_targets(m, 0, 0, 3, spans.data(), view);
    const auto room = static_cast<int64_t>(read.size());
    b.read = from_vector(context, read, {room});
    b.targets = from_vector(context, targets, {room});
  }
  b.ids = from_vector(context, ids, {20});
  b.order = order_rows(context, ids, bert.vocabulary);
  return b;
}

TEST_CASE("tasks: skipping the rows that nobody reads changes no loss and no gradient, dense and with experts") {
  for (const TaskRow& task : task_registry())
    for (const std::string& router : {std::string("none"), plain_router()}) {
      INFO(task.name, " ", router);
      std::vector<std::vector<double>> all;
      for (const bool read_only : {true, false}) {
        Context context(test_device(), 1);
        ModelConfig config = task_config(task, router);
        config.last_layer_cls_only = read_only;
        Model model(context, config, 3);
        const Model::Output out = model.forward(task_batch(context, task, config.bert), true);
        REQUIRE(out.loss.defined());
        EXPECT(out.part_names.front() == "ce");
        backward(out.loss);
        model.parameters().complete_gradients();
        all.push_back({out.loss.value().item()});
        for (const Parameter& p : model.parameters().all()) {
          const std::vector<double> g =
              values(p.var.grad().defined() ? p.var.grad() : model.parameters().gradient(p));
          all.back().insert(all.back().end(), g.begin(), g.end());
        }
      }
      EXPECT(largest_difference(all[0], all[1]) < 1e-13);
      EXPECT(largest(all[0]) > 1e-3);
    }
}

TEST_CASE("tasks: a model learns what it is asked, and its meter says so") {
  for (const TaskRow& task : task_registry()) {
    INFO(task.name);
    Context context(test_device(), 1);
    ModelConfig config = task_config(task, plain_router(), DType::kFloat32);
    config.bert.init_std = 0.1;
    Model model(context, config, 3);
    AdamWOptions options;
    options.learning_rate = 0.02, options.warmup_steps = 0, options.total_steps = 200;
    AdamW optimiser(model.parameters(), options, true);
    const Batch batch = task_batch(context, task, config.bert);
    const auto measure = [&] {
      const NoGrad no_grad(context);
      const std::unique_ptr<TaskMeter> meter = task.meter(context, config.bert, 2);
      for (int i = 0; i < 2; ++i) meter->add(model.forward(batch, false), batch);
      return meter->read();
    };
    const TaskMeter::Reading before = measure();
    for (uint32_t step = 0; step < 120; ++step) {
      context.set_step(step);
      model.parameters().clear_gradients();
      backward(model.forward(batch, true).loss);
      optimiser.step();
    }
    const TaskMeter::Reading after = measure();
    EXPECT(task.better(after.values.get(task.chosen_by), before.values.get(task.chosen_by)));
    EXPECT(after.values.get("loss") < 0.2 * before.values.get("loss"));
    EXPECT(after.values.get("accuracy") == 1);
  }
}

TEST_CASE("tasks: a tied table has the bits of the eager optimiser where rows may wait") {
  const TaskRow& task = find_task("masked_lm");
  for (const DType compute : {DType::kFloat32, DType::kBFloat16}) {
    std::vector<std::vector<double>> all;
    for (const bool wait : {false, true}) {
      Context context(test_device(), 42);
      ModelConfig config = task_config(task, "none", compute);
      config.bert.vocabulary = 400, config.bert.dropout = 0.1;
      Model model(context, config, 42);
      AdamWOptions options;
      options.learning_rate = 0.01, options.warmup_steps = 2, options.total_steps = 40;
      AdamW optimiser(model.parameters(), options, wait);
      for (uint32_t step = 0; step < 20; ++step) {
        context.set_step(step);
        model.parameters().clear_gradients();
        backward(model.forward(task_batch(context, task, config.bert, step), true).loss);
        optimiser.step();
      }
      all.push_back(values(model.parameters().values()));
      const std::vector<double> m = values(optimiser.m());
      all.back().insert(all.back().end(), m.begin(), m.end());
    }
    EXPECT(all[0] == all[1]);
  }
}

TEST_CASE(
    "tasks: the loss over a vocabulary by parts of the rows is that of all logits at once, and counts what is right") {
  Context context(test_device());
  // 36 million logits: on the CPU three parts of 1,024 rows, the last one shorter.
  const int64_t rows = 3000, words = 12000;
  const Tensor x = random_normal(context, {rows, 4}, 1, 1, purpose::kTest),
               w = random_normal(context, {words, 4}, 1, 2, purpose::kTest),
               b = random_normal(context, {words}, 1, 3, purpose::kTest);
  std::vector<int32_t> targets(static_cast<size_t>(rows));
  // A third of the rows have no target, a third the word with the largest logit, a third any.
  const std::vector<double> hx = values(x), hw = values(w), hb = values(b);
  const auto largest_word = [&](size_t i) {
    std::vector<double> l = hb;
    for (size_t v = 0; v < l.size(); ++v)
      for (size_t h = 0; h < 4; ++h) l[v] += hx[i * 4 + h] * hw[v * 4 + h];
    return static_cast<int32_t>(std::max_element(l.begin(), l.end()) - l.begin());
  };
  double right = 0;
  for (size_t i = 0; i < targets.size(); ++i) {
    const auto any = static_cast<int32_t>(random_below(static_cast<uint64_t>(words), 5, purpose::kTest, 0, i));
    targets[i] = i % 3 == 0 ? -1 : i % 3 == 1 ? largest_word(i) : any;
    right += i % 3 == 1 || (i % 3 == 2 && any == largest_word(i));
  }
  const Tensor wanted = from_vector(context, targets, {rows});
  const Var px = Var::parameter(x), pw = Var::parameter(w), pb = Var::parameter(b), qx = Var::parameter(x.clone()),
            qw = Var::parameter(w.clone()), qb = Var::parameter(b.clone());
  const VocabularyLoss loss = vocabulary_loss(px, pw, pb, wanted);
  const Var reference = vocabulary_loss_reference(qx, qw, qb, wanted);
  EXPECT(loss.loss.value().item() == doctest::Approx(reference.value().item()).epsilon(1e-6));
  EXPECT(values(loss.sums)[1] == 2000);
  EXPECT(std::abs(values(loss.sums)[2] - right) <= 2);  // two logits may be equal but for their rounding
  backward(loss.loss), backward(reference);
  for (const auto& [p, q] : {std::pair{px, qx}, {pw, qw}, {pb, qb}})
    EXPECT(largest_difference(values(p.grad()), values(q.grad())) < 1e-6);
  const std::vector<double> each = values(loss.row_losses);
  for (size_t i = 0; i < each.size(); i += 3) EXPECT(each[i] == 0);
}

TEST_CASE(
    "tasks: in bfloat16 the loss over a vocabulary errs no more than the plain ops, whatever the number of words") {
  Context context(test_device());
  // 1,100 and 30,522 get rows of zeros behind their words. A GPU has fewer multiprocessors than there are rows.
  for (const int64_t words : {1100, 1024, 30522}) {
    const int64_t rows = 300;
    const auto rounded = [&](Shape shape, uint64_t seed) {
      return cast(random_normal(context, shape, 1, seed, purpose::kTest), DType::kBFloat16);
    };
    const Tensor x = rounded({rows, 8}, 1), w = rounded({words, 8}, 2),
                 b = random_normal(context, {words}, 1, 3, purpose::kTest);
    std::vector<int32_t> targets(static_cast<size_t>(rows));
    for (size_t i = 0; i < targets.size(); ++i)
      targets[i] = i % 5 == 0 ? -1 : static_cast<int32_t>(i == 1 ? words - 1 : i * 37 % static_cast<size_t>(words));
    const Tensor wanted = from_vector(context, targets, {rows});
    // Loss, then the gradients of x, w and b.
    const auto all = [&](DType dtype, bool fused) {
      const DType wide = dtype == DType::kFloat64 ? dtype : DType::kFloat32;
      const Var px = Var::parameter(cast(x, dtype).clone()), pw = Var::parameter(cast(w, dtype).clone()),
                pb = Var::parameter(cast(b, wide).clone());
      const Var loss =
          fused ? vocabulary_loss(px, pw, pb, wanted).loss : vocabulary_loss_reference(px, pw, pb, wanted);
      backward(loss);
      return std::vector<std::vector<double>>{values(loss.value()), values(px.grad()), values(pw.grad()),
                                              values(pb.grad())};
    };
    const auto truth = all(DType::kFloat64, false), plain = all(DType::kBFloat16, false),
               fused = all(DType::kBFloat16, true);
    for (size_t i = 0; i < truth.size(); ++i) {
      INFO(words, " ", i);
      EXPECT(largest_difference(fused[i], truth[i]) <= (i ? 3 : 2) * largest_difference(plain[i], truth[i]));
    }
    EXPECT(largest_difference(all(DType::kFloat64, true)[2], truth[2]) < 1e-14);
  }
}

TEST_CASE("tasks: rare words count in the loss over a vocabulary, each too small to change a float32 that is 1") {
  Context context(test_device());
  const int64_t words = 30522;
  std::vector<double> bias(static_cast<size_t>(words), -17);
  bias[0] = 0;
  const Var x = Var::parameter(from_vector(context, std::vector<double>{0, 0}, {1, 2}, DType::kFloat32)),
            w = Var::parameter(random_normal(context, {words, 2}, 1, 2, purpose::kTest)),
            b = Var::parameter(from_vector(context, bias, {words}, DType::kFloat32));
  const VocabularyLoss loss = vocabulary_loss(x, w, b, from_vector(context, std::vector<int32_t>{0}, {1}));
  const double rest = static_cast<double>(words - 1) * std::exp(-17.0);
  EXPECT(std::abs(loss.loss.value().item() - std::log1p(rest)) < 3e-6);
  backward(loss.loss);
  double sum = 0;
  for (const double g : values(b.grad())) sum += g;
  EXPECT(std::abs(sum) < 3e-6);
}

TEST_CASE("tasks: no target is a loss of 0 without a gradient, a target outside the vocabulary makes it NaN") {
  Context context(test_device());
  const Var x = Var::parameter(random_normal(context, {2, 4}, 1, 1, purpose::kTest)),
            w = Var::parameter(random_normal(context, {9, 4}, 1, 2, purpose::kTest)), b(zeros(context, {9}));
  const auto loss = [&](std::vector<int32_t> targets) {
    return vocabulary_loss(x, w, b, from_vector(context, targets, {2})).loss;
  };
  const Var none = loss({-1, -1});
  EXPECT(none.value().item() == 0);
  backward(none);
  EXPECT(largest(values(w.grad())) == 0);
  EXPECT(std::isnan(loss({3, 9}).value().item()));
  EXPECT(std::isnan(loss({3, -2}).value().item()));
}

TEST_CASE("tasks: an unknown one is an error that lists those there are") {
  EXPECT(contains(error_of([] { find_task("translation"); }),
                  "expected one of classification, masked_lm, causal_lm; got 'translation'"));
}

}  // namespace
}  // namespace glia::test
