#include <cmath>

#include "experiments/analysis/causal.h"
#include "experiments/analysis/report/matrix_picture.h"

namespace glia {
namespace {

using results::Json;
using results::Matrix;
using results::rows_json;
using results::Table;

std::string points(double share) { return std::isfinite(share) ? fmt::format("{:.2f}", 100 * share) : "n/a"; }

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
  Table t;
  t.title = "Accuracy lost without an expert";
  t.note = fmt::format(
      "points of accuracy on {} test rows (whole: {}): {}; below 0 the model is better without it. Then the same of each "
      "topic's rows.",
      c.rows, points(c.accuracy), way(c));
  t.header = {"layer and topic"};
  for (const std::string& name : expert_names(c)) t.header.push_back(name);
  for (size_t l = 0; l < c.lost.size(); ++l) {
    t.rows.push_back({fmt::format("{}", l + 1)});
    for (const double lost : c.lost[l]) t.rows.back().push_back(points(lost));
    for (int topic = 0; topic < int(c.topics.size()); ++topic) {
      t.rows.push_back({fmt::format("{} {}", l + 1, c.topics[size_t(topic)])});
      for (int e = 0; e < c.lost_by_topic[l].cols; ++e)
        t.rows.back().push_back(points(c.lost_by_topic[l](topic, e)));
    }
  }
  return t;
}

Table kept_table(const Causal& c) {
  Table t;
  t.title = "With a topic's busiest experts alone";
  t.note =
      "accuracy in points on the topic's own rows when each layer may choose among the m experts alone that have most of the "
      "topic's gates; the last column is the whole model.";
  t.header = {"topic"};
  for (const int m : c.kept) t.header.push_back(fmt::format("m = {}", m));
  for (int topic = 0; topic < c.kept_accuracy.rows; ++topic) {
    t.rows.push_back({c.topics[size_t(topic)]});
    for (int i = 0; i < c.kept_accuracy.cols; ++i) t.rows.back().push_back(points(c.kept_accuracy(topic, i)));
  }
  return t;
}

Table first_table(const Causal& c) {
  Table t;
  t.title = "Without each token's first choice";
  t.note =
      "accuracy in points; in all layers at once, what is left of a token's gates scaled to their former sum, a token of one "
      "expert left with none.";
  t.header = {"choices", "accuracy"};
  t.rows = {{"all", points(c.accuracy)},
            {"without the first", points(c.without_first)},
            {"the first alone", points(c.first_alone)}};
  return t;
}

}  // namespace

Json to_json(const Causal& c) {
  Json json = {{"rows", c.rows},
               {"way", c.masked ? "masked" : "removed"},
               {"topics", c.topics},
               {"accuracy", c.accuracy},
               {"class_accuracy", c.class_accuracy},
               {"without_first", c.without_first},
               {"first_alone", c.first_alone},
               {"kept_experts", c.kept},
               {"kept_accuracy", rows_json(c.kept_accuracy)}};
  for (size_t l = 0; l < c.lost.size(); ++l)
    json["layers"].push_back(
        {{"layer", l + 1}, {"lost", c.lost[l]}, {"lost_by_topic", rows_json(c.lost_by_topic[l])}});
  return json;
}

std::vector<Table> causal_tables(const Causal& c) { return {lost_table(c), kept_table(c), first_table(c)}; }

drawing::Picture lost_picture(const Causal& c) {
  results::MatrixPicture picture;
  picture.title = "What each expert is needed for";
  picture.note = fmt::format("points of a topic's accuracy that are lost without the expert: {}", way(c));
  picture.rows = c.topics, picture.columns = expert_names(c);
  for (size_t l = 0; l < c.lost_by_topic.size(); ++l) {
    Matrix panel = c.lost_by_topic[l];
    for (double& value : panel.values) value *= 100;
    picture.panels.push_back(std::move(panel));
    picture.captions.push_back(fmt::format("layer {}", l + 1));
  }
  return draw(picture);
}

}  // namespace glia
