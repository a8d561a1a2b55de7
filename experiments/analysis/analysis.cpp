#include "experiments/analysis/analysis.h"

#include <algorithm>
#include <cmath>

#include "engine/core/check.h"
#include "experiments/analysis/trace_file.h"

namespace glia::results {
namespace {

// The words of which an expert has the largest share, and of equal shares the more frequent.
std::vector<FavouriteWord> favourites(const LayerCounts& c, int expert, const std::vector<int32_t>& ids, int most) {
  std::vector<FavouriteWord> words;
  for (size_t row = 0; row < c.words.size(); ++row)
    if (const uint32_t chosen = c.words_experts[row * size_t(c.n_experts) + size_t(expert)];
        c.words[row] >= kLeastWord && chosen > 0)
      words.push_back({ids[row], c.words[row], double(chosen) / double(c.words[row])});
  const size_t count = std::min(words.size(), size_t(most));
  std::partial_sort(words.begin(), words.begin() + long(count), words.end(), [](const auto& a, const auto& b) {
    return a.share != b.share ? a.share > b.share : a.tokens != b.tokens ? a.tokens > b.tokens : a.id < b.id;
  });
  words.resize(count);
  return words;
}

LayerAnalysis layer_analysis(const LayerCounts& counts, const std::vector<int32_t>& ids, int words) {
  LayerAnalysis layer{layer_metrics(counts), reading_of(counts), co_activation(counts), {}, {}};
  for (const MetricRow* row : metric_rows(Stage::routing))
    layer.chance.push_back(row->chance ? std::optional(row->chance(counts))
                           : row->even ? std::optional(row->even(counts.n_experts))
                                       : std::nullopt);
  for (int e = 0; !ids.empty() && e < counts.n_experts; ++e)
    layer.words.push_back(favourites(counts, e, ids, words));
  return layer;
}

// What all chunks are added to. Layers and pairs of layers do not know of each other, so threads share them out and
// every sum has one order.
struct Sums {
  std::vector<LayerCounts> layers;
  std::vector<LayerPair> pairs;
  std::vector<std::vector<int64_t>> firsts;  // [L, E + 1] first choices; the last: of nobody
  std::optional<Signatures> signatures;

  explicit Sums(const TraceFile& trace)
      : pairs(layer_pairs(trace.layers(), trace.n_experts())),
        firsts(size_t(trace.layers()), std::vector<int64_t>(size_t(trace.n_experts()) + 1)) {
    for (int l = 0; l < trace.layers(); ++l) layers.emplace_back(l, trace.n_experts(), trace.topics());
    if (!trace.labels().empty())
      signatures.emplace(trace.offsets(), trace.labels(), trace.layers(), trace.n_experts());
  }
  void add(const TokenTrace& chunk) {
    check_sizes(chunk);
#pragma omp parallel for schedule(dynamic)
    for (int l = 0; l < int(layers.size()); ++l) layers[size_t(l)].add(chunk);
    const std::vector<int32_t> first = first_choices(chunk);
#pragma omp parallel for schedule(dynamic)
    for (int i = 0; i < int(pairs.size()); ++i) glia::results::add(pairs[size_t(i)], first, chunk.tokens);
    for (size_t i = 0; i < first.size(); ++i) {
      std::vector<int64_t>& counts = firsts[i / size_t(chunk.tokens)];
      ++counts[first[i] >= 0 ? size_t(first[i]) : counts.size() - 1];
    }
    if (signatures) signatures->add(chunk);
  }
};

Json layer_json(const LayerAnalysis& layer, size_t number, const std::vector<std::string>& words) {
  Json json = {{"layer", number}, {"metrics", to_json(layer.metrics, false)}, {"chance", Json::object()}};
  const auto rows = metric_rows(Stage::routing);
  for (size_t i = 0; i < rows.size(); ++i)
    if (layer.chance[i]) json["chance"][rows[i]->name] = *layer.chance[i];
  json["utilisation"] = rows_json(layer.reading.all);
  for (const auto& list : layer.words) {
    Json& expert = json["words"].emplace_back(Json::array());
    for (const FavouriteWord& word : list)
      expert.push_back(
          {{"id", word.id}, {"word", word_name(words, word.id)}, {"tokens", word.tokens}, {"share", word.share}});
  }
  return json;
}

}  // namespace

TraceAnalysis analyse(const TraceFile& trace, int words_an_expert) {
  Sums sums(trace);
  trace.for_each_chunk([&](const TokenTrace& chunk) { sums.add(chunk); });
  TraceAnalysis a{trace.title(),
                  trace.path(),
                  trace.tokens(),
                  trace.sequences(),
                  trace.slots(),
                  trace.n_experts(),
                  trace.topic_names(),
                  {},
                  {},
                  {}};
  for (const LayerCounts& counts : sums.layers)
    a.layers.push_back(layer_analysis(counts, trace.word_ids(), words_an_expert));
  for (const LayerPair& pair : sums.pairs) {
    const Joint permuted =
        permuted_joint(sums.firsts[size_t(pair.a)], sums.firsts[size_t(pair.b)], uint32_t(a.pairs.size()));
    a.pairs.push_back({pair.a, pair.b, matched_overlap(pair.joint), matched_overlap(permuted),
                       normalised_information(pair.joint), normalised_information(permuted)});
  }
  if (sums.signatures) a.probe = sums.signatures->probe(trace.topics());
  return a;
}

Json rows_json(const Matrix& m) {
  Json rows = Json::array();
  for (int r = 0; r < m.rows; ++r)
    rows.push_back(
        std::vector<double>(m.values.begin() + long(r) * m.cols, m.values.begin() + long(r + 1) * m.cols));
  return rows;
}

std::string word_name(const std::vector<std::string>& words, int32_t id) {
  return size_t(id) < words.size() && !words[size_t(id)].empty() ? words[size_t(id)] : fmt::format("#{}", id);
}

Json to_json(const TraceAnalysis& a, const std::vector<std::string>& words) {
  Json json = {{"title", a.title},       {"trace", a.path},  {"tokens", a.tokens}, {"sequences", a.sequences},
               {"experts", a.n_experts}, {"slots", a.slots}, {"topics", a.topics}, {"layers", Json::array()}};
  for (size_t l = 0; l < a.layers.size(); ++l) json["layers"].push_back(layer_json(a.layers[l], l + 1, words));
  json["layer_pairs"] = Json::array();
  for (const PairAnalysis& p : a.pairs)
    json["layer_pairs"].push_back({{"layers", {p.a + 1, p.b + 1}},
                                   {"matched_overlap", p.matched},
                                   {"matched_overlap_permuted", p.matched_chance},
                                   {"normalised_information", p.information},
                                   {"normalised_information_permuted", p.information_chance}});
  if (a.probe)
    json["topic_probe"] = {{"accuracy", a.probe->accuracy},
                           {"chance", a.probe->chance},
                           {"train_sequences", a.probe->train},
                           {"test_sequences", a.probe->test}};
  return json;
}

Json to_json(const std::vector<LayerAgreement>& layers) {
  Json json = Json::array();
  for (const LayerAgreement& l : layers)
    json.push_back({{"layer", l.layer + 1},
                    {"saturation_first", l.same_first},
                    {"saturation_first_chance", l.chance_same_first},
                    {"saturation", l.same},
                    {"saturation_chance", l.chance_same},
                    {"matched_overlap", l.matched},
                    {"matched_overlap_permuted", l.chance()},
                    {"p", l.p()},
                    {"normalised_information", l.information}});
  return json;
}

}  // namespace glia::results
