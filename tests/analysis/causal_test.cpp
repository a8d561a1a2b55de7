// What experts are for: masked, removed, walked around; and what the layers make of the same tokens.
#include "experiments/analysis/causal.h"

#include <cmath>

#include "engine/core/file.h"
#include "experiments/analysis/layer_states.h"
#include "experiments/analysis/run_trace.h"
#include "moe/layer_walk.h"
#include "tests/nn/helpers.h"
#include "tests/temporary_folder.h"

using namespace glia;
using namespace glia::test;
using results::Matrix;

namespace {

// Forty rows of four to nine words, three topics.
struct Rows {
  Vocabulary words;
  TokenSplit split;
  Options options;
  Rows() : words(Vocabulary::from_tokens(tokens(), "test")) {
    for (uint32_t row = 0; row < 40; ++row) {
      const auto length = int64_t(4 + random_below(6, 1, purpose::kTest, 0, row));
      for (int64_t p = 0; p < length; ++p)
        split.ids.push_back(int32_t(random_below(40, 2, purpose::kTest, row, uint64_t(p))));
      split.offsets.push_back(int64_t(split.ids.size()));
      split.labels.push_back(int32_t(random_below(3, 3, purpose::kTest, 0, row)));
    }
    options.bucket = 32, options.eval_batch = 16, options.padding = "packed";
  }
  static std::vector<std::string> tokens() {
    std::vector<std::string> all = {"[PAD]", "[UNK]", "[CLS]", "[SEP]"};
    while (all.size() < 40) all.push_back(fmt::format("w{}", all.size()));
    return all;
  }
};

struct Asked {
  Rows rows;
  Context context{test_device()};
  Model model;
  Evaluator evaluator;
  explicit Asked(const std::string& router, const OptionValues& set = {})
      : model(context, with(tiny_config(router, DType::kFloat32), set), 11),
        evaluator(model, rows.split, rows.options, rows.words) {}
  static ModelConfig with(ModelConfig config, const OptionValues& set) {
    for (const auto& [name, value] : set.all()) config.moe.options.set(name, value);
    return config;
  }
  static OptionValues one(const std::string& name, const OptionValue& value) {
    OptionValues values;
    values.set(name, value);
    return values;
  }
  // Layer by layer, with each layer's choices replaced by themselves, it has the model's own logits.
  void expect_walk_to_agree() {
    const NoGrad no_grad(context);
    evaluator.for_each_batch([&](const Batch& batch) {
      const Head::Result walked = walk(model, batch, [](const WalkedLayer& layer, FeedForward::Result& r) {
        replace_choices(layer, r, Choices(r.routing));
      });
      EXPECT(largest_difference(values(walked.logits.value()), values(model.forward(batch, false).logits.value())) <
             1e-4);
    });
  }
  Allowed without(size_t layer, size_t expert) const {
    Allowed allowed(2, std::vector<char>(4, 1));
    allowed[layer][expert] = 0;
    return allowed;
  }
  std::vector<double> logits() {
    std::vector<double> all;
    const NoGrad no_grad(context);
    evaluator.for_each_batch([&](const Batch& batch) {
      const auto values = model.forward(batch, false).logits.value().to_vector<double>();
      all.insert(all.end(), values.begin(), values.end());
    });
    return all;
  }
};

// Every router, and that of the registry which balances by a bias where it is told to.
std::vector<std::pair<std::string, std::string>> all_routers() {
  std::vector<std::pair<std::string, std::string>> all = {
      {router_with_option("context-balance"), "context-balance"}};
  for (const RouterRow& row : router_registry()) all.emplace_back(row.name, "");
  return all;
}

// What is added to an expert's claim, by `by` more.
void raise_claim(Model& model, size_t layer, size_t expert, float by) {
  std::vector<Tensor> claims;
  const std::string prefix = fmt::format("encoder.layer.{}.moe.router.", layer);
  for (const char* name : {"token.bias", "subset.bias"})
    if (const Parameter* p = model.parameters().find(prefix + name)) claims.push_back(p->var.value());
  for (const State& state : model.parameters().states())
    if (state.name == prefix + "load_bias") claims.push_back(state.value);
  for (Tensor& claim : claims) {
    std::vector<float> values = claim.to_vector<float>();
    values[expert] += by;
    claim.copy_from(from_vector(model.context(), values, claim.shape(), claim.dtype()));
  }
}

// The K largest scores among the allowed, and the softmax over them.
void choose_again(const Routing& routing, Choices& choices, size_t begin, const std::vector<char>& allowed) {
  const std::vector<double> scores = routing.scores.value().to_vector<double>();
  const size_t row = begin / size_t(choices.slots) * allowed.size();
  if (choices.experts[begin] < 0) return;  // the tail
  std::vector<int> order;
  for (size_t e = 0; e < allowed.size(); ++e)
    if (allowed[e]) order.push_back(int(e));
  std::ranges::stable_sort(order, [&](int a, int b) { return scores[row + size_t(a)] > scores[row + size_t(b)]; });
  double sum = 0;
  for (size_t k = 0; k < size_t(choices.slots); ++k) {
    choices.experts[begin + k] = order[k];
    choices.gates[begin + k] = std::exp(scores[row + size_t(order[k])] - scores[row + size_t(order[0])]);
    sum += choices.gates[begin + k];
  }
  for (size_t k = 0; k < size_t(choices.slots); ++k) choices.gates[begin + k] /= sum;
}

}  // namespace

