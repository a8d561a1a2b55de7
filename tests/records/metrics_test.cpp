// The metric table: rows by hand, from a trace of tokens, and what is n/a.
#include "experiments/records/metrics.h"

#include <cmath>
#include <set>

#include "engine/core/random/rng.h"
#include "experiments/records/results.h"
#include "experiments/records/routing/routing_shares.h"
#include "experiments/report/pictures/heatmap.h"
#include "tests/records/fake_results.h"
#include "tests/test.h"

using namespace glia;
using namespace glia::results;
using namespace glia::test;

namespace {

Matrix matrix(int rows, int cols, std::vector<double> values) {
  Matrix m(rows, cols);
  m.values = std::move(values);
  return m;
}

// 600 tokens, 2 layers, 3 topics, 4 experts, up to 2 slots, some without anybody.
struct FakeTrace {
  std::vector<int32_t> experts, topic;
  std::vector<float> gates;
  std::vector<uint8_t> first;
  TokenTrace trace;
  FakeTrace() {
    for (uint32_t n = 0; n < 600; ++n) {
      topic.push_back(int32_t(n % 3));
      first.push_back(n % 10 == 0);
      for (uint32_t l = 0; l < 2; ++l) {
        const PhiloxBlock r = random_block(5, purpose::kTest, n, l);
        const int32_t a = int32_t(r.word[0] % 4), b = int32_t((uint32_t(a) + 1 + r.word[1] % 3) % 4);
        const float g = 0.5f + float(r.word[2] % 1000) / 2001.0f;
        const bool nobody = r.word[3] % 50 == 0;
        experts.insert(experts.end(), {nobody ? -1 : a, nobody ? -1 : b});
        gates.insert(gates.end(), {nobody ? 0 : g, nobody ? 0 : 1 - g});
      }
    }
    trace = {600, 2, 2, 4, 3, experts, gates, topic, first, {}, {}};
  }
};

}  // namespace

TEST_CASE("metrics: every row has a name of its own, words for it, and goes through JSON and back") {
  std::set<std::pair<Stage, std::string>> names;
  for (const MetricRow& row : metric_rows()) {
    INFO(row.name);
    EXPECT(names.insert({row.stage, row.name}).second);
    EXPECT(std::string(row.label).size() > 1);
    EXPECT(std::string(row.help).size() > 5);
    EXPECT(row.least < row.most);
    EXPECT(metric_row(row.stage, row.name) == &row);
    EXPECT((row.stage == Stage::routing || std::holds_alternative<std::monostate>(row.read)));
  }
  const FakeTrace fake;
  const LayerMetrics m = layer_metrics(fake.trace, 0);
  const LayerMetrics back = layer_metrics_from(to_json(m, false), "x");
  int scalars = 0;
  for (const MetricRow* row : metric_rows(Stage::routing)) {
    INFO(row->name);
    EXPECT(back[row->name] == m[row->name]);
    if (row->form != Form::scalar || m[row->name].values.empty()) continue;  // n/a: nobody knows the probabilities
    EXPECT(m.scalar(row->name) >= row->least);
    EXPECT(m.scalar(row->name) <= row->most);
    ++scalars;
  }
  EXPECT(scalars >= 18);
}

TEST_CASE("metrics: even use of the experts has the even values") {
  for (const int experts : {2, 4, 8}) {
    const Matrix u = matrix(3, experts, std::vector<double>(size_t(3 * experts), 1.0 / experts));
    const LayerMetrics m = layer_metrics(u, u);
    for (const MetricRow* row : metric_rows(Stage::routing))
      if (row->even && !m[row->name].values.empty()) {
        INFO(row->name);
        EXPECT(m.scalar(row->name) == doctest::Approx(row->even(experts)));
      }
  }
}

TEST_CASE("metrics: the bytes of a layer's keys, newer ones behind the older") {
  const Matrix u = matrix(2, 2, {.75, .25, .25, .75});
  const LayerMetrics m = layer_metrics(u, u, {3, 1});
  EXPECT(to_json(m, false).dump().starts_with(
      R"({"specialisation":0.25,"specialisation_cls":0.25,"mutual_information_bits":0.1887218755408671,)"
      R"("mutual_information_bits_cls":0.1887218755408671,"entropy_bits":0.8112781244591328,)"
      R"("load_cv":0.7071067811865476,"dead_experts":0,"largest_share":0.75,"loads":[0.75,0.25],"effective_experts":)"));
  EXPECT(to_json(m, true).dump().starts_with(
      R"({"specialisation":0.25,"specialisation_cls":0.25,"load_cv":0.7071067811865476,)"
      R"("entropy_bits":0.8112781244591328,"loads":[0.75,0.25],"effective_experts":)"));
  EXPECT(m.scalar("effective_experts") ==
         doctest::Approx(std::exp(0.75 * std::log(4 / 3.0) + 0.25 * std::log(4.0))));
  // What is drawn while a run trains is all that its eval.json will have, in one place each.
  std::set<int> places;
  for (const MetricRow* row : metric_rows(Stage::routing)) {
    INFO(row->name);
    if (row->form == Form::scalar) EXPECT((row->logged > 0) != row->analysed);
    if (row->logged > 0) EXPECT(places.insert(row->logged).second);
  }
  for (const char* name : {"mutual_information_bits", "max_violation", "gini"}) {
    EXPECT(metric_row(Stage::routing, name)->logged > metric_row(Stage::routing, "effective_experts")->logged);
    EXPECT(to_json(m, true).at(name) == to_json(m, false).at(name));
  }
  // A file from before a row: what the loads tell is computed, the rest is n/a.
  const LayerMetrics old = layer_metrics_from(Json::parse(R"({"specialisation":0.25,"loads":[0.75,0.25]})"), "x");
  EXPECT(old.scalar("effective_experts") == m.scalar("effective_experts"));
  EXPECT(std::isnan(old.scalar("mutual_information_bits")));
  EXPECT(contains(error_of([] { LayerMetrics().scalar("speciality"); }),
                  "no row of a layer is called \"speciality\""));
}

