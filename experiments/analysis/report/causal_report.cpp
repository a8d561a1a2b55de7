#include <cmath>

#include "experiments/analysis/causal.h"
#include "experiments/analysis/report/matrix_picture.h"

namespace glia {
namespace {

using results::Json;
using results::Matrix;
using results::rows_json;
using results::Table;

// How a measure's values are told: points of accuracy with two digits, nats with four.
struct Told {
  const char *title, *lost, *value, *column;
  const char *key, *topic_key, *kept_key;  // in analysis.json
  double scale;
  int digits;

  std::string operator()(double value) const {
    return std::isfinite(value) ? fmt::format("{:.{}f}", scale * value, digits) : "n/a";
  }
};

const Told& told(const Causal& c) {
  static constexpr Told kAccuracy = {"Accuracy", "points of accuracy", "accuracy in points", "accuracy",
                                     "accuracy", "class_accuracy",     "kept_accuracy",      100,
                                     2},
                        kWord = {"Nats a word",
                                 "nats a word",
                                 "nats a word",
                                 "nats a word",
                                 "word_loss",
                                 "topic_word_loss",
                                 "kept_word_loss",
                                 1,
                                 4},
                        kPiece = {"Nats a masked piece",
                                  "nats a masked piece",
                                  "nats a masked piece",
                                  "nats a masked piece",
                                  "loss",
                                  "topic_loss",
                                  "kept_loss",
                                  1,
                                  4};
  switch (c.measure) {
    case Causal::Measure::kNatsAWord: return kWord;
    case Causal::Measure::kNatsAPiece: return kPiece;
    case Causal::Measure::kAccuracy: break;
  }
  return kAccuracy;
}

std::vector<std::string> expert_names(const Causal& c) {
  std::vector<std::string> names;
  for (size_t e = 0; e < c.lost[0].size(); ++e) names.push_back(fmt::format("e{}", e));
  return names;
}

const char* way(const Causal& c) {
  return c.masked ? "its logit is masked, so that the router chooses another"
                  : "its tokens keep their other experts and lose what it gave them";
}

Table lost_table(const Causal& c) {
  const Told& shown = told(c);
  Table t;
  t.title = fmt::format("{} lost without an expert", shown.title);
  t.note = fmt::format(
      "{} on {} test rows (whole: {}): {}; below 0 the model is better without it. Then the same of each "
      "topic's rows.",
      shown.lost, c.rows, shown(c.whole), way(c));
  t.header = {"layer and topic"};
  for (const std::string& name : expert_names(c)) t.header.push_back(name);
  for (size_t l = 0; l < c.lost.size(); ++l) {
    t.rows.push_back({fmt::format("{}", l + 1)});
    for (const double lost : c.lost[l]) t.rows.back().push_back(shown(lost));
    for (int topic = 0; topic < int(c.topics.size()); ++topic) {
      t.rows.push_back({fmt::format("{} {}", l + 1, c.topics[size_t(topic)])});
      for (int e = 0; e < c.lost_by_topic[l].cols; ++e)
        t.rows.back().push_back(shown(c.lost_by_topic[l](topic, e)));
    }
  }
  return t;
}

Table kept_table(const Causal& c) {
  const Told& shown = told(c);
  Table t;
  t.title = "With a topic's busiest experts alone";
  t.note = fmt::format(
      "{} on the topic's own rows when each layer may choose among the m experts alone that have most of the "
      "topic's gates; the last column is the whole model.",
      shown.value);
  t.header = {"topic"};
  for (const int m : c.kept) t.header.push_back(fmt::format("m = {}", m));
  for (int topic = 0; topic < c.kept_alone.rows; ++topic) {
    t.rows.push_back({c.topics[size_t(topic)]});
    for (int i = 0; i < c.kept_alone.cols; ++i) t.rows.back().push_back(shown(c.kept_alone(topic, i)));
  }
  return t;
}

Table first_table(const Causal& c) {
  const Told& shown = told(c);
  Table t;
  t.title = "Without each token's first choice";
  t.note = fmt::format(
      "{}; in all layers at once, what is left of a token's gates scaled to their former sum, a token of one "
      "expert left with none.",
      shown.value);
  t.header = {"choices", shown.column};
  t.rows = {{"all", shown(c.whole)},
            {"without the first", shown(c.without_first)},
            {"the first alone", shown(c.first_alone)}};
  return t;
}

}  // namespace

Json to_json(const Causal& c) {
  const Told& keys = told(c);
  Json json = {{"rows", c.rows},
               {"way", c.masked ? "masked" : "removed"},
               {"topics", c.topics},
               {keys.key, c.whole},
               {keys.topic_key, c.topic_whole},
               {"without_first", c.without_first},
               {"first_alone", c.first_alone},
               {"kept_experts", c.kept},
               {keys.kept_key, rows_json(c.kept_alone)}};
  for (size_t l = 0; l < c.lost.size(); ++l)
    json["layers"].push_back(
        {{"layer", l + 1}, {"lost", c.lost[l]}, {"lost_by_topic", rows_json(c.lost_by_topic[l])}});
  return json;
}

std::vector<Table> causal_tables(const Causal& c) { return {lost_table(c), kept_table(c), first_table(c)}; }

drawing::Picture lost_picture(const Causal& c) {
  results::MatrixPicture picture;
  picture.title = "What each expert is needed for";
  picture.note = fmt::format("{} that a topic loses without the expert: {}", told(c).lost, way(c));
  picture.rows = c.topics, picture.columns = expert_names(c);
  for (size_t l = 0; l < c.lost_by_topic.size(); ++l) {
    Matrix panel = c.lost_by_topic[l];
    for (double& value : panel.values) value *= told(c).scale;
    picture.panels.push_back(std::move(panel));
    picture.captions.push_back(fmt::format("layer {}", l + 1));
  }
  return draw(picture);
}

}  // namespace glia
