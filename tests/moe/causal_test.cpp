// Models that read from left to right: no number of a row depends on a later token, whatever stands between.
#include "experiments/language/continuation.h"
#include "experiments/tasks/other_prompts.h"
#include "tests/moe/bench.h"

namespace glia::test {
namespace {

ModelConfig causal_config(const std::string& router, bool pre_norm, bool rotary = false) {
  ModelConfig c = tiny_config(router);
  c.bert.causal = true, c.bert.pre_norm = pre_norm, c.bert.rotary = rotary;
  c.head = make_causal_lm_head;
  return c;
}

const std::vector<int32_t> kLengths = {9, 1, 6};
constexpr int64_t kRows = 16;

std::vector<int32_t> test_ids() {
  std::vector<int32_t> ids;
  for (int32_t t = 0; t < kRows; ++t) ids.push_back(t * t % 37 + 1);
  return ids;
}

// Each row is asked for the same word whatever the text is.
Batch batch_of(const Model& model, const std::vector<int32_t>& ids) {
  Context& context = model.context();
  Batch b;
  b.sequences = make_sequences(context, kLengths, kRows + 2);
  std::vector<int32_t> all = ids, read(kRows);
  all.resize(kRows + 2, -1);
  std::iota(read.begin(), read.end(), 0);
  b.ids = from_vector(context, all, {kRows + 2});
  b.labels = from_vector<int32_t>(context, {0, 1, 2}, {3});
  b.borders = from_vector<int32_t>(context, {4, 1, 3}, {3});
  b.read = from_vector(context, read, {kRows});
  b.targets = from_vector(context, std::vector<int32_t>(kRows, 5), {kRows});
  return b;
}

std::vector<double> row_losses(const Model& model, const std::vector<int32_t>& ids, bool training) {
  return values(model.forward(batch_of(model, ids), training).row_losses);
}

// Dense, and every router with every choice of its options that may be causal.
std::vector<std::pair<std::string, OptionValues>> causal_routers() {
  std::vector<std::pair<std::string, OptionValues>> all = {{"none", {}}};
  for (const RouterRow& row : router_registry()) {
    if (why_not_causal(row, {}).empty()) all.push_back({row.name, {}});
    for (const OptionRow& option : row.options)
      for (const char* choice : option.choices) {
        OptionValues own;
        own.set(option.name, std::string(choice));
        if (why_not_causal(row, own).empty()) all.push_back({row.name, own});
      }
  }
  return all;
}

TEST_CASE(
    "causal: another token changes no bit of a row before it, through every router that may, in training too") {
  const std::vector<int32_t> ids = test_ids();
  const auto all = causal_routers();
  EXPECT(all.size() > 15);
  for (const auto& [router, own] : all)
    for (const bool pre_norm : {false, true}) {
      INFO(router, " ", pre_norm);
      Context context(test_device(), 1);
      ModelConfig config = causal_config(router, pre_norm, pre_norm);  // both kinds of norms and of positions
      for (const auto& [name, value] : own.all()) config.moe.options.set(name, value);
      const Model model(context, config, 3);
      for (const bool training : {false, true}) {
        const std::vector<double> before = row_losses(model, ids, training);
        for (const size_t at : {8, 5, 4, 3, 1, 13}) {
          std::vector<int32_t> other = ids;
          other[at] = 39;
          const std::vector<double> after = row_losses(model, other, training);
          const size_t begin = at < 9 ? 0 : 10, end = at < 9 ? 9 : 16;
          for (size_t t = 0; t < before.size(); ++t)
            if (t < at || t >= end || t < begin) EXPECT(after[t] == before[t]);
          EXPECT(after[at] != before[at]);
        }
      }
    }
}

TEST_CASE("causal: a model is refused exactly the routers and options whose choices look ahead") {
  for (const RouterRow& row : router_registry())
    for (const OptionValues& own : option_choices(row)) {
      INFO(std::string(row.name));
      Bench bench(row.name, 4, 2, {5, 1, 7}, 0, own);
      EXPECT(why_not_causal(row, own).empty() == !(looks_ahead(bench, false) || looks_ahead(bench, true)));
    }
}

TEST_CASE("causal: a model with rotary positions has no table of them, and still tells places apart") {
  Context context(test_device(), 1);
  const Model model(context, causal_config("none", false, true), 3);
  EXPECT(model.parameters().find("embeddings.position.weight") == nullptr);
  EXPECT(Model(context, causal_config("none", false), 3).parameters().find("embeddings.position.weight") !=
         nullptr);
  // The last row reads the same words in another order.
  std::vector<int32_t> ids(kRows, 7), other = ids;
  ids[1] = 3, ids[5] = 9, other[1] = 9, other[5] = 3;
  EXPECT(row_losses(model, ids, false)[8] != row_losses(model, other, false)[8]);
}

// Of the sequences of row_losses(): 9, 1 and 6 rows with prompts of 4, 1 and 3.
TEST_CASE(
    "causal: routers told of another text's prompt have it from the border on, and who reads none is as before") {
  for (const char* source : {"prompt-mean", "last-prompt-token", "border"}) {
    INFO(source);
    Context context(test_device(), 1);
    ModelConfig config = causal_config(router_with_option("context"), false);
    config.moe.options.set("context", std::string(source));
    EXPECT(reads_prompts(config));
    const Model model(context, config, 3);
    Batch b = batch_of(model, test_ids());
    const std::vector<double> own = values(model.forward(b, false).row_losses);
    b.context_rows = rows_of_other_prompts(b);
    EXPECT(b.context_rows.to_vector<int32_t>() ==
           (std::vector<int32_t>{0, 1, 2, 9, 9, 9, 9, 9, 9, 12, 10, 11, 3, 3, 3, 3, -1, -1}));
    const std::vector<double> other = values(model.forward(b, false).row_losses);
    for (const size_t t : {0, 1, 2, 10, 11}) EXPECT(other[t] == own[t]);
    EXPECT((other == own) == (std::string(source) == "border"));  // which has no content to be another's
  }
  EXPECT(!reads_prompts(causal_config("none", false)));
  EXPECT(cost_of_other_prompt("word_loss") == "other_prompt.word");
  EXPECT(cost_of_other_prompt("loss.at-2-4") == "other_prompt.at-2-4");
  EXPECT(cost_of_other_prompt("perplexity").empty());
}

TEST_CASE("causal: a router that looks ahead is refused by name, with the reason") {
  Context context(test_device(), 1);
  int refused = 0;
  for (const RouterRow& row : router_registry()) {
    const std::string why = why_not_causal(row, {});
    if (why.empty()) continue;
    ++refused;
    const std::string error = error_of([&] { Model(context, causal_config(row.name, false), 3); });
    EXPECT(contains(error,
                    fmt::format("router {}: expected one for a model that reads from left to right", row.name)));
    EXPECT(contains(error, why));
  }
  EXPECT(refused > 3);
  for (const MixtureRow& row : mixture_registry()) {
    const std::string error =
        error_of([&] { Model(context, causal_config(std::string(row.name) + ":" + plain_router(), false), 3); });
    EXPECT(error.empty() == !row.reads_future);
  }
}

TEST_CASE("causal: an encoder's first rows do see what comes later, so that the tests above can fail") {
  Context context(test_device(), 1);
  ModelConfig config = causal_config("none", false);
  config.bert.causal = false;
  const Model model(context, config, 3);
  std::vector<int32_t> ids(kRows, 7), other = ids;
  other[8] = 9;
  EXPECT(row_losses(model, ids, false)[0] != row_losses(model, other, false)[0]);
}

TEST_CASE("causal: pre-norm layers are x + f(norm(x)), one norm behind them, and no second residual") {
  Context context(test_device(), 1);
  ModelConfig config = causal_config("none", true);
  const Model model(context, config, 3);
  bool last = false;
  for (const Parameter& p : model.parameters().all()) {
    EXPECT(!contains(p.name, "embeddings.norm"));
    last = last || p.name == "encoder.norm.weight";
  }
  EXPECT(last);
  ModelConfig second = causal_config(plain_router(), true);
  second.moe.second_residual = true;
  EXPECT(contains(error_of([&] { Model(context, second, 3); }), "expected post-norm layers"));
}

TEST_CASE(
    "causal: a text that grows has the logits and the routing of the whole text, bit for bit, whatever was fed at once") {
  for (const auto& [router, own] : causal_routers())
    for (const DType compute : {DType::kFloat32, DType::kFloat64}) {
      INFO(router, " ", compute);
      Context context(test_device(), 1);
      ModelConfig config = causal_config(router, router == "none", compute == DType::kFloat32);
      config.compute = compute, config.bert.positions = 200;
      for (const auto& [name, value] : own.all()) config.moe.options.set(name, value);
      const Model model(context, config, 3);
      std::vector<int32_t> ids;
      for (int32_t t = 0; t < 150; ++t) ids.push_back(t * t % 37 + 1);
      Continuation grows(model, 200, 5), whole(model, 200, 5, false);
      for (size_t at = 0; at < ids.size();) {
        const size_t count = at == 0 ? 7 : at == 7 ? 1 : at == 8 ? 120 : at == 128 ? 4 : 1;
        const std::span<const int32_t> next(ids.data() + at, count);
        const std::vector<double> a = values(grows.feed(next)), b = values(whole.feed(next));
        // A GPU's products of few rows and of many are different kernels.
        if (context.device().is_cuda())
          for (size_t i = 0; i < a.size(); ++i)
            EXPECT(std::abs(a[i] - b[i]) < (compute == DType::kFloat32 ? 1e-4 : 1e-10));
        else EXPECT(a == b);
        at += count;
        for (size_t l = 0; l < grows.routings().size() && router != "none" && !context.device().is_cuda(); ++l) {
          const Routing &few = grows.routings()[l], &all = whole.routings()[l];
          EXPECT(few.experts.to_vector<int32_t>() ==
                 all.experts.rows(all.experts.size(0) - few.experts.size(0), all.experts.size(0))
                     .to_vector<int32_t>());
        }
      }
    }
}

TEST_CASE("causal: a text of no language model, or longer than the positions, is refused") {
  Context context(test_device(), 1);
  const Model classifier(context, tiny_config("none"), 3), model(context, causal_config("none", false), 3);
  EXPECT(contains(error_of([&] { Continuation(classifier, 5, 0); }), "expected a language model"));
  EXPECT(contains(error_of([&] { Continuation(model, 17, 0); }), "expected 1 to the model's 16 positions"));
}

}  // namespace
}  // namespace glia::test