TEST_CASE("metrics: a trace of tokens gives what a loop over them gives") {
  const FakeTrace fake;
  for (int layer = 0; layer < 2; ++layer) {
    const RoutingReading reading = reading_of(fake.trace, layer);
    for (int c = 0; c < 3; ++c)
      for (int e = 0; e < 4; ++e) {
        double sum = 0, tokens = 0, sum_first = 0, firsts = 0;
        for (int n = c; n < 600; n += 3) {
          double gate = 0;
          for (int k = 0; k < 2; ++k)
            if (fake.experts[size_t((n * 2 + layer) * 2 + k)] == e)
              gate += double(fake.gates[size_t((n * 2 + layer) * 2 + k)]);
          sum += gate, ++tokens;
          if (n % 10 == 0) sum_first += gate, ++firsts;
        }
        EXPECT(reading.all(c, e) == doctest::Approx(sum / tokens).epsilon(1e-12));
        EXPECT(reading.cls(c, e) == doctest::Approx(sum_first / firsts).epsilon(1e-12));
      }
    const LayerMetrics m = layer_metrics(fake.trace, layer), plain = layer_metrics(reading);
    EXPECT(m.scalar("specialisation") == *specialisation(reading.all));
    EXPECT(m.scalar("gate_margin") > 0);
    EXPECT(plain["gate_margin"].values.empty());
    EXPECT(!to_json(plain, false).contains("gate_margin"));
  }
  FakeTrace bad;
  bad.experts[5] = 4;
  EXPECT(contains(error_of([&] { reading_of(bad.trace, 0); }),
                  "wants each of 4 experts once, with a gate of 0 or more, got 4 with"));
  bad.experts[5] = (bad.experts[4] + 1) % 4, bad.gates[5] = std::nanf("");
  EXPECT(contains(error_of([&] { reading_of(bad.trace, 0); }), "with nan"));
  bad.trace.topic = bad.trace.topic.subspan(1);
  EXPECT(contains(error_of([&] { reading_of(bad.trace, 0); }), "expected a topic a token (600), got 599"));
}

TEST_CASE("metrics: MaxVio of batches is that of whole batches of 8,192 tokens, words count from 10 tokens on") {
  // A batch of expert 0 alone, an even one, and what is no whole batch.
  std::vector<int32_t> experts(2 * 8192 + 100, 1);
  for (size_t n = 0; n < 2 * 8192; ++n) experts[n] = n < 8192 || n % 2 == 0 ? 0 : 1;
  const std::vector<float> gates(experts.size(), 1.0f);
  TokenTrace trace;
  trace.tokens = std::ssize(experts), trace.layers = 1, trace.slots = 1, trace.n_experts = 2;
  trace.experts = experts, trace.gates = gates;
  EXPECT(layer_metrics(trace, 0).scalar("batch_violation") == 0.5);
  EXPECT(std::isnan(layer_metrics(trace, 0).scalar("word_specialisation")));

  // Ten tokens of word 0, one of them with expert 1; nine of word 1, all with it.
  std::vector<int32_t> words(19), few(19, 1);
  for (size_t n = 0; n < 19; ++n) words[n] = n < 10 ? 0 : 1, few[n] = n < 9 ? 0 : 1;
  trace.tokens = 19, trace.experts = few, trace.gates = trace.gates.first(19), trace.word = words;
  EXPECT(layer_metrics(trace, 0).scalar("word_specialisation") == doctest::Approx(0.9));
  EXPECT(std::isnan(layer_metrics(trace, 0).scalar("batch_violation")));
}

