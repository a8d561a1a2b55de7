#include "experiments/report/tables.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "engine/core/command_line/terminal.h"
#include "engine/core/file.h"
#include "engine/core/message.h"
#include "experiments/report/answer.h"
#include "experiments/report/html_escape.h"
#include "experiments/report/significance.h"

namespace glia::results {
namespace {

std::string signed_number(const std::optional<double>& x, int digits) {
  return x ? fmt::format("{:+.{}f}", *x, digits) : std::string(kNotAvailable);
}

std::string mean_se(const Metric* m, int digits) {
  if (!m || !m->estimate.mean) return kAbsent;
  return fmt::format("{:.{}f} ±{}", *m->estimate.mean, digits,
                     m->estimate.se ? fmt::format("{:.{}f}", *m->estimate.se, digits) : kNotAvailable);
}

std::string interval(const std::optional<double>& low, const std::optional<double>& high, int digits) {
  return low ? fmt::format("{:.{}f}…{:.{}f}", *low, digits, *high, digits) : std::string(kNotAvailable);
}

size_t width(const std::string& text) { return size_t(columns_of(text)); }

std::string padded(const std::string& text, size_t to, bool left) {
  const std::string space(to > width(text) ? to - width(text) : 0, ' ');
  return left ? text + space : space + text;
}

void append_comparison(std::vector<std::string>& row, const ConfigSummary& c, const char* metric,
                       const std::string& baseline) {
  const Comparison* vs = c.against(metric, baseline);
  const std::string none = c.config == baseline ? kAbsent : kNotAvailable;
  row.push_back(vs ? signed_number(vs->difference, 4) : none);
  row.push_back(vs ? format_p(vs->welch_holm) : none);
  row.push_back(vs ? format_p(vs->paired_holm) : none);
  row.push_back(vs ? signed_number(vs->cohen_d, 2) : none);
}

std::string p_against(const ConfigSummary& c, const std::string& metric, const std::string& baseline) {
  if (c.config == baseline) return kAbsent;
  const Comparison* vs = c.against(metric, baseline);
  return vs ? format_p(vs->welch_holm) : std::string(kNotAvailable);
}

// The table itself in the link: the page is one file.
std::string csv_link(const Table& t) {
  std::string data;
  for (const char c : as_csv(t))
    data += std::isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '-' || c == '_'
                ? std::string(1, c)
                : fmt::format("%{:02X}", static_cast<unsigned char>(c));
  return fmt::format(
      "<a class=\"csv\" download=\"{0}.csv\" href=\"data:text/csv;charset=utf-8,{1}\" aria-label=\"{2} as CSV\">CSV</a>",
      file_name(t), data, html_escaped(t.title));
}

std::string published_value(const Published* p) {
  if (!p) return kAbsent;
  return fmt::format("{:.4f}{}", p->value, p->other ? fmt::format(" ({:.4f})", *p->other) : "");
}

}  // namespace

std::string number(const std::optional<double>& x, int digits) {
  return x ? fmt::format("{:.{}f}", *x, digits) : std::string(kNotAvailable);
}

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
  const bool published = s.any_published();
  const std::string& baseline = s.study.accuracy_baseline();
  Table t;
  t.title = tells_words(s) ? "Share of the tokens told right" : "Test accuracy";
  t.note = fmt::format(
      "mean ± standard error over seeds, 95 % t interval; Δ and p against {}, two-sided, Holm-corrected "
      "over the configurations (Welch's test; paired by seed); d is Cohen's.",
      baseline);
  if (published) t.note += fmt::format(" Published: {}.", s.study.published_note);
  t.header = {"configuration", "seeds", "accuracy", "95 % interval"};
  if (published) t.header.push_back("published");
  for (const std::string& cell :
       {"Δ " + baseline, std::string("p Welch"), std::string("p paired"), std::string("d")})
    t.header.push_back(cell);
  if (published) t.header.push_back("p publ.");
  for (const ConfigSummary& c : s.configs) {
    const Metric* m = c.find("accuracy");
    const Published* p = s.published(c.config, "accuracy");
    std::vector<std::string> row = {c.config, std::to_string(c.seeds.size()), mean_se(m, 4),
                                    m ? interval(m->estimate.ci_low, m->estimate.ci_high, 4) : kAbsent};
    if (published) row.push_back(p ? number(p->value, 4) : kAbsent);
    append_comparison(row, c, "accuracy", baseline);
    if (published) row.push_back(p && !p->p.empty() ? p->p : kAbsent);
    t.rows.push_back(std::move(row));
  }
  return t;
}

