// Traces of any model: numpy's answers, files that are refused by name, and what does not depend on the chunks.
#include "experiments/analysis/analysis.h"

#include <cmath>
#include <cstring>

#include "engine/core/file.h"
#include "engine/core/random/rng.h"
#include "experiments/analysis/report/analysis_report.h"
#include "experiments/analysis/trace_file.h"
#include "tests/temporary_folder.h"
#include "tests/test.h"

using namespace glia;
using namespace glia::results;
using namespace glia::test;

namespace {

const std::string kFixtures = "tests/fixtures/routing/";

Json expected() { return Json::parse(read_file(kFixtures + "expected.json")); }

bool close(double value, double wanted) { return std::abs(value - wanted) <= 1e-6; }

void expect_close(const Json& value, const Json& wanted) {
  if (wanted.is_array()) {
    REQUIRE(value.size() == wanted.size());
    for (size_t i = 0; i < wanted.size(); ++i) expect_close(value[i], wanted[i]);
  } else {
    INFO(value.dump(), " for ", wanted.dump());
    EXPECT(close(value.get<double>(), wanted.get<double>()));
  }
}

// A safetensors file made of strings.
std::string file_of(const std::string& header, const std::string& data) {
  std::string content(8, '\0');
  const uint64_t length = header.size();
  std::memcpy(content.data(), &length, 8);
  return content + header + data;
}

template <class T> std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

// Two tokens, one layer, two slots; each part may be replaced by a bad one.
struct Parts {
  std::vector<int32_t> experts = {0, 1, 2, -1}, offsets = {0, 1, 2}, labels = {0, 1}, ids = {5, 7};
  std::vector<float> gates = {0.75f, 0.25f, 1, 0};
  std::vector<int64_t> wide;  // instead of `experts`, as torch has them
  std::string experts_type = "I32", shape = "[2,1,2]", gates_shape = "[2,1,2]", metadata = R"("n_experts":"3")";
  bool with_gates = true, with_offsets = true, with_sequences = true;

  std::string content() const {
    std::string header = "{\"__metadata__\":{" + metadata + "}", data;
    const auto add = [&](const std::string& name, const std::string& type, const std::string& extents,
                         const std::string& bytes) {
      header += fmt::format(R"(,"{}":{{"dtype":"{}","shape":{},"data_offsets":[{},{}]}})", name, type, extents,
                            data.size(), data.size() + bytes.size());
      data += bytes;
    };
    if (wide.empty()) add("experts", experts_type, shape, bytes_of(experts));
    else add("experts", "I64", shape, bytes_of(wide));
    if (with_gates) add("gates", "F32", gates_shape, bytes_of(gates));
    if (!with_sequences) return file_of(header + "}", data);
    if (with_offsets) add("offsets", "I32", fmt::format("[{}]", offsets.size()), bytes_of(offsets));
    add("labels", "I32", fmt::format("[{}]", labels.size()), bytes_of(labels));
    add("ids", "I32", fmt::format("[{}]", ids.size()), bytes_of(ids));
    return file_of(header + "}", data);
  }
};

struct Written {
  TemporaryFolder tmp{"trace"};
  std::string path = tmp.path + "/t.safetensors";
  std::string refusal(const std::string& content) {
    write_file_atomic(path, content);
    return error_of([&] { analyse(TraceFile(path)); });
  }
  template <class Change> std::string refusal_of(Change change) {
    Parts parts;
    change(parts);
    return refusal(parts.content());
  }
};

// 50,000 tokens in sequences of 100, three layers, up to two of six experts.
TraceContent long_trace() {
  TraceContent t;
  t.title = "long", t.tokens = 50'000, t.layers = 3, t.slots = 2, t.n_experts = 6;
  t.topics = {"a", "b"};
  t.offsets.push_back(0);
  for (uint32_t n = 0; n < 50'000; ++n) {
    if (n % 100 == 99) {
      t.offsets.push_back(int32_t(n) + 1);
      t.labels.push_back(int32_t(n / 100 % 2));
    }
    t.ids.push_back(int32_t(n % 37));
    for (uint32_t l = 0; l < 3; ++l) {
      const PhiloxBlock r = random_block(3, purpose::kTest, n, l);
      const int a = int((r.word[0] % 5) + (n / 100 % 2)), b = (a + 1 + int(r.word[1] % 5)) % 6;
      const float g = 0.5f + float(r.word[2] % 1000) / 2001.0f;
      const bool nobody = r.word[3] % 64 == 0;
      t.experts.insert(t.experts.end(), {nobody ? -1 : a, nobody ? -1 : b});
      t.gates.insert(t.gates.end(), {nobody ? 0 : g, nobody ? 0 : 1 - g});
    }
  }
  return t;
}

}  // namespace