TEST_CASE(
    "metrics: an expert is dead below a hundredth of an even share; probabilities are those of tokens without an expert too") {
  EXPECT(dead_experts({199, 1}) == 0);
  EXPECT(dead_experts({200, 0.99}) == 1);
  EXPECT(dead_experts({0, 0}) == 2);
  const std::vector<int32_t> experts = {0, 1, -1, -1};
  const std::vector<float> gates = {0.75f, 0.25f, 0, 0}, entropy = {0.25f, 1.0f};
  TokenTrace trace;
  trace.tokens = 2, trace.layers = 1, trace.slots = 2, trace.n_experts = 2;
  trace.experts = experts, trace.gates = gates, trace.entropy = entropy;
  const LayerMetrics m = layer_metrics(trace, 0);
  EXPECT(m.scalar("router_entropy_bits") == 0.625);
  EXPECT(m.scalar("unrouted") == 0.5);
  EXPECT(m.scalar("gate_margin") == 0.5);
}

TEST_CASE("metrics: of a layer that routes nobody the shares are n/a, its experts dead, and it is read again") {
  const LayerMetrics m = layer_metrics(matrix(2, 3, {0, 0, 0, 0, 0, 0}), matrix(2, 3, {0, 0, 0, 0, 0, 0}));
  EXPECT(m.scalar("dead_experts") == 3);
  EXPECT(m.loads() == std::vector<double>{0, 0, 0});
  for (const char* name : {"specialisation", "entropy_bits", "load_cv", "effective_experts", "gini"})
    EXPECT(std::isnan(m.scalar(name)));
  const LayerMetrics back = layer_metrics_from(Json::parse(to_json(m, false).dump()), "x");
  for (const MetricRow* row : metric_rows(Stage::routing)) EXPECT(back[row->name] == m[row->name]);
}

TEST_CASE("metrics: a topic that no row has is n/a and in no mean") {
  const Matrix with = matrix(3, 2, {.8, .2, 0, 0, .2, .8}), without = matrix(2, 2, {.8, .2, .2, .8});
  EXPECT(seen(with, 0));
  EXPECT(!seen(with, 1));
  EXPECT(*specialisation(with) == *specialisation(without));
  EXPECT(*mutual_information_bits(with) == *mutual_information_bits(without));
  EXPECT(topic_mean_loads(with) == topic_mean_loads(without));
  EXPECT(!specialisation(matrix(2, 2, {.8, .2, 0, 0})));  // one topic differs from nothing
  EXPECT(!mutual_information_bits(matrix(2, 2, {.8, .2, 0, 0})));
  const LayerMetrics m =
      layer_metrics(matrix(2, 2, {.8, .2, 0, 0}), with.rows ? matrix(2, 2, {.8, .2, 0, 0}) : with);
  EXPECT(to_json(m, false)["specialisation"].is_null());
  EXPECT(std::isnan(layer_metrics_from(to_json(m, false), "x").scalar("specialisation")));

  TemporaryFolder tmp("metrics-unseen");
  const std::string path = tmp.path + "/u.csv";
  write_utilisation(path, with, {"a", "b, c", "d"});
  EXPECT(contains(utilisation_csv(with, {"a", "b, c", "d"}), "\n\"b, c\",n/a,n/a\n"));
  EXPECT(read_utilisation(path).u == with);
  Heatmap map{"t", "", {"a", "b", "d"}, {with}, {1}, {}};
  EXPECT(contains(as_text(map, false), "  b       n/a    n/a\n"));
  EXPECT(contains(as_text(map, false), "specialisation 0.3000"));
  EXPECT(contains(draw(map).svg_text(), "n/a: no routed token"));
}

TEST_CASE(
    "metrics: choices of all tokens are those of the topics by their tokens, and tokens without an expert are told") {
  LayerShares shares;
  shares.choices = {matrix(2, 3, {.5, .25, .25, 0, 1, 0}), matrix(2, 3, {.5, .25, .25, 0, 1, 0}), {30, 10}, 0.2};
  shares.mass = {matrix(2, 3, {.8, .1, .1, 0, 1, 0}), matrix(2, 3, {.8, .1, .1, 0, 1, 0}), {30, 10}, 0.25};
  LayerMetrics m;
  set_shares(m, shares, 2);  // the third column lies outside the experts
  EXPECT(m["choice_shares"].values == std::vector<double>{.375, .4375, .1875});
  EXPECT(m.scalar("unrouted") == 0.25);
  EXPECT(m.scalar("specialisation_choices") == doctest::Approx((.25 + .375) / 2));
  EXPECT(m.scalar("specialisation_mass") == doctest::Approx((.4 + .45) / 2));
}

TEST_CASE("metrics: several values become one as their row says") {
  const std::vector<double> values = {1, 2, 6}, gap = {1, std::nan("")};
  EXPECT(*combined(Over::mean, values) == 3);
  EXPECT(*combined(Over::sum, values) == 9);
  EXPECT(*combined(Over::largest, values) == 6);
  EXPECT(!combined(Over::mean, gap));
  EXPECT(!combined(Over::sum, {}));
  EXPECT(contains(error_of([&] { combined(Over::inputs, values); }), "inputs are added up first"));
}
