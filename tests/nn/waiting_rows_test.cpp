// Rows of the word table that wait for their updates: nobody may be able to tell, to the last bit.
#include <filesystem>
#include <optional>

#include "nn/optimizer.h"
#include "nn/weights/checkpoint.h"
#include "tests/nn/helpers.h"

namespace glia::test {
namespace {

using Bits = std::vector<double>;

AdamWOptions busy_options() {
  AdamWOptions o;
  o.learning_rate = 0.01, o.weight_decay = 0.1, o.clip = 0.5, o.warmup_steps = 5, o.total_steps = 60;
  return o;
}

// Flat buffers whose first rows are a table [count, width], with what follows it not a multiple of anything but 64.
struct Flat {
  AdamWBuffers b;
  Flat(Context& context, int64_t split, int64_t count, int64_t width, bool wait, DType dtype, DType moments) {
    const int64_t table = (count * width + 63) / 64 * 64, n = split + table + 3 * 64;
    b.p = random_normal(context, {n}, 1, 3, purpose::kTest, 50, dtype);
    b.p.rows(split + count * width, split + table).zero();  // as ParameterSet pads
    b.m = zeros(context, {n}, moments), b.v = zeros_like(b.m);
    if (split) b.low = zeros(context, {split}, DType::kBFloat16);
    b.g = zeros(context, {n - split}, dtype);
    b.copy = zeros(context, {n}, DType::kBFloat16);
    b.decayed = split + table + 64;
    b.partial = zeros(context, {norm_chunks(split) + norm_chunks(n - split)}, DType::kFloat64);
    b.factors = zeros(context, {adamw_factor::kCount}, DType::kFloat64);
    b.ticket = zeros(context, {1}, DType::kInt32);
    if (!wait) return;
    b.rows = {count,
              width,
              zeros(context, {count}, DType::kInt32),
              zeros(context, {kRowPeriod, 4}, dtype),
              zeros(context, {1}, DType::kInt32),
              moments == DType::kBFloat16 ? zeros(context, {kRowPeriod}, DType::kInt32) : Tensor{}};
  }
  Bits state() const {
    Bits all;
    for (const Tensor& t : {b.p, b.m, b.v, b.copy, b.factors}) {
      const Bits v = values(t);
      all.insert(all.end(), v.begin(), v.end());
    }
    return all;
  }
};

TEST_CASE("waiting rows: flat steps have the bits of updating every row in every step") {
  Context context(test_device());
  const AdamWOptions o = busy_options();
  struct Form {
    int64_t split, count, width;
  };
  // Rows that chunks of the norm cut; fewer rows than a turn has; rows wider and narrower than a warp's packs.
  for (const Form& form : {Form{192, 1500, 24}, {0, 500, 8}, {64, 70, 512}, {0, 45, 1032}, {64, 3, 8}})
    for (const auto& [dtype, moments] : {std::pair{DType::kFloat32, DType::kFloat32},
                                         {DType::kFloat32, DType::kBFloat16},
                                         {DType::kFloat64, DType::kFloat64}}) {
      INFO("split ", form.split, " table ", form.count, " ", form.width, " ", std::string(name(dtype)), " ",
           std::string(name(moments)));
      Flat every(context, form.split, form.count, form.width, false, dtype, moments);
      Flat wait(context, form.split, form.count, form.width, true, dtype, moments);
      bool waited = false;
      for (uint32_t step = 0; step < 80; ++step) {
        // Row 0 in the first step and the last; a few rows often, the others hardly ever.
        std::vector<int32_t> ids;
        if (step == 0 || step == 79) ids.push_back(0);
        for (uint64_t i = 0; i < 7; ++i)
          ids.push_back(static_cast<int32_t>(
              1 + random_below(static_cast<uint64_t>(i < 4 ? 2 : form.count - 1), 8, purpose::kTest, step, i)));
        const RowOrder order = order_rows(context, ids, form.count);
        adamw_catch_up(wait.b, o, order);
        const std::vector<int32_t> touched = order.touched.to_vector<int32_t>();
        // The same gradient, but rows that nobody touched: 0 here, what they held before there. 0 in the padding.
        Bits g = values(
            random_normal(context, {every.b.g.numel()}, step % 2 ? 1e-3 : 1, 5, purpose::kTest, step, dtype));
        if (step == 31) g.back() = INFINITY;  // a step that is skipped
        Bits kept = values(wait.b.g);
        for (int64_t i = 0; i < static_cast<int64_t>(g.size()); ++i) {
          const int64_t row = i / form.width;
          const bool padding = row >= form.count && i < wait.b.g.numel() - 3 * 64;
          const bool untouched = row < form.count && !(static_cast<uint32_t>(touched[row / 32]) >> row % 32 & 1);
          if (padding || untouched) g[i] = 0;
          if (!untouched) kept[i] = g[i];
        }
        every.b.g.copy_from(from_vector(context, g, {every.b.g.numel()}, dtype));
        wait.b.g.copy_from(from_vector(context, kept, {every.b.g.numel()}, dtype));
        if (form.split) {
          const Tensor low = random_normal(context, {form.split}, 1, 4, purpose::kTest, step, DType::kBFloat16);
          every.b.low.copy_from(low), wait.b.low.copy_from(low);
        }
        context.set_step(step);
        adamw_step(every.b, o);
        adamw_step(wait.b, o, order.touched);
        waited |= wait.state() != every.state();
        if (step % 37 != 36 && step < 79) continue;
        adamw_catch_up(wait.b, o, {});
        REQUIRE(wait.state() == every.state());
      }
      EXPECT(waited);  // or the test compared one path with itself
      EXPECT(values(wait.b.factors)[adamw_factor::kSkipped] == 1);
    }
}

ModelConfig wide_config(DType compute) {
  ModelConfig c = tiny_config("none", compute);
  c.bert.vocabulary = 400, c.bert.dropout = 0.1;
  c.bfloat16_gradients = compute == DType::kBFloat16;
  return c;
}

struct Learner {
  Context context{test_device(), 42};
  Model model;
  std::optional<AdamW> optimiser;