TEST_CASE("analysis: every metric is what numpy makes of the same trace") {
  const Json wanted = expected();
  for (const std::string name : {"chosen", "logits"}) {
    const TraceAnalysis a = analyse(TraceFile(kFixtures + name + ".safetensors"));
    const Json json = to_json(a, {});
    REQUIRE(json["layers"].size() == wanted[name]["layers"].size());
    int rows = 0;
    for (size_t l = 0; l < json["layers"].size(); ++l)
      for (const auto& [metric, value] : wanted[name]["layers"][l].items()) {
        INFO(name, ", layer ", l + 1, ": ", metric);
        if (metric == "chance")
          for (const auto& [row, chance] : value.items()) expect_close(json["layers"][l]["chance"][row], chance);
        else expect_close(json["layers"][l]["metrics"][metric], value);
        ++rows;
      }
    EXPECT(rows >= 60);
    REQUIRE(a.probe);
    EXPECT(close(a.probe->accuracy, wanted[name]["probe"]["accuracy"]));
    EXPECT(close(a.probe->chance, wanted[name]["probe"]["chance"]));
    EXPECT(a.probe->train == wanted[name]["probe"]["train"].get<int>());
  }
  const Json pairs = to_json(analyse(TraceFile(kFixtures + "chosen.safetensors")), {})["layer_pairs"];
  REQUIRE(pairs.size() == 3);
  for (size_t i = 0; i < 3; ++i)
    for (const auto& [key, value] : wanted["chosen"]["pairs"][i].items()) expect_close(pairs[i][key], value);
}

TEST_CASE("analysis: two traces agree as numpy says, and by chance as independent choices do") {
  const TraceFile a(kFixtures + "chosen.safetensors"), b(kFixtures + "other.safetensors");
  const auto layers = agreement(a, b, 50);
  const Json json = to_json(layers), wanted = expected()["agreement"];
  REQUIRE(layers.size() == wanted.size());
  for (size_t l = 0; l < layers.size(); ++l) {
    for (const auto& [key, value] : wanted[l].items())
      if (key != "independent") expect_close(json[l][key], value);
    // Matching finds a little more in permuted tokens than in the mean of all permutations, never less.
    const double independent = wanted[l]["independent"];
    EXPECT(layers[l].chance() > independent - 0.005);
    EXPECT(layers[l].chance() < independent + 0.06);
    EXPECT(layers[l].p() == doctest::Approx(1.0 / 51));
    EXPECT(std::ranges::is_sorted(layers[l].permuted));
    EXPECT(layers[l].permuted.front() < layers[l].permuted[25]);  // each is another permutation
  }
  for (const LayerAgreement& same : agreement(a, a, 1)) {
    EXPECT(same.same == doctest::Approx(1));
    EXPECT(same.same_first == doctest::Approx(1));
    EXPECT(same.matched == doctest::Approx(1));
    EXPECT(same.information == doctest::Approx(1));
  }
  Written w;
  write_file_atomic(w.path, Parts().content());
  EXPECT(contains(error_of([&] { agreement(a, TraceFile(w.path), 1); }), "t.safetensors: expected the"));
}

