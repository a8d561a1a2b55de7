#include "experiments/report/of_runs/knock_out_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>

#include "engine/core/check.h"
#include "engine/core/json.h"
#include "experiments/report/of_runs/rows_table.h"

namespace glia::results {
namespace {

// A measure's values in analysis.json, and how losing is told of them: points of accuracy, or nats.
struct Measured {
  const char *key, *unit;
  double scale;  // of what is lost, which is above 0 where the model is worse
  int digits;
};
constexpr Measured kMeasures[] = {{"accuracy", "points of accuracy", -100, 2},
                                  {"word_loss", "nats a word", 1, 4},
                                  {"loss", "nats a masked piece", 1, 4}};

// Of a run, or means over runs.
struct Asked {
  const Measured* measure = nullptr;
  int64_t rows = 0, runs = 0;
  double mean = 0, most = 0, idle = 0, without_first = 0, first_alone = 0, random = 0, alike = 0;
};

// The values that are means over runs; `random` and `alike` are the last layer's.
constexpr double Asked::*kMeans[] = {&Asked::mean,        &Asked::most,   &Asked::idle, &Asked::without_first,
                                     &Asked::first_alone, &Asked::random, &Asked::alike};

Asked read(const Json& json, const Json& knock_out) {
  Asked a;
  for (const Measured& m : kMeasures)
    if (!a.measure && knock_out.contains(m.key)) a.measure = &m;
  if (!a.measure) throw Error("knock_out has none of accuracy, word_loss and loss");
  // An expert's `lost` is positive where the model is worse without it, whatever the measure.
  const double lost_scale = std::abs(a.measure->scale), whole = knock_out.at(a.measure->key).get<double>();
  const auto lost = [&](const char* key) { return a.measure->scale * (knock_out.at(key).get<double>() - whole); };
  a.rows = knock_out.at("rows").get<int64_t>(), a.runs = 1;
  a.without_first = lost("without_first"), a.first_alone = lost("first_alone");
  int64_t experts = 0;
  a.most = -std::numeric_limits<double>::infinity();
  for (const Json& layer : knock_out.at("layers"))
    for (const Json& value : layer.at("lost")) {
      const double one = lost_scale * value.get<double>();
      a.mean += one, a.most = std::max(a.most, one), a.idle += one <= 0;
      ++experts;
    }
  if (experts == 0) throw Error("knock_out has no experts");
  a.mean /= double(experts);
  const Json& last = json.at("states").back();
  const auto draws = last.at("specialisation_random_router").get<std::vector<double>>();
  a.random = statistics::estimate(draws).mean.value_or(std::numeric_limits<double>::quiet_NaN());
  const Json& alike = last.at("expert_similarity_mean");
  a.alike = alike.is_number() ? alike.get<double>() : std::numeric_limits<double>::quiet_NaN();
  return a;
}

// None where nobody asked.
std::optional<Asked> read(const std::string& folder) {
  const std::string path = folder + "/analysis.json";
  if (!std::filesystem::exists(path)) return {};
  const Json json = read_json_object(path);
  const auto found = json.find("knock_out");
  if (found == json.end()) return {};
  try {
    return read(json, *found);
  } catch (const std::exception& problem) {
    fail_input("{}: expected what tools/analyse --knock-out writes, got {}", path, problem.what());
  }
}

// By configuration.
using AskedAgain = std::map<std::string, Asked>;

AskedAgain asked_again(const Listing& listing) {
  AskedAgain all;
  const Asked* first = nullptr;
  for (const Run& run : listing.runs) {
    if (run.state != RunState::done) continue;
    const std::optional<Asked> one = read(run.folder);
    if (!one) continue;
    if (first && (one->measure != first->measure || one->rows != first->rows))
      fail_input("{}/analysis.json: expected {} of {} test rows as of the other runs, got {} of {}", run.folder,
                 first->measure->key, first->rows, one->measure->key, one->rows);
    Asked& mean = all[run.config.config];
    if (!first) first = &mean;
    mean.measure = one->measure, mean.rows = one->rows, ++mean.runs;
    for (const auto value : kMeans) mean.*value += (*one.*value - mean.*value) / double(mean.runs);
  }
  return all;
}

std::optional<double> mean_of(const ConfigSummary& c, const std::string& metric) {
  const Metric* m = c.find(metric);
  return m ? m->estimate.mean : std::nullopt;
}

std::string told(double value, int digits, const char* sign = "") {
  return std::isfinite(value) ? fmt::format(fmt::runtime(fmt::format("{{:{}.{}f}}", sign, digits)), value)
                              : kNotAvailable;
}

Table knock_out_table(const Summary& s, const AskedAgain& all) {
  Table t;
  t.title = "Knock-out";
  if (all.empty()) return t;
  const Measured& measure = *all.begin()->second.measure;
  t.header = {"configuration", "seeds",       "without one",    "the most",      "idle",
              "without first", "first alone", "specialisation", "random router", "similarity"};
  const std::string specialisation = layer_metric(kSpecialisation, s.layers);
  for (const ConfigSummary& c : s.configs) {
    const auto it = all.find(c.config);
    if (it == all.end()) continue;
    const Asked& a = it->second;
    const auto lost = [&](double value) { return told(value, measure.digits, "+"); };
    const std::optional<double> own = mean_of(c, specialisation);
    t.rows.push_back({c.config, std::to_string(a.runs), lost(a.mean), lost(a.most), told(a.idle, 1),
                      lost(a.without_first), lost(a.first_alone), own ? told(*own, 4) : kNotAvailable,
                      told(a.random, 4), told(a.alike, 3)});
  }
  t.note = fmt::format(
      "saved models asked again (tools/analyse --knock-out), {} lost on {} test rows, means over the seeds that were asked: "
      "without one expert, in the mean over all layers' experts and for the one that costs the most; idle: how many experts' "
      "absence costs nothing; without each token's first choice, and with it alone. Of the last layer: specialisation, what "
      "routers with random weights reach on the same states, and how alike its experts' outputs are (linear CKA).",
      measure.unit, all.begin()->second.rows);
  return t;
}

Table specialisation_foretells_table(const Summary& s, const AskedAgain& all) {
  struct Question {
    std::string name;
    std::function<std::optional<double>(const ConfigSummary&)> value;
  };
  const auto of_asked = [&](double Asked::*value) {
    return [&all, value](const ConfigSummary& c) -> std::optional<double> {
      const auto it = all.find(c.config);
      return it == all.end() ? std::nullopt : std::optional(it->second.*value);
    };
  };
  const bool words = tells_words(s), enough_seeds = s.seeds.size() >= size_t(kLeastSeeds);
  std::vector<Question> questions = {
      {words ? "loss a word" : "test accuracy",
       [&](const ConfigSummary& c) { return mean_of(c, words ? "word_loss" : "accuracy"); }},
      {"lost without one expert", of_asked(&Asked::mean)},
      {"lost without the one that costs the most", of_asked(&Asked::most)},
      {"experts whose absence costs nothing", of_asked(&Asked::idle)},
      {"lost without first choices", of_asked(&Asked::without_first)},
      {"lost with first choices alone", of_asked(&Asked::first_alone)},
      {"specialisation of random routers on the same states", of_asked(&Asked::random)},
      {"similarity of the experts", of_asked(&Asked::alike)}};
  Table t;
  t.title = "What specialisation foretells";
  t.header = {"of a configuration", "configurations", "Spearman's ρ", "p"};
  for (const Question& q : questions) {
    statistics::Sample specialisation, other;
    for (const ConfigSummary& c : s.configs) {
      const std::optional<double> x = mean_of(c, layer_metric(kSpecialisation, s.layers)), y = q.value(c);
      if (!x || !y || !std::isfinite(*y)) continue;
      specialisation.push_back(*x), other.push_back(*y);
    }
    if (specialisation.size() < size_t(kLeastConfigurations)) continue;
    const auto c = statistics::spearman(specialisation, other);
    t.rows.push_back({q.name, std::to_string(specialisation.size()),
                      c ? fmt::format("{:+.2f}", c->rho) : kNotAvailable,
                      format_p(c && enough_seeds ? std::optional(c->p) : std::nullopt)});
  }
  t.note = fmt::format(
      "rank correlation of the last layer's specialisation with each, over the configurations that have both, each a point (the mean "
      "over its seeds): what holds among these configurations, not what one of them does to itself. Uncorrected{}.",
      enough_seeds ? "" : fmt::format("; no p with fewer than {} seeds", kLeastSeeds));
  return t;
}

}  // namespace

Table knock_out_table(const Summary& s, const Listing& listing) { return knock_out_table(s, asked_again(listing)); }

Table specialisation_foretells_table(const Summary& s, const Listing& listing) {
  return specialisation_foretells_table(s, asked_again(listing));
}

std::vector<Table> tables_of_runs(const Summary& s, const Listing& listing) {
  const AskedAgain all = asked_again(listing);
  std::vector<Table> tables;
  for (Table& table :
       std::array{test_rows_table(s, listing), specialisation_foretells_table(s, all), knock_out_table(s, all)})
    if (!table.rows.empty()) tables.push_back(std::move(table));
  return tables;
}

}  // namespace glia::results