Table accuracy_against_table(const Summary& s, const std::string& baseline) {
  Table t;
  t.title = "Test accuracy against " + baseline;
  t.note = fmt::format("Δ and p against {}, as above.", baseline);
  if (const ConfigSummary* c = s.find(baseline); c && c->moe)
    t.note = fmt::format("Δ and p against {}: what the routing changes when the experts are there either way.",
                         baseline);
  t.header = {"configuration", "Δ " + baseline, "p Welch", "p paired", "d"};
  for (const ConfigSummary& c : s.configs) {
    t.rows.push_back({c.config});
    append_comparison(t.rows.back(), c, "accuracy", baseline);
  }
  return t;
}

// The same comparison on the rows that no training row nearly holds.
Table unseen_accuracy_table(const Summary& s) {
  const std::string& baseline = s.study.accuracy_baseline();
  Table t;
  t.title = "Test accuracy without near copies";
  t.note = fmt::format(
      "On the {} of {} test rows of which less than half of the passages of eight words stand in the training rows; "
      "columns as above.",
      s.common.data.test_rows - s.near_copies, s.common.data.test_rows);
  t.header = {"configuration", "accuracy", "95 % interval", "Δ " + baseline, "p Welch", "p paired", "d"};
  for (const ConfigSummary& c : s.configs) {
    const Metric* m = c.find(kAccuracyWithoutNearCopies);
    t.rows.push_back({c.config, m ? mean_se(m, 4) : kNotAvailable,
                      m ? interval(m->estimate.ci_low, m->estimate.ci_high, 4) : kNotAvailable});
    append_comparison(t.rows.back(), c, kAccuracyWithoutNearCopies, baseline);
  }
  return t;
}

// What a language model is measured by.
Table word_loss_table(const Summary& s, const std::string& baseline) {
  Table t;
  t.title = "Loss a word against " + baseline;
  t.note = fmt::format(
      "Test text, where it has prompts what stands behind them: nats a word (tokens cost what they cost; words are counted), "
      "perplexities a word and a token; Δ and p against {} of the loss a word, as above. Lower is better.",
      baseline);
  t.header = {"configuration",     "loss a word", "95 % interval",
              "perplexity a word", "a token",     "Δ " + baseline,
              "p Welch",           "p paired",    "d"};
  for (const ConfigSummary& c : s.configs) {
    const Metric* m = c.find("word_loss");
    t.rows.push_back({c.config, mean_se(m, 4), m ? interval(m->estimate.ci_low, m->estimate.ci_high, 4) : kAbsent,
                      mean_se(c.find("word_perplexity"), 1), mean_se(c.find("perplexity"), 2)});
    append_comparison(t.rows.back(), c, "word_loss", baseline);
  }
  return t;
}

// Where in a text, and of which topic. The metrics' names begin with `kind`, and the column is called by what follows.
Table loss_by(const Summary& s, const std::string& kind, const std::string& title, const std::string& note) {
  Table t{title, note, {"configuration"}, {}};
  std::vector<std::string> names;  // in the order in which they are told
  for (const ConfigSummary& c : s.configs)
    for (const auto& [name, metric] : c.metrics)
      if (name.starts_with(kind) && std::ranges::find(names, name) == names.end()) names.push_back(name);
  const auto first = [&](const std::string& name) { return std::atoi(name.c_str() + kind.size()); };
  std::ranges::sort(names, {}, first);
  const std::vector<std::string>& topics = s.common.data.class_names;
  for (const std::string& name : names) {
    const auto at = static_cast<size_t>(first(name));
    t.header.push_back(kind == "loss.topic-" && at < topics.size() ? topics[at] : name.substr(kind.size()));
  }
  for (const ConfigSummary& c : s.configs) {
    t.rows.push_back({c.config});
    for (const std::string& name : names) t.rows.back().push_back(mean_se(c.find(name), 4));
  }
  return t;
}