TEST_CASE("analysis: what two layers share by chance does not depend on the order of the tokens") {
  // The first half of the tokens, a topic, has the experts 0 … 3, the other half 4 … 7; within it layers know nothing of
  // each other. Sequences are longer than a chunk.
  TraceContent sorted, mixed;
  for (TraceContent* t : {&sorted, &mixed}) {
    t->tokens = 24'000, t->layers = 2, t->slots = 1, t->n_experts = 8;
    for (uint32_t n = 0; n < 24'000; ++n)
      for (uint32_t l = 0; l < 2; ++l) {
        const uint32_t at = t == &sorted ? n : n % 2 * 12'000 + n / 2;
        t->experts.push_back(int(at / 12'000 * 4 + random_block(5, purpose::kTest, at, l).word[0] % 4));
        t->gates.push_back(1);
      }
  }
  Written w;
  write_trace(w.path, sorted);
  const PairAnalysis a = analyse(TraceFile(w.path)).pairs.at(0);
  write_trace(w.path, mixed);
  const PairAnalysis b = analyse(TraceFile(w.path)).pairs.at(0);
  EXPECT(a.information == doctest::Approx(1.0 / 3).epsilon(0.02));  // 1 bit of 3: the topic
  EXPECT(a.information == b.information);
  EXPECT(a.matched_chance == b.matched_chance);
  EXPECT(a.matched_chance == doctest::Approx(0.125).epsilon(0.1));
  EXPECT(a.information_chance == b.information_chance);
  EXPECT(a.information_chance < 0.002);
}

TEST_CASE("analysis: permuted joint counts keep their sums and are spread as permutations spread them") {
  const std::vector<int64_t> rows = {30, 0, 15, 5}, columns = {20, 25, 5};  // the last of each: without an expert
  double mean = 0, square = 0, nobody = 0;
  for (uint32_t draw = 0; draw < 4000; ++draw) {
    const Joint joint = permuted_joint(rows, columns, draw);
    REQUIRE(joint.counts.rows == 3);
    REQUIRE(joint.counts.cols == 2);
    for (int e = 0; e < 3; ++e) {
      EXPECT(joint.counts(e, 0) + joint.counts(e, 1) <= double(rows[size_t(e)]));
      EXPECT(joint.counts(e, 0) + joint.counts(e, 1) >= double(rows[size_t(e)] - columns[2]));
    }
    mean += joint.counts(0, 0) / 4000, square += joint.counts(0, 0) * joint.counts(0, 0) / 4000;
    nobody += (50 - joint.total) / 4000;
  }
  // Hypergeometric: 30 · 20 / 50, and 12 · (30 / 50) · (20 / 49).
  EXPECT(mean == doctest::Approx(12).epsilon(0.01));
  EXPECT(square - mean * mean == doctest::Approx(12.0 * 30 / 50 * 20 / 49).epsilon(0.1));
  EXPECT(nobody == doctest::Approx(0.5).epsilon(0.1));
}

TEST_CASE("analysis: a file's slots may stand in any order") {
  Written w;
  TraceContent turned = long_trace();
  write_trace(w.path, turned);
  const TraceFile file(w.path);
  const TraceAnalysis a = analyse(file);
  for (size_t i = 0; i < turned.experts.size();
       i += 4)  // of every other pair of slots; equal gates stay as they are
    if (turned.gates[i] > turned.gates[i + 1]) {
      std::swap(turned.experts[i], turned.experts[i + 1]);
      std::swap(turned.gates[i], turned.gates[i + 1]);
    }
  const std::string path = w.tmp.path + "/turned.safetensors";
  write_trace(path, turned);
  const TraceFile other(path);
  const TraceAnalysis b = analyse(other);
  for (size_t l = 0; l < 3; ++l) {
    EXPECT(a.layers[l].metrics.scalar("gate_margin") > 0.2);
    EXPECT(b.layers[l].metrics.scalar("gate_margin") == a.layers[l].metrics.scalar("gate_margin"));
    EXPECT(b.pairs[l].matched == a.pairs[l].matched);
  }
  for (const LayerAgreement& same : agreement(file, other, 1)) EXPECT(same.same_first == doctest::Approx(1));
}

TEST_CASE("analysis: traces of other tokens are refused, though the same words appear in the same order") {
  Written w;
  TraceContent content = long_trace();
  write_trace(w.path, content);
  std::swap(content.ids[40'000], content.ids[40'001]);
  const std::string path = w.tmp.path + "/other.safetensors";
  write_trace(path, content);
  const std::string message = error_of([&] { agreement(TraceFile(w.path), TraceFile(path), 1); });
  EXPECT(contains(message, fmt::format("got other ids: {} for {} at token 40000", 40'001 % 37, 40'000 % 37)));
}

TEST_CASE("analysis: saturation's chance is that of the sets that there are") {
  TraceContent few, many;  // one expert of four, and all of them: a quarter is common, whatever the routing
  for (TraceContent* t : {&few, &many}) t->tokens = 100, t->layers = 1, t->n_experts = 4;
  few.slots = 1, many.slots = 4;
  for (int n = 0; n < 100; ++n) {
    few.experts.push_back(n % 4), few.gates.push_back(1);
    for (int e = 0; e < 4; ++e) many.experts.push_back(e), many.gates.push_back(0.25f);
  }
  Written w;
  const std::string path = w.tmp.path + "/many.safetensors";
  write_trace(w.path, few), write_trace(path, many);
  const LayerAgreement a = agreement(TraceFile(w.path), TraceFile(path), 1).at(0);
  EXPECT(a.same == doctest::Approx(0.25));
  EXPECT(a.chance_same == doctest::Approx(0.25));
  EXPECT(a.chance_same_first == doctest::Approx(0.25));
  const LayerAgreement whole = agreement(TraceFile(path), TraceFile(path), 1).at(0);
  EXPECT(whole.chance_same == doctest::Approx(1));
}

TEST_CASE("analysis: chance is told anew where a layer's tokens have another number of experts") {
  TraceContent t;  // one expert of four in the first two layers, two in the third
  t.tokens = 40, t.layers = 3, t.slots = 2, t.n_experts = 4;
  for (int n = 0; n < 40; ++n)
    for (int l = 0; l < 3; ++l) {
      t.experts.insert(t.experts.end(), {n % 4, l < 2 ? -1 : (n + 1) % 4});
      t.gates.insert(t.gates.end(), {l < 2 ? 1.0f : 0.5f, l < 2 ? 0.0f : 0.5f});
    }
  Written w;
  write_trace(w.path, t);
  const TraceAnalysis a = analyse(TraceFile(w.path));
  const Table table = all_tables(a, {})[0];
  std::vector<std::string> first;
  for (const auto& row : table.rows) first.push_back(row[0]);
  EXPECT(first == std::vector<std::string>{"(chance)", "1", "2", "(chance)", "3"});
}

TEST_CASE("analysis: traces of models of the transformers library") {
  // Written by tests/peer/transformers_trace.py from small random models, by the lines that docs/analysis.md shows.
  const std::string folder = kFixtures + "transformers/";
  const Json wanted = Json::parse(read_file(folder + "expected.json"));
  REQUIRE(wanted.size() == 3);
  for (const auto& [name, model] : wanted.items()) {
    INFO(name);
    const TraceFile file(folder + name + ".safetensors");
    const TraceAnalysis a = analyse(file);
    EXPECT(a.n_experts == model["experts"].get<int>());
    EXPECT(a.slots == model["slots"].get<int>());
    EXPECT(a.title == name);
    REQUIRE(a.layers.size() == model["layers"].size());
    for (size_t l = 0; l < a.layers.size(); ++l)
      for (const auto& [metric, value] : model["layers"][l].items()) {
        INFO(metric);
        EXPECT(close(a.layers[l].metrics.scalar(metric), value.get<double>()));
      }
  }
}

TEST_CASE("analysis: a trace is what its chunks are together, and has the words that its experts prefer") {
  const TraceContent content = long_trace();
  Written w;
  write_trace(w.path, content);
  const TraceFile file(w.path);
  REQUIRE(file.tokens() > 3 * TraceFile::kChunk);
  EXPECT(file.topic_names() == content.topics);
  const TraceAnalysis a = analyse(file);
  TokenTrace whole;
  whole.tokens = content.tokens, whole.layers = 3, whole.slots = 2, whole.n_experts = 6, whole.topics = 2;
  whole.experts = content.experts, whole.gates = content.gates;
  std::vector<int32_t> topic, word = content.ids;
  std::vector<uint8_t> first;
  for (int n = 0; n < 50'000; ++n) topic.push_back(n / 100 % 2), first.push_back(n % 100 == 0);
  whole.topic = topic, whole.first = first, whole.word = word;
  for (int l = 0; l < 3; ++l) {
    const LayerMetrics in_memory = layer_metrics(whole, l);
    for (const MetricRow* row : metric_rows(Stage::routing)) {
      INFO(row->name);
      const auto &x = a.layers[size_t(l)].metrics[row->name].values, &y = in_memory[row->name].values;
      REQUIRE(x.size() == y.size());
      for (size_t i = 0; i < x.size(); ++i) EXPECT(x[i] == doctest::Approx(y[i]).epsilon(1e-12));
    }
    EXPECT(a.layers[size_t(l)].metrics.scalar("batch_violation") >
           a.layers[size_t(l)].metrics.scalar("max_violation"));
    REQUIRE(a.layers[size_t(l)].words.size() == 6);
    for (const auto& words : a.layers[size_t(l)].words) {
      REQUIRE(words.size() == 10);
      for (size_t i = 1; i < words.size(); ++i) EXPECT(words[i].share <= words[i - 1].share);
    }
  }
  // Expert 0 is never a first choice of topic b, nor expert 5 of topic a: a signature tells them apart.
  REQUIRE(a.probe);
  EXPECT(a.probe->accuracy > 0.9);
  EXPECT(a.probe->chance == doctest::Approx(0.5).epsilon(0.1));
  const auto tables = all_tables(a, {});
  const std::string page = analysis_html(a, tables, pictures(a));
  EXPECT(contains(page, "Routing of long"));
  EXPECT(contains(page, "a linear probe") == false);
  EXPECT(contains(page, "A linear probe names the topic of"));
  EXPECT(contains(page, "(chance)"));
  EXPECT(!contains(page, "href=\"http"));
  EXPECT(contains(as_text(tables[0]), "MaxVio"));
  EXPECT(pictures(a).size() == 3);
  // A partner's even share is not an expert's: (2 − 1) / (6 − 1) beside 1 / 6.
  for (const NamedPicture& picture : pictures(a)) {
    const std::string svg = picture.picture.svg_text();
    EXPECT(contains(svg, "by chance 20 %") == (picture.name == "co_activation"));
    EXPECT(!contains(svg, "even share"));  // nor do this trace's gates sum to 1
  }
}

TEST_CASE("analysis: a layer in which nobody has an expert is n/a, and the others are told") {
  TraceContent t = long_trace();
  for (size_t i = 0; i < t.experts.size(); ++i)  // the middle layer is a dense one
    if (i / 2 % 3 == 1) t.experts[i] = -1, t.gates[i] = 0;
  Written w;
  write_trace(w.path, long_trace());
  const TraceAnalysis whole = analyse(TraceFile(w.path));
  write_trace(w.path, t);
  const TraceAnalysis a = analyse(TraceFile(w.path));
  for (const size_t l : {0, 2})
    EXPECT(a.layers[l].metrics.scalar("gini") == whole.layers[l].metrics.scalar("gini"));
  EXPECT(std::isnan(a.layers[1].metrics.scalar("gini")));
  EXPECT(a.layers[1].metrics.scalar("unrouted") == 1);
  EXPECT(a.pairs[1].matched == whole.pairs[1].matched);  // of the layers 1 and 3
  EXPECT(a.pairs[0].matched == 0);
  EXPECT(a.pairs[0].matched_chance == 0);
  const std::string page = analysis_html(a, all_tables(a, {}), pictures(a)) + to_json(a, {}).dump();
  EXPECT(!contains(page, "nan"));
  EXPECT(!contains(page, "inf,"));
}

TEST_CASE(
    "analysis: experts may be int64, and a file of many chunks that does not say their number is read alike") {
  const TraceContent content = long_trace();
  Parts narrow, wide;
  narrow.with_sequences = wide.with_sequences = false;
  narrow.metadata = wide.metadata = R"("title":"long")";
  narrow.experts = content.experts, narrow.gates = wide.gates = content.gates;
  narrow.shape = narrow.gates_shape = wide.shape = wide.gates_shape = "[50000,3,2]";
  wide.wide.assign(content.experts.begin(), content.experts.end());
  Written w;
  std::string found[2];
  for (const Parts* parts : {&narrow, &wide}) {
    write_file_atomic(w.path, parts->content());
    const TraceAnalysis a = analyse(TraceFile(w.path));
    EXPECT(a.n_experts == 6);
    found[parts == &wide] = to_json(a, {}).dump();
  }
  EXPECT(found[0] == found[1]);
}

TEST_CASE("analysis: a trace's names command no terminal") {
  Written w;
  Parts parts;
  parts.metadata = R"("n_experts":"3","title":"a\u001b[31m\nb","topics":"[\"x\\u001b[2J\",\"y\"]")";
  write_file_atomic(w.path, parts.content());
  const TraceAnalysis a = analyse(TraceFile(w.path));
  EXPECT(a.title == "a\\x1b[31m\\nb");
  EXPECT(a.topics[0] == "x\\x1b[2J");
  Table table;
  table.header = {"word\x1b[1m"}, table.rows = {{"\x1b[2J"}};  // of a vocabulary
  EXPECT(!contains(as_text(table), "\x1b"));
}

TEST_CASE("analysis: a trace that is wrong is refused by what is wrong with it") {
  Written w;
  EXPECT(w.refusal(Parts().content()).empty());
  const auto says = [&](auto change, const std::string& part) {
    const std::string message = w.refusal_of(change);
    INFO(message);
    EXPECT(contains(message, w.path));
    EXPECT(contains(message, part));
    EXPECT(std::ranges::count(message, '\n') == 0);
  };
  says([](Parts& p) { p.experts[1] = 3; },
       "'experts': token 0, layer 1: expected one of 0 … 2, or -1 for nobody, got 3");
  says([](Parts& p) { p.experts[0] = -2; }, "or -1 for nobody, got -2");
  says([](Parts& p) { p.experts[1] = 0; }, "'experts': token 0, layer 1: expected each expert once, got 0 twice");
  says([](Parts& p) { p.gates[2] = std::nanf(""); },
       "'gates': token 1, layer 1, expert 2: expected a number of 0 or more, got nan");
  says([](Parts& p) { p.gates[2] = -1; }, "expected a number of 0 or more, got -1");
  says([](Parts& p) { p.gates[3] = 0.5f; },
       "'gates': token 1, layer 1: expected 0 where 'experts' has -1, nobody, got 0.5");
  says([](Parts& p) { p.wide = {0, 1, int64_t{1} << 32, -1}; }, "or -1 for nobody, got 4294967296");
  says(
      [](Parts& p) {
        p.offsets = {0, 2, 1};
      },
      "'offsets': expected [B + 1] from 0 to the 2 tokens, got 3 from 0 to 1");
  says(
      [](Parts& p) {
        p.offsets = {0, 0, 2};
      },
      "'offsets': expected them to increase, got 0 behind 0 at sequence 0");
  says(
      [](Parts& p) {
        p.offsets = {0, 3, 2};
      },
      "'offsets': expected them to increase, got 2 behind 3 at sequence 1");
  says([](Parts& p) { p.offsets = {0}; }, "'offsets': expected [B + 1]");
  says([](Parts& p) { p.with_offsets = false; }, "'labels': expected one a sequence of 'offsets' (0), got 2");
  says([](Parts& p) { p.labels = {0}; }, "'labels': expected one a sequence of 'offsets' (2), got 1");
  says([](Parts& p) { p.labels = {0, -1}; }, "'labels': expected 0 … 99999, got -1 at sequence 1");
  says([](Parts& p) { p.ids = {5}; }, "'ids': expected one a token (2), got 1");
  says([](Parts& p) { p.ids = {5, -7}; }, "got -7 at token 1");
  says([](Parts& p) { p.experts_type = "F32"; },
       "'experts': expected I32 or I64 of 3 dimensions, got F32 [2, 1, 2]");
  says([](Parts& p) { p.shape = "[4,1]"; }, "'experts': expected I32 or I64 of 3 dimensions, got I32 [4, 1]");
  says([](Parts& p) { p.gates_shape = "[1,2,2]"; },
       "expected gates of the experts' shape [2, 1, 2], got [1, 2, 2]");
  says([](Parts& p) { p.with_gates = false; }, "got experts without gates");
  says([](Parts& p) { p.metadata = R"("n_experts":"many")"; },
       "\"n_experts\": expected a whole number above 0, got \"many\"");
  says([](Parts& p) { p.metadata = R"("n_experts":"3","topics":"a")"; },
       "\"topics\": expected a JSON list of names");
  says([](Parts& p) { p.metadata = R"("n_experts":"3","topics":"[\"a\"]")"; }, "\"topics\": expected 2 names");
  const std::string whole = Parts().content();
  for (const size_t length : {size_t(0), size_t(5), size_t(40), whole.size() - 1}) {
    INFO(length);
    EXPECT(contains(w.refusal(whole.substr(0, length)), "not a usable safetensors file"));
  }
  const std::string header =
      R"({"__metadata__":{META},"logits":{"dtype":"F32","shape":[1,1,2],"data_offsets":[0,8]}})";
  const auto logits = [&](const std::string& meta, std::vector<float> values) {
    std::string text = header;
    text.replace(text.find("META"), 4, meta);
    return w.refusal(file_of(text, bytes_of(values)));
  };
  EXPECT(logits(R"("top_k":"1")", {1, 2}).empty());
  EXPECT(contains(logits("", {1, 2}), "expected \"top_k\" in the metadata"));
  EXPECT(contains(logits(R"("top_k":"3")", {1, 2}), "\"top_k\": expected 1 … 2 experts, got 3"));
  EXPECT(
      contains(logits(R"("top_k":"1","gates":"odd")", {1, 2}), "expected softmax or probabilities, got \"odd\""));
  EXPECT(contains(logits(R"("top_k":"1")", {1, std::nanf("")}),
                  "token 0, layer 1, expert 1: expected a number, got nan"));
  EXPECT(contains(error_of([&] { TraceFile(w.tmp.path + "/none"); }), "cannot open"));
  EXPECT(contains(error_of([&] { TraceFile file(w.tmp.path); }), "expected a file, found a directory"));
}