TEST_CASE("causal: walking a model layer by layer gives its logits") {
  for (const RouterRow& row : router_registry()) {
    INFO(std::string(row.name));
    Asked(row.name).expect_walk_to_agree();
  }
}

TEST_CASE("causal: a masked expert is as if the router had never had it") {
  for (const std::string& router : {plain_router(), context_router()}) {
    INFO(router);
    Asked asked(router);
    REQUIRE(masks_logits(asked.model));
    const std::vector<double> before = asked.logits();
    int other = 0;
    for (size_t layer = 0; layer < 2; ++layer)
      for (size_t expert = 0; expert < 4; ++expert) {
        const Allowed allowed = asked.without(layer, expert);
        const results::Predictions masked = predict(asked.model, asked.evaluator, allowed);
        std::vector<int32_t> again;
        asked.evaluator.for_each_batch([&](const Batch& batch) {
          const Head::Result head =
              walk(asked.model, batch, [&](const WalkedLayer& walked, FeedForward::Result& r) {
                Choices choices(r.routing);
                for (size_t at = 0; at < choices.experts.size(); at += size_t(choices.slots))
                  choose_again(r.routing, choices, at, allowed[walked.number]);
                replace_choices(walked, r, choices);
              });
          const std::vector<double> rows = values(head.logits.value());
          for (size_t b = 0; b < rows.size() / 3; ++b)
            again.push_back(int32_t(std::max_element(&rows[3 * b], &rows[3 * b] + 3) - &rows[3 * b]));
        });
        EXPECT(masked.predicted == again);
        other += masked.predicted != predict(asked.model, asked.evaluator).predicted;
      }
    EXPECT(other > 0);  // else this shows nothing
    EXPECT(asked.logits() == before);
  }
}

TEST_CASE("causal: a forbidden expert's claim has no part in a choice, and whom nobody has is not missed") {
  for (const auto& [router, option] : all_routers()) {
    INFO(router, " ", option);
    Asked asked(router, option.empty() ? OptionValues() : Asked::one(option, true));
    for (size_t layer = 0; layer < 2; ++layer)
      for (size_t expert = 0; expert < 4; ++expert) {
        INFO("layer ", layer, ", expert ", expert);
        const Allowed without = asked.without(layer, expert);
        const auto missing = predict(asked.model, asked.evaluator, without).predicted;
        raise_claim(asked.model, layer, expert, 5);
        if (masks_logits(asked.model)) EXPECT(predict(asked.model, asked.evaluator, without).predicted == missing);
        raise_claim(asked.model, layer, expert, -55);
        if (asked.model.parameters().find("encoder.layer.0.moe.router.token.bias"))
          EXPECT(predict(asked.model, asked.evaluator, without).predicted ==
                 predict(asked.model, asked.evaluator).predicted);
        raise_claim(asked.model, layer, expert, 50);
      }
  }
}

TEST_CASE("causal: every router can be asked without an expert, and is itself with all of them") {
  for (const RouterRow& row : router_registry()) {
    INFO(std::string(row.name));
    Asked asked(row.name);
    const results::Predictions whole = predict(asked.model, asked.evaluator);
    EXPECT(whole.labels == asked.rows.split.labels);
    EXPECT(whole.accuracy() == doctest::Approx(asked.evaluator.measure().values.get("accuracy")));
    EXPECT(predict(asked.model, asked.evaluator, Allowed(2, std::vector<char>(4, 1))).predicted == whole.predicted);
    EXPECT(predict(asked.model, asked.evaluator, asked.without(1, 2)).predicted.size() == 40);
  }
}