  Learner(const ModelConfig& config, bool wait, bool small = false) : model(context, config, 42) {
    AdamWOptions o = busy_options();
    o.bfloat16_moments = small;
    optimiser.emplace(model.parameters(), o, wait);
  }
  // Steps [first, last); the order of the ids is made here, but in every seventh step, where the device sorts.
  Bits train(uint32_t first, uint32_t last) {
    Bits losses;
    for (uint32_t step = first; step < last; ++step) {
      context.set_step(step);
      Batch batch = tiny_batch(context, {6, 3, 9}, model.config().bert, step, 24);
      std::vector<int32_t> ids = batch.ids.to_vector<int32_t>();
      for (size_t t = 18; t < ids.size(); ++t) ids[t] = -1;
      for (size_t t = 0; t < 6; ++t) ids[t] %= 5;
      batch.ids = from_vector(context, ids, {24});
      if (step % 7 != 6) batch.order = order_rows(context, ids, model.config().bert.vocabulary);
      model.parameters().clear_gradients();
      const Model::Output out = model.forward(batch, true);
      backward(out.loss);
      optimiser->step();
      losses.push_back(out.loss.value().item());
    }
    return losses;
  }
  Bits evaluate() {
    const NoGrad no_grad(context);
    return values(model.forward(tiny_batch(context, {4, 16, 7}, model.config().bert, 1000), false).logits.value());
  }
  Bits state() const {
    Bits all;
    for (const Tensor& t :
         {model.parameters().values(), optimiser->m(), optimiser->v(), model.parameters().copy()}) {
      const Bits v = t.defined() ? values(t) : Bits{};
      all.insert(all.end(), v.begin(), v.end());
    }
    return all;
  }
};

TEST_CASE("waiting rows: training, evaluation and a resumed checkpoint have the bits of the eager optimiser") {
  for (const auto& [compute, small] : {std::pair{DType::kFloat32, false},
                                       {DType::kFloat32, true},
                                       {DType::kFloat64, false},
                                       {DType::kBFloat16, false},
                                       {DType::kBFloat16, true}}) {
    INFO(std::string(name(compute)), small ? ", moments of bfloat16" : "");
    const std::string folder = temporary_path("waiting");
    std::filesystem::create_directories(folder);
    Learner every(wide_config(compute), false, small), wait(wide_config(compute), true, small),
        resumed(wide_config(compute), true, small);
    EXPECT(every.train(0, 10) == wait.train(0, 10));
    EXPECT(every.evaluate() == wait.evaluate());
    EXPECT(every.train(10, 45) == wait.train(10, 45));
    for (Learner* l : {&every, &wait})
      save_checkpoint(folder + (l == &every ? "/every" : "/wait"), l->model.parameters(), &*l->optimiser, {},
                      {45, 42, "", ""});
    resumed.train(0, 9);  // rows wait here too: what is loaded must not be changed by them
    load_checkpoint(folder + "/wait", resumed.model.parameters(), &*resumed.optimiser, {});
    EXPECT(resumed.state() == every.state());
    const Bits losses = every.train(45, 90);
    EXPECT(losses == wait.train(45, 90));
    EXPECT(losses == resumed.train(45, 90));
    EXPECT(every.state() == wait.state());
    EXPECT(every.state() == resumed.state());
    EXPECT(every.optimiser->report().gradient_norm == wait.optimiser->report().gradient_norm);
    std::filesystem::remove_all(folder);
  }
}

TEST_CASE(
    "waiting rows: what reads the table without asking sees old rows, and an optimiser that ends leaves none") {
  Learner every(wide_config(DType::kFloat32), false), wait(wide_config(DType::kFloat32), true);
  every.train(0, 6), wait.train(0, 6);
  const auto words = [](const Learner& l) { return values(l.model.parameters().table()->var.value()); };
  EXPECT(words(every) != words(wait));
  EXPECT(values(every.model.parameters().values()) == values(wait.model.parameters().values()));
  every.train(6, 11), wait.train(6, 11);
  EXPECT(words(every) != words(wait));
  EXPECT(values(every.optimiser->m()) == values(wait.optimiser->m()));
  every.train(11, 13), wait.train(11, 13);
  EXPECT(words(every) != words(wait));
  wait.optimiser.reset();
  EXPECT(words(every) == words(wait));
}

TEST_CASE("waiting rows: step() without a backward pass treats the table as the eager optimiser does") {
  Learner every(wide_config(DType::kFloat32), false), wait(wide_config(DType::kFloat32), true);
  for (Learner* l : {&every, &wait}) {
    l->train(0, 6);
    l->model.parameters().clear_gradients();
    l->optimiser->step();
  }
  EXPECT(every.state() == wait.state());
}

}  // namespace
}  // namespace glia::test
