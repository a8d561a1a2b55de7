#include "experiments/report/tables.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "engine/core/file.h"
#include "experiments/report/html_escape.h"
#include "experiments/studies/published.h"

namespace glia::results {
namespace {

constexpr const char* kNone = "–";  // the quantity does not exist here (experts of a dense model)

std::string number(const std::optional<double>& x, int digits) {
  return x ? fmt::format("{:.{}f}", *x, digits) : std::string(kNotAvailable);
}

std::string signed_number(const std::optional<double>& x, int digits) {
  return x ? fmt::format("{:+.{}f}", *x, digits) : std::string(kNotAvailable);
}

std::string mean_se(const Metric* m, int digits) {
  if (!m || !m->estimate.mean) return kNone;
  return fmt::format("{:.{}f} ±{}", *m->estimate.mean, digits,
                     m->estimate.se ? fmt::format("{:.{}f}", *m->estimate.se, digits) : kNotAvailable);
}

std::string interval(const std::optional<double>& low, const std::optional<double>& high, int digits) {
  return low ? fmt::format("{:.{}f}…{:.{}f}", *low, digits, *high, digits) : std::string(kNotAvailable);
}

size_t width(const std::string& text) {  // code points; all of ours are one column wide
  return size_t(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

std::string padded(const std::string& text, size_t to, bool left) {
  const std::string space(to > width(text) ? to - width(text) : 0, ' ');
  return left ? text + space : space + text;
}

void append_comparison(std::vector<std::string>& row, const ConfigSummary& c, const char* metric,
                       const char* baseline) {
  const Comparison* vs = c.against(metric, baseline);
  const std::string none = c.config == baseline ? kNone : kNotAvailable;
  row.push_back(vs ? signed_number(vs->difference, 4) : none);
  row.push_back(vs ? format_p(vs->welch_holm) : none);
  row.push_back(vs ? format_p(vs->paired_holm) : none);
  row.push_back(vs ? signed_number(vs->cohen_d, 2) : none);
}

std::string p_against_softmax(const ConfigSummary& c, const std::string& metric) {
  if (c.config == kSoftmax) return kNone;
  const Comparison* vs = c.against(metric, kSoftmax);
  return vs ? format_p(vs->welch_holm) : std::string(kNotAvailable);
}

}  // namespace

std::string format_p(const std::optional<double>& p) {
  if (!p) return kNotAvailable;
  return *p < 0.001 ? "<0.001" : fmt::format("{:.3f}", *p);
}

std::string format_duration(double seconds) {
  const long whole = std::lround(seconds);
  if (whole < 120) return fmt::format("{:.1f} s", seconds);
  if (whole < 7200) return fmt::format("{} min {} s", whole / 60, whole % 60);
  return fmt::format("{} h {} min", whole / 3600, whole % 3600 / 60);
}

Table accuracy_table(const Summary& s) {
  Table t;
  t.title = "Test accuracy";
  t.note =
      "mean ± standard error over seeds, 95 % t interval; Δ and p against dense, two-sided, Holm-corrected "
      "over the configurations (Welch's test; paired by seed); d is Cohen's. Published: AG News from pretrained "
      "weights, p uncorrected.";
  t.header = {"configuration", "seeds",    "accuracy", "95 % interval", "published", "Δ dense",
              "p Welch",       "p paired", "d",        "p publ."};
  for (const ConfigSummary& c : s.configs) {
    const Metric* m = c.find("accuracy");
    const Published* p = published(c.config);
    std::vector<std::string> row = {c.config, std::to_string(c.seeds.size()), mean_se(m, 4),
                                    m ? interval(m->estimate.ci_low, m->estimate.ci_high, 4) : kNone,
                                    p ? number(p->accuracy, 4) : kNone};
    append_comparison(row, c, "accuracy", kDense);
    row.push_back(p && !p->p_vs_dense.empty() ? p->p_vs_dense : kNone);
    t.rows.push_back(std::move(row));
  }
  return t;
}

Table accuracy_softmax_table(const Summary& s) {
  Table t;
  t.title = "Test accuracy against softmax-moe";
  t.note = "Δ and p against softmax-moe: what the routing changes when the experts are there either way.";
  t.header = {"configuration", "Δ softmax-moe", "p Welch", "p paired", "d"};
  for (const ConfigSummary& c : s.configs) {
    t.rows.push_back({c.config});
    append_comparison(t.rows.back(), c, "accuracy", kSoftmax);
  }
  return t;
}

Table specialisation_table(const Summary& s) {
  Table t;
  t.title = "Specialisation, all tokens";
  t.note =
      "mean over experts of the standard deviation over topics of the mean gate; mean ± standard error over "
      "seeds; p against softmax-moe, Welch, Holm-corrected. In brackets: the study's table where it differs from "
      "its figure.";
  t.header = {"configuration", "first layer", "published", "p", "last layer", "published", "p"};
  const auto published_value = [](const std::optional<double>& value, const std::optional<double>& table) {
    if (!value) return std::string(kNone);
    return fmt::format("{:.4f}{}", *value, table ? fmt::format(" ({:.4f})", *table) : "");
  };
  for (const ConfigSummary& c : s.configs) {
    if (!c.moe) continue;
    const Published* p = s.layers == 4 ? published(c.config) : nullptr;  // the study has four layers
    const std::string first = layer_metric("specialisation", 1), last = layer_metric("specialisation", s.layers);
    t.rows.push_back({c.config, mean_se(c.find(first), 4),
                      p ? published_value(p->first_layer, p->first_table) : kNone, p_against_softmax(c, first),
                      mean_se(c.find(last), 4), p ? published_value(p->last_layer, p->last_table) : kNone,
                      p_against_softmax(c, last)});
  }
  return t;
}

Table specialisation_cls_table(const Summary& s) {
  Table t;
  t.title = "Specialisation, CLS rows only";
  t.note =
      "The classifier reads CLS alone: in the last layer the routing of the other tokens cannot change the "
      "prediction.";
  t.header = {"configuration", "first layer", "p", "last layer", "p"};
  for (const ConfigSummary& c : s.configs) {
    if (!c.moe) continue;
    const std::string first = layer_metric("specialisation_cls", 1);
    const std::string last = layer_metric("specialisation_cls", s.layers);
    t.rows.push_back({c.config, mean_se(c.find(first), 4), p_against_softmax(c, first), mean_se(c.find(last), 4),
                      p_against_softmax(c, last)});
  }
  return t;
}

Table routing_table(const Summary& s) {
  Table t;
  t.title = "Routing by layer";
  t.note =
      "means over seeds. MI: mutual information of topic and expert in bits; entropy of the loads in bits (even: "
      "log2 E); load CV: standard deviation over mean of the experts' loads; dead: experts below a hundredth of an "
      "even share; largest: the busiest expert's share.";
  t.header = {"configuration", "layer",   "specialisation", "… CLS", "MI",
              "MI, CLS",       "entropy", "load CV",        "dead",  "largest"};
  for (const ConfigSummary& c : s.configs)
    for (int l = 1; c.moe && l <= s.layers; ++l) {
      const auto mean = [&](const char* name, int digits) {
        const Metric* m = c.find(layer_metric(name, l));
        return m ? number(m->estimate.mean, digits) : std::string(kNone);
      };
      t.rows.push_back({c.config, std::to_string(l), mean("specialisation", 4), mean("specialisation_cls", 4),
                        mean("mutual_information_bits", 3), mean("mutual_information_bits_cls", 3),
                        mean("entropy_bits", 2), mean("load_cv", 3), mean("dead_experts", 1),
                        mean("largest_share", 3)});
    }
  return t;
}

Table runs_table(const Summary& s) {
  Table t;
  t.title = "Runs";
  t.header = {"configuration"};
  for (int seed : s.seeds) t.header.push_back(fmt::format("seed{}", seed));
  for (const ConfigSummary& c : s.configs) {
    std::vector<std::string> row = {c.config};
    for (int seed : s.seeds) {
      std::string cell = "missing";
      for (const RunLine& run : s.runs)
        if (run.config == c.config && run.seed_index == seed)
          cell = run.state == RunState::failed       ? "failed"
                 : run.state == RunState::unfinished ? "unfinished"
                                                     : number(run.accuracy, 4);
      row.push_back(cell);
    }
    t.rows.push_back(std::move(row));
  }
  return t;
}

std::vector<Table> all_tables(const Summary& s) {
  std::vector<Table> tables = {accuracy_table(s), accuracy_softmax_table(s)};
  if (s.layers > 0)
    for (auto make : {specialisation_table, specialisation_cls_table, routing_table}) tables.push_back(make(s));
  tables.push_back(runs_table(s));
  return tables;
}

std::string as_text(const Table& t) {
  std::vector<size_t> widths;
  for (const auto& cell : t.header) widths.push_back(width(cell));
  for (const auto& row : t.rows)
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], width(row[i]));
  std::string text = t.title + "\n";
  const auto line = [&](const std::vector<std::string>& row) {
    std::string out;
    for (size_t i = 0; i < row.size(); ++i) out += (i ? "  " : "") + padded(row[i], widths[i], i == 0);
    while (!out.empty() && out.back() == ' ') out.pop_back();
    text += out + "\n";
  };
  line(t.header);
  for (const auto& row : t.rows) line(row);
  return text;
}

std::string as_markdown(const Table& t) {
  std::string text = "### " + t.title + "\n\n|";
  for (const auto& cell : t.header) text += " " + cell + " |";
  text += "\n|";
  for (size_t i = 0; i < t.header.size(); ++i) text += i ? "---:|" : "---|";
  text += "\n";
  for (const auto& row : t.rows) {
    text += "|";
    for (const auto& cell : row) text += " " + cell + " |";
    text += "\n";
  }
  if (!t.note.empty()) text += "\n" + t.note + "\n";
  return text;
}

std::string as_html(const Table& t) {
  std::string text = "<h3>" + html_escaped(t.title) + "</h3>\n";
  text += "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"" + html_escaped(t.title) +
          "\"><table>\n<thead><tr>";
  for (const auto& cell : t.header) text += "<th scope=\"col\">" + html_escaped(cell) + "</th>";
  text += "</tr></thead>\n<tbody>\n";
  for (const auto& row : t.rows) {
    text += "<tr>";
    for (size_t i = 0; i < row.size(); ++i)
      text += i ? "<td>" + html_escaped(row[i]) + "</td>" : "<th scope=\"row\">" + html_escaped(row[i]) + "</th>";
    text += "</tr>\n";
  }
  text += "</tbody></table></div>\n";
  if (!t.note.empty()) text += "<p class=\"note\">" + html_escaped(t.note) + "</p>\n";
  return text;
}

std::string print_table(const Summary& s) {
  std::string text;
  for (const std::string& warning : s.warnings) text += "! " + warning + "\n";
  if (!text.empty()) text += "\n";
  text += as_text(accuracy_table(s));
  if (s.layers > 0) {
    text += "\n";
    text += as_text(specialisation_table(s)) + "\n" + as_text(specialisation_cls_table(s));
  }
  return text;
}

}  // namespace glia::results