TEST_CASE("causal: a whole report of what is lost, kept and left") {
  Asked asked(plain_router());
  const results::TraceContent content = trace_of(asked.model, asked.evaluator, "test", {"a", "b", "c"}, false);
  EXPECT(content.tokens == asked.rows.split.tokens());
  EXPECT(content.ids == asked.rows.split.ids);
  EXPECT(content.labels == asked.rows.split.labels);
  const TemporaryFolder tmp("causal");
  write_trace(tmp.path + "/t.safetensors", content);
  const results::TraceAnalysis a = results::analyse(results::TraceFile(tmp.path + "/t.safetensors"));
  const Measured measured = asked.evaluator.measure();
  std::vector<Matrix> utilisation;
  for (size_t l = 0; l < 2; ++l) {
    utilisation.push_back(a.layers[l].reading.all);
    for (size_t i = 0; i < utilisation[l].values.size(); ++i)
      EXPECT(utilisation[l].values[i] == doctest::Approx(measured.utilisation[l].all.values[i]).epsilon(1e-6));
  }
  const Causal c = knock_out(asked.model, asked.evaluator, asked.rows.split, asked.rows.options, asked.rows.words,
                             utilisation, {"a", "b", "c"});
  EXPECT(c.rows == 40);
  EXPECT(c.kept == std::vector<int>{1, 2, 4});
  for (int topic = 0; topic < 3; ++topic)
    EXPECT(c.kept_alone(topic, 2) == doctest::Approx(c.topic_whole[size_t(topic)]));
  for (int topic = 0; topic < 3; ++topic)
    for (int i = 0; i < 2; ++i) {  // the experts that have most of the topic's gates, and no others
      Allowed busiest(2, std::vector<char>(4, 0));
      for (size_t l = 0; l < 2; ++l) {
        std::vector<double> gates(&utilisation[l].values[size_t(topic) * 4],
                                  &utilisation[l].values[size_t(topic) * 4] + 4);
        for (int m = 0; m < c.kept[size_t(i)]; ++m) {
          const auto most = std::ranges::max_element(gates) - gates.begin();
          busiest[l][size_t(most)] = 1, gates[size_t(most)] = -1;
        }
      }
      EXPECT(c.kept_alone(topic, i) ==
             predict(asked.model, asked.evaluator, busiest).class_accuracy(3)[size_t(topic)]);
    }
  for (size_t l = 0; l < 2; ++l)
    for (size_t e = 0; e < 4; ++e) {  // what is lost of all rows is what the topics lose, by their number of rows
      double sum = 0;
      for (int topic = 0; topic < 3; ++topic)
        sum += c.lost_by_topic[l](topic, int(e)) *
               double(std::ranges::count(asked.rows.split.labels, int32_t(topic))) / 40;
      EXPECT(c.lost[l][e] == doctest::Approx(sum));
    }
  // Of a part of the rows, a topic's are those of the part.
  asked.rows.options.utilisation_rows = 25;
  const Evaluator some(asked.model, asked.rows.split, asked.rows.options, asked.rows.words, 25);
  const Causal part = knock_out(asked.model, some, asked.rows.split, asked.rows.options, asked.rows.words,
                                utilisation, {"a", "b", "c"});
  EXPECT(part.rows == 25);
  for (int topic = 0; topic < 3; ++topic)
    EXPECT(part.kept_alone(topic, 2) == doctest::Approx(part.topic_whole[size_t(topic)]));
  for (const std::vector<double>& lost : c.lost)
    for (const double x : lost) EXPECT(!(x == 0 && std::signbit(x)));  // tables would show −0.00
  EXPECT(to_json(c)["layers"].size() == 2);
  EXPECT(causal_tables(c).size() == 3);
  EXPECT(contains(lost_picture(c).svg_text(), "layer 2"));
  const results::TraceContent first = trace_of(asked.model, asked.evaluator, "test", {}, true);
  EXPECT(first.tokens == 40);
}

TEST_CASE("causal: the first choice alone, and all but it, have the gates' whole sum") {
  Asked asked(plain_router());
  // Routers that tell no experts apart: every token has experts 0 and 1, by halves.
  for (const Parameter& p : asked.model.parameters().all())
    if (p.name.find("moe.router.token") != std::string::npos) Tensor(p.var.value()).zero();
  const std::vector<Matrix> even(2, Matrix(3, 4));
  const Causal c = knock_out(asked.model, asked.evaluator, asked.rows.split, asked.rows.options, asked.rows.words,
                             even, {"a", "b", "c"});
  const auto alone = [&](std::vector<char> experts) {
    return predict(asked.model, asked.evaluator, Allowed(2, std::move(experts))).accuracy();
  };
  EXPECT(c.first_alone == alone({1, 0, 0, 0}));
  EXPECT(c.without_first == alone({0, 1, 0, 0}));
  EXPECT(c.first_alone != c.without_first);
}