// Of a trained model's routers, told what stands in another text's prompt.
Table other_prompt_table(const Summary& s) {
  Table t = loss_by(
      s, "other_prompt.at-", "What another text's prompt costs the routers that read one",
      "how many more nats, a word and a token by its distance behind the prompt, where the routers of the trained model are told "
      "of the next text's prompt instead of their own, which attention still reads.");
  t.header.insert(t.header.begin() + 1, "a word");
  for (size_t i = 0; i < s.configs.size(); ++i)
    t.rows[i].insert(t.rows[i].begin() + 1, mean_se(s.configs[i].find("other_prompt.word"), 4));
  std::erase_if(t.rows, [](const std::vector<std::string>& row) { return row[1] == kAbsent; });
  return t;
}

std::vector<Table> language_tables(const Summary& s) {
  std::vector<Table> tables;
  if (!tells_words(s)) return tables;
  for (const std::string& baseline : s.study.accuracy_baselines) tables.push_back(word_loss_table(s, baseline));
  tables.push_back(loss_by(s, "loss.at-", "Loss by distance behind the prompt",
                           "nats a token, by how many tokens behind the prompt's end it is the one that is told."));
  if (std::ranges::any_of(s.configs, [](const ConfigSummary& c) { return c.find("other_prompt.word"); }))
    tables.push_back(other_prompt_table(s));
  tables.push_back(loss_by(s, "loss.topic-", "Loss by topic", "nats a token."));
  return tables;
}

bool tells_words(const Summary& s) {
  return std::ranges::any_of(s.configs, [](const ConfigSummary& c) { return c.find("word_loss"); });
}

std::vector<Table> accuracy_tables(const Summary& s) {
  std::vector<Table> tables = language_tables(s);
  tables.push_back(accuracy_table(s));
  if (s.near_copies > 0) tables.push_back(unseen_accuracy_table(s));
  for (size_t i = 1; i < s.study.accuracy_baselines.size(); ++i)
    tables.push_back(accuracy_against_table(s, s.study.accuracy_baselines[i]));
  return tables;
}

namespace {

Table specialisation_table(const Summary& s, bool cls) {
  const std::string metric = cls ? "specialisation_cls" : kSpecialisation, baseline = s.study.routing_baseline();
  const bool published = !cls && s.any_published();
  Table t;
  t.title = cls ? "Specialisation, CLS rows only" : "Specialisation, all tokens";
  if (cls) {
    t.note =
        "The classifier reads CLS alone: in the last layer the routing of the other tokens cannot change the "
        "prediction.";
  } else {
    t.note = fmt::format(
        "mean over experts of the standard deviation over topics of the mean gate; mean ± standard error over "
        "seeds; p against {}, Welch, Holm-corrected.",
        baseline);
    if (any_mass(s))
      t.note +=
          " Gates of routers that do not sum to 1 are taken over each token's sum, so that nobody specialises by that; mean gates as they "
          "are stand in Routing by layer.";
    if (published) t.note += " In brackets: the study's table where it differs from its figure.";
  }
  t.header = {"configuration"};
  for (const char* place : {"first layer", "last layer"}) {
    t.header.push_back(place);
    if (published) t.header.push_back("published");
    t.header.push_back("p");
  }
  for (const ConfigSummary& c : s.configs) {
    if (!c.moe) continue;
    t.rows.push_back({c.config});
    for (const int layer : {1, s.layers}) {
      const std::string name = layer_metric(metric, layer);
      t.rows.back().push_back(mean_se(c.find(name), 4));
      if (published)
        t.rows.back().push_back(published_value(s.published(c.config, layer_metric("specialisation", layer))));
      t.rows.back().push_back(p_against(c, name, baseline));
    }
  }
  return t;
}

}  // namespace

std::vector<Table> specialisation_tables(const Summary& s) {
  if (s.layers == 0) return {};
  std::vector<Table> tables = {specialisation_table(s, false)};
  if (s.reads_cls()) tables.push_back(specialisation_table(s, true));
  return tables;
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
  std::vector<Table> tables = accuracy_tables(s);
  if (Table cost = cost_table(s, true); !cost.rows.empty()) tables.push_back(std::move(cost));
  tables.push_back(significance_table(s));
  tables.push_back(power_table(s));
  if (s.layers > 0) {
    for (Table& table : specialisation_tables(s)) tables.push_back(std::move(table));
    tables.push_back(routing_table(s));
    for (Table& table : analysis_tables(s)) tables.push_back(std::move(table));
  }
  tables.push_back(runs_table(s));
  return tables;
}

