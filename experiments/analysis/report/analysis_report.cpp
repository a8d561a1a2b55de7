#include "experiments/analysis/report/analysis_report.h"

#include <algorithm>
#include <cmath>

#include "experiments/report/html_escape.h"
#include "experiments/report/report_page.h"

namespace glia::results {
namespace {

using namespace drawing;

constexpr const char* kNone = "–";

std::string number(double x, int digits) {
  return std::isfinite(x) ? fmt::format("{:.{}f}", x, digits) : kNotAvailable;
}

// Scalar rows that any layer has a value of.
std::vector<size_t> shown_rows(const TraceAnalysis& a) {
  const auto rows = metric_rows(Stage::routing);
  std::vector<size_t> shown;
  for (size_t i = 0; i < rows.size(); ++i)
    if (rows[i]->form == Form::scalar && std::ranges::any_of(a.layers, [&](const auto& l) {
          return std::isfinite(l.metrics.scalar(rows[i]->name));
        }))
      shown.push_back(i);
  return shown;
}

Heatmap utilisation_map(const TraceAnalysis& a) {
  Heatmap map;
  map.title = fmt::format("{}: who routes where", a.title);
  map.note = "mean gate of each expert over a topic's tokens, in percent";
  map.topics = a.topics;
  for (const LayerAnalysis& layer : a.layers) {
    map.layers.push_back(layer.reading.all);
    map.layer_numbers.push_back(int(map.layers.size()));
    map.captions.push_back(a.has_topics() ? fmt::format("layer {} · specialisation {}", map.layers.size(),
                                                        number(layer.metrics.scalar("specialisation"), 4))
                                          : fmt::format("layer {}", map.layers.size()));
  }
  return map;
}

Heatmap together_map(const TraceAnalysis& a) {
  Heatmap map;
  map.title = fmt::format("{}: which experts go together", a.title);
  map.note = "of the tokens that have the row's expert, the share that has the column's too, in percent";
  for (int e = 0; e < a.n_experts; ++e) map.topics.push_back(fmt::format("e{}", e));
  for (const LayerAnalysis& layer : a.layers) {
    map.layers.push_back(layer.together);
    map.layer_numbers.push_back(int(map.layers.size()));
    map.captions.push_back(fmt::format("layer {}", map.layers.size()));
  }
  // An expert's partner by chance is no expert's even share: (K − 1) / (E − 1). Layers that differ have no common mark.
  const std::vector<const MetricRow*> rows = metric_rows(Stage::routing);
  const auto at = std::ranges::find(rows, std::string("partner_peak"), &MetricRow::name) - rows.begin();
  const auto chance = [&](const LayerAnalysis& layer) { return layer.chance[size_t(at)].value_or(std::nan("")); };
  map.nothing = "n/a: no such pair";
  map.mark_name = "by chance";
  map.mark = chance(a.layers[0]);
  for (const LayerAnalysis& layer : a.layers)
    if (std::abs(chance(layer) - *map.mark) > 1e-9) map.mark = std::nan("");
  return map;
}

// Lines of what the n busiest experts have together, a line a layer from light to dark; dashed: even use.
Picture coverage_plot(const TraceAnalysis& a) {
  const double left = 56, top = 74, size = 300, bottom = top + size;
  const std::string title = fmt::format("{}: how few experts carry the load", a.title);
  Picture p(std::max(left + size + 150, text_width(title, 15, true) + 32), bottom + 52, title);
  p.text({14, 26}, title, {.size = 15, .bold = true});
  p.text({14, 46}, "share of all gate mass that the busiest experts have; dashed: even use",
         {.size = 10.5, .color = kGrey});
  const auto at = [&](int experts, double share) {
    return Point{left + size * experts / a.n_experts, bottom - size * share};
  };
  for (const double share : {0.0, 0.25, 0.5, 0.75, 1.0}) {
    p.line(at(0, share), at(a.n_experts, share), kLight, 0.8);
    p.text({left - 7, at(0, share).y + 4}, fmt::format("{:g} %", 100 * share),
           {.size = 10.5, .color = kGrey, .anchor = Anchor::end});
  }
  for (const int experts : {1, (a.n_experts + 1) / 2, a.n_experts})
    p.text({at(experts, 0).x, bottom + 17}, std::to_string(experts),
           {.size = 10.5, .color = kGrey, .anchor = Anchor::middle});
  p.text({left + size / 2, bottom + 38}, "busiest experts", {.size = 12, .color = kGrey, .anchor = Anchor::middle});
  p.line(at(0, 0), at(a.n_experts, 1), kGrey, 1.2, {4, 3});
  const int layers = int(a.layers.size()), every = (layers + 15) / 16;
  for (int l = 0; l < layers; ++l) {
    const Color color = sequential(layers == 1 ? 0.8 : 0.3 + 0.7 * l / (layers - 1));
    std::vector<Point> points = {at(0, 0)};
    for (const double share : a.layers[size_t(l)].metrics["coverage"].values)
      points.push_back(at(int(points.size()), share));
    p.polyline(points, color, 1.8);
    if ((layers - 1 - l) % every) continue;  // the last layer is named in any case
    const double y = top + 18.0 * (l / every) + 6;
    p.line({left + size + 24, y}, {left + size + 46, y}, color, 2.2);
    p.text({left + size + 54, y + 4}, fmt::format("layer {}", l + 1), {.size = 11});
  }
  return p;
}

std::string figure(const NamedPicture& picture) {
  return fmt::format(
      "<figure><div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{}\">{}</div><figcaption>{}"
      "</figcaption></figure>\n",
      html_escaped(picture.picture.title()), picture.picture.svg_text(), html_escaped(picture.caption));
}

}  // namespace

Table routing_table(const TraceAnalysis& a) {
  const auto rows = metric_rows(Stage::routing);
  const std::vector<size_t> shown = shown_rows(a);
  Table t;
  t.title = "Routing by layer";
  t.header = {"layer"};
  t.note = "(chance): what even use of the experts, whatever the token, would have in the layers below it. ";
  for (const size_t i : shown) {
    t.header.push_back(rows[i]->label);
    t.note += std::string(rows[i]->help) + (i == shown.back() ? "." : "; ");
  }
  std::vector<std::string> last;
  for (size_t l = 0; l < a.layers.size(); ++l) {
    const LayerAnalysis& layer = a.layers[l];
    std::vector<std::string> chance = {"(chance)"}, row = {std::to_string(l + 1)};
    for (const size_t i : shown) {
      const auto& even = layer.chance[i];
      chance.push_back(even && std::isfinite(*even) ? number(*even, rows[i]->digits) : kNone);
      row.push_back(number(layer.metrics.scalar(rows[i]->name), rows[i]->digits));
    }
    if (chance != last) t.rows.push_back(chance);  // anew where a layer's tokens have another number of experts
    last = std::move(chance);
    t.rows.push_back(std::move(row));
  }
  return t;
}

Table pairs_table(const TraceAnalysis& a) {
  Table t;
  t.title = "Agreement between layers";
  t.note =
      "of the first choices. Overlap: share of the tokens whose experts agree when those of the two layers are matched "
      "one to one as well as can be; information: normalised mutual information, which needs no matching; permuted: the "
      "same after the tokens of one layer were permuted.";
  t.header = {"layers", "overlap", "permuted", "information", "permuted information"};
  for (const PairAnalysis& p : a.pairs)
    t.rows.push_back({fmt::format("{} and {}", p.a + 1, p.b + 1), number(p.matched, 3), number(p.matched_chance, 3),
                      number(p.information, 3), number(p.information_chance, 3)});
  return t;
}

Table words_table(const TraceAnalysis& a, const std::vector<std::string>& words) {
  Table t;
  t.title = "Each expert's words";
  t.note = fmt::format(
      "the words of which the expert has the largest share, in percent, among those that occur {} times or more.",
      kLeastWord);
  t.header = {"layer and expert", "words"};
  for (size_t l = 0; l < a.layers.size(); ++l)
    for (size_t e = 0; e < a.layers[l].words.size(); ++e) {
      std::string list;
      for (const FavouriteWord& word : a.layers[l].words[e])
        list += fmt::format("{}{} {:.0f}", list.empty() ? "" : ", ", word_name(words, word.id), 100 * word.share);
      t.rows.push_back({fmt::format("{} e{}", l + 1, e), list.empty() ? kNone : list});
    }
  return t;
}

Table agreement_table(const std::vector<LayerAgreement>& agreement, const std::string& other) {
  Table t;
  t.title = "Agreement with " + other;
  t.note =
      "of the same tokens. Saturation: share of a token's experts that are the same in both, its first one and all of "
      "them, with what even use would give; overlap: the same after the experts were matched one to one as well as can "
      "be, since their numbers mean nothing across seeds; permuted: overlap after the tokens of one side were permuted, "
      "and how often that reaches it (p); information: normalised mutual information of the first choices.";
  t.header = {"layer",   "saturation, first", "chance", "saturation", "chance, all",
              "overlap", "permuted",          "p",      "information"};
  for (const LayerAgreement& l : agreement)
    t.rows.push_back({std::to_string(l.layer + 1), number(l.same_first, 3), number(l.chance_same_first, 3),
                      number(l.same, 3), number(l.chance_same, 3), number(l.matched, 3), number(l.chance(), 3),
                      format_p(l.p()), number(l.information, 3)});
  return t;
}

std::vector<Table> all_tables(const TraceAnalysis& a, const std::vector<std::string>& words) {
  std::vector<Table> tables = {routing_table(a), pairs_table(a), words_table(a, words)};
  std::erase_if(tables, [](const Table& t) { return t.rows.empty(); });
  return tables;
}

std::string probe_sentence(const TraceAnalysis& a) {
  if (!a.probe) return "";
  return fmt::format(
      "A linear probe names the topic of {:.1f} % of {} sequences from their routing alone (trained on {} others; always "
      "the most frequent topic: {:.1f} %).",
      100 * a.probe->accuracy, a.probe->test, a.probe->train, 100 * a.probe->chance);
}

std::vector<NamedPicture> pictures(const TraceAnalysis& a) {
  std::vector<NamedPicture> list;
  list.push_back({"utilisation", "Each layer's mean gates by topic.", draw(utilisation_map(a))});
  list.push_back({"coverage", "How much of the load the busiest experts have.", coverage_plot(a)});
  if (a.slots > 1)
    list.push_back({"co_activation", "Experts that are chosen for the same tokens.", draw(together_map(a))});
  return list;
}

std::string analysis_html(const TraceAnalysis& a, const std::vector<Table>& tables,
                          const std::vector<NamedPicture>& pictures) {
  const std::string title = html_escaped("Routing of " + a.title);
  std::string page = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{0}</title>\n<style>{1}</style>\n"
      "</head>\n<body>\n<header><h1>{0}</h1>\n<p>{2} tokens in {3}, {4} layer{5} of {6} experts, at most {7} a token.</p>\n",
      title, kReportStyle, a.tokens, a.sequences > 0 ? fmt::format("{} sequences", a.sequences) : "one stream",
      a.layers.size(), a.layers.size() == 1 ? "" : "s", a.n_experts, a.slots);
  if (const std::string sentence = probe_sentence(a); !sentence.empty())
    page += "<p class=\"answer\">" + html_escaped(sentence) + "</p>\n";
  page += "</header>\n<main>\n";
  for (const Table& table : tables) page += "<section>\n" + as_html(table) + "</section>\n";
  for (const NamedPicture& picture : pictures) page += figure(picture);
  return page + fmt::format("</main>\n<script>{}</script>\n</body></html>\n", kSortScript);
}

}  // namespace glia::results