TEST_CASE("causal: beside experts that every token has the others can be asked for too, and a mixture cannot") {
  Asked asked(plain_router(), Asked::one("shared-experts", int64_t{1}));
  const std::vector<Matrix> even(2, Matrix(3, 4));
  const Causal c = knock_out(asked.model, asked.evaluator, asked.rows.split, asked.rows.options, asked.rows.words,
                             even, {"a", "b", "c"});
  EXPECT(c.whole == doctest::Approx(asked.evaluator.measure().values.get("accuracy")));
  EXPECT(layer_states(asked.model, asked.evaluator, 3).at(1).similarity.rows == 4);
  asked.expect_walk_to_agree();
  Asked soft("soft:" + plain_router());
  EXPECT(contains(error_of([&] {
                    knock_out(soft.model, soft.evaluator, soft.rows.split, soft.rows.options, soft.rows.words, even,
                              {"a", "b", "c"});
                  }),
                  "layer 1: has no experts that tokens are sent to one by one"));
}

TEST_CASE("causal: experts are compared as numpy does, and random routers read the same states") {
  const results::Json wanted = results::Json::parse(read_file("tests/fixtures/routing/expected.json"))["cka"];
  std::vector<Matrix> outputs;
  for (const auto& rows : wanted["outputs"]) {
    Matrix& m = outputs.emplace_back(int(rows.size()), int(rows[0].size()));
    for (int r = 0; r < m.rows; ++r)
      for (int c = 0; c < m.cols; ++c) m(r, c) = rows[size_t(r)][size_t(c)].get<double>();
  }
  const Matrix cka = linear_cka(outputs);
  for (int e = 0; e < 3; ++e)
    for (int f = 0; f < 3; ++f)
      EXPECT(std::abs(cka(e, f) - wanted["similarity"][size_t(e)][size_t(f)].get<double>()) < 1e-6);
  EXPECT(cka(0, 2) == doctest::Approx(1));  // turned, scaled and shifted
  EXPECT(linear_cka({Matrix(3, 2), Matrix(3, 2)})(0, 1) == 0);

  Asked asked(plain_router());
  const std::vector<LayerStates> states = layer_states(asked.model, asked.evaluator, 3);
  const Measured measured = asked.evaluator.measure();
  REQUIRE(states.size() == 2);
  for (size_t l = 0; l < 2; ++l) {
    EXPECT(states[l].own == doctest::Approx(measured.layers[l].scalar("specialisation")).epsilon(1e-6));
    REQUIRE(states[l].random.size() == size_t(kRandomDraws));
    for (const double random : states[l].random) EXPECT(random > 0);
    EXPECT(states[l].random[0] != states[l].random[1]);
    REQUIRE(states[l].similarity.rows == 4);
    for (int e = 0; e < 4; ++e) EXPECT(states[l].similarity(e, e) == doctest::Approx(1));
    double others = 0;  // of twelve ordered pairs, the four experts' own similarity aside
    for (int e = 0; e < 4; ++e)
      for (int f = 0; f < 4; ++f) others += e == f ? 0 : states[l].similarity(e, f) / 12;
    EXPECT(to_json(states)[l]["expert_similarity_mean"].get<double>() == doctest::Approx(others).epsilon(1e-9));
    EXPECT(states[l].similarity(0, 1) < 1);
  }
  EXPECT(to_json(states)[0]["expert_similarity"].size() == 4);
  EXPECT(contains(as_text(states_table(states)), "random router"));
}

TEST_CASE("predictions: written, read, and refused by line") {
  const TemporaryFolder tmp("predictions");
  EXPECT(!results::read_predictions(tmp.path));
  const results::Predictions p{{0, 1, 1, 2}, {0, 1, 2, 2}};
  EXPECT(p.accuracy() == 0.75);
  EXPECT(p.class_accuracy(4)[2] == 0.5);
  EXPECT(std::isnan(p.class_accuracy(4)[3]));
  results::write_predictions(tmp.path, p);
  const auto back = results::read_predictions(tmp.path);
  EXPECT(back->predicted == p.predicted);
  EXPECT(back->labels == p.labels);
  for (const auto& [text, part] : {std::pair{"predicted,label\n1,2\n", "expected the header"},
                                   {"label,predicted\n1,2\n1;2\n", "predictions.csv:3: expected two numbers"},
                                   {"label,predicted\n1,2", "predictions.csv:2:"},
                                   {"label,predicted\n-1,2\n", "predictions.csv:2:"}}) {
    write_file_atomic(tmp.path + "/predictions.csv", text);
    EXPECT(contains(error_of([&] { results::read_predictions(tmp.path); }), part));
  }
}