std::string as_text(const Table& table) {
  Table t = table;  // topics and words come from files: none commands the terminal
  for (std::string& cell : t.header) cell = one_line(cell);
  for (auto& row : t.rows)
    for (std::string& cell : row) cell = one_line(cell);
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

std::string markdown_text(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const char next = i + 1 < text.size() ? text[i + 1] : ' ';
    if (text[i] == '|') out += "\\|";
    else if (text[i] == '<' && (std::isalpha(static_cast<unsigned char>(next)) || next == '/' || next == '!'))
      out += "&lt;";
    else out += text[i];
  }
  return out;
}

std::string as_markdown(const Table& t) {
  std::string text = "### " + t.title + "\n\n|";
  for (const auto& cell : t.header) text += " " + markdown_text(cell) + " |";
  text += "\n|";
  for (size_t i = 0; i < t.header.size(); ++i) text += i ? "---:|" : "---|";
  text += "\n";
  for (const auto& row : t.rows) {
    text += "|";
    for (const auto& cell : row) text += " " + markdown_text(cell) + " |";
    text += "\n";
  }
  if (!t.note.empty()) text += "\n" + t.note + "\n";
  return text;
}

std::string file_name(const Table& t) {
  std::string name;
  for (const char c : t.title)
    if (std::isalnum(static_cast<unsigned char>(c))) name += char(std::tolower(static_cast<unsigned char>(c)));
    else if (!name.empty() && name.back() != '-') name += '-';
  return name;
}

std::string as_csv(const Table& t) {
  // What a cell of two values has between them, and what the column of the second one is called.
  struct Pair {
    std::string between, name;
  };
  static const Pair kPairs[] = {{" ±", " ±"}, {"…", " high"}};
  std::vector<const Pair*> pairs(t.header.size(), nullptr);
  for (const auto& row : t.rows)
    for (size_t i = 1; i < row.size(); ++i)
      for (const Pair& pair : kPairs)
        if (row[i].find(pair.between) != std::string::npos) pairs[i] = &pair;
  std::string text;
  const auto cell = [&](const std::string& value, bool first) {
    std::string quoted = value == kAbsent ? "" : value;
    for (size_t at = 0; (at = quoted.find('"', at)) != std::string::npos; at += 2) quoted.insert(at, 1, '"');
    if (quoted.find_first_of(",\"\n") != std::string::npos) quoted = '"' + quoted + '"';
    text += (first ? "" : ",") + quoted;
  };
  for (size_t i = 0; i < t.header.size(); ++i) {
    cell(t.header[i], i == 0);
    if (pairs[i]) cell(t.header[i] + pairs[i]->name, false);
  }
  text += "\n";
  for (const auto& row : t.rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      const size_t at = pairs[i] ? row[i].find(pairs[i]->between) : std::string::npos;
      cell(row[i].substr(0, at), i == 0);
      if (pairs[i]) cell(at == std::string::npos ? "" : row[i].substr(at + pairs[i]->between.size()), false);
    }
    text += "\n";
  }
  return text;
}

std::string as_html(const Table& t) {
  std::string text = "<h3>" + html_escaped(t.title) + " " + csv_link(t) + "</h3>\n";
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
  const std::vector<std::string> said = answers(s);
  for (const std::string& answer : said) text += answer + "\n";
  if (!said.empty()) text += "\n";
  text += as_text(accuracy_table(s));
  for (const Table& table : language_tables(s)) text += "\n" + as_text(table);
  if (s.near_copies > 0) text += "\n" + as_text(unseen_accuracy_table(s));
  if (const Table cost = cost_table(s, true); !cost.rows.empty()) text += "\n" + as_text(cost);
  for (const Table& table : specialisation_tables(s)) text += "\n" + as_text(table);
  if (const Table analysed = analysed_runs_table(s); !analysed.rows.empty()) text += "\n" + as_text(analysed);
  return text;
}

}  // namespace glia::results
