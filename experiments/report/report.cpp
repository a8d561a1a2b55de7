#include "experiments/report/report.h"

#include <fmt/format.h>

#include <map>

#include "engine/core/check.h"
#include "engine/core/file.h"
#include "experiments/report/answer.h"
#include "experiments/report/html_escape.h"
#include "experiments/report/of_runs/knock_out_table.h"
#include "experiments/report/pictures/heatmap.h"
#include "experiments/report/pictures/plots.h"
#include "experiments/report/report_page.h"
#include "experiments/report/significance.h"
#include "experiments/report/tables.h"

namespace glia::results {
namespace {

struct NamedPicture {
  std::string name, caption;
  drawing::Picture picture;
};

std::vector<NamedPicture> all_plots(const Summary& s, const Listing& listing) {
  std::vector<NamedPicture> plots;
  const auto add = [&](std::string name, std::string caption, drawing::Picture picture) {
    plots.push_back({std::move(name), std::move(caption), std::move(picture)});
  };
  const bool any = std::ranges::any_of(s.configs, [](const ConfigSummary& c) { return c.find("accuracy"); });
  if (tells_words(s)) add("loss", "What a word of the test text costs.", word_loss_plot(s));
  if (any) add("accuracy", "Test accuracy of every configuration.", accuracy_plot(s));
  if (s.layers > 0) {
    add("specialisation_first", "Specialisation of the first layer over all tokens.",
        specialisation_plot(s, 1, false));
    add("specialisation_last", "Specialisation of the last layer over all tokens.",
        specialisation_plot(s, s.layers, false));
    if (s.reads_cls())
      add("specialisation_last_cls",
          "The same from the CLS rows only: the rows of the last layer that can change the prediction.",
          specialisation_plot(s, s.layers, true));
    add("depth", "How specialisation develops from layer to layer.", depth_plot(s));
    add("accuracy_specialisation", "Does specialisation pay? Each configuration's accuracy against it.",
        scatter_plot(s));
  }
  if (const auto curves = training_curves(listing); !curves.empty())
    add("training", "Loss and accuracy during training.", curves_plot(s, curves));
  return plots;
}

std::string section(const std::string& id, const std::string& title, const std::string& body) {
  return fmt::format("<section id=\"{}\">\n<h2>{}</h2>\n{}</section>\n", id, html_escaped(title), body);
}

std::string warnings_html(const Summary& s) {
  if (s.warnings.empty()) return "";
  std::string items;
  for (const std::string& warning : s.warnings) items += fmt::format("<li>{}</li>\n", html_escaped(warning));
  return fmt::format("<aside class=\"warnings\" role=\"note\"><h2>Warnings</h2>\n<ul>\n{}</ul></aside>\n", items);
}

// The first section's title: of a language model accuracy says little.
const char* measured_by(const Summary& s) { return tells_words(s) ? "Loss" : "Accuracy"; }

// The sections that the page will have; the links stay inside it.
std::string contents_html(const Summary& s, bool models, bool heatmaps, bool analysed) {
  std::string links;
  const auto link = [&](const char* id, const char* title) {
    links += fmt::format("<li><a href=\"#{}\">{}</a></li>\n", id, title);
  };
  link("accuracy", measured_by(s));
  if (s.layers > 0) link("specialisation", "Specialisation");
  if (models) link("models", "What the runs say together");
  link("plots", "Plots");
  if (heatmaps) link("heatmaps", "Who routes where");
  if (s.layers > 0) link("routing", "Routing by layer");
  if (analysed) link("analysis", "Analysis");
  link("runs", "What was run");
  return "<nav aria-label=\"Contents\"><ul>\n" + links + "</ul></nav>\n";
}

std::string figure(const drawing::Picture& picture, const std::string& caption) {
  return fmt::format(
      "<figure><div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{}\">{}</div>{}</figure>\n",
      html_escaped(picture.title()), picture.svg_text(),
      caption.empty() ? "" : fmt::format("<figcaption>{}</figcaption>", html_escaped(caption)));
}

// One grid of layers as an HTML table set: several hundred grids stay small, and cells wrap on a phone.
std::string grid_html(const Heatmap& map, double end) {
  std::string out;
  for (size_t l = 0; l < map.layers.size(); ++l) {
    const Matrix& m = map.layers[l];
    out += fmt::format("<table class=\"grid\" data-layer=\"{}\"><caption>{}</caption><tr><td>",
                       map.layer_numbers[l], html_escaped(layer_caption(map, l)));
    for (int e = 0; e < m.cols; ++e) out += fmt::format("<th scope=\"col\">e{}", e);
    for (int c = 0; c < m.rows; ++c) {
      out += fmt::format("<tr><th scope=\"row\">{}", html_escaped(map.topics[size_t(c)]));
      if (!seen(m, c)) {
        out += fmt::format("<td colspan=\"{}\">n/a", m.cols);
        continue;
      }
      for (int e = 0; e < m.cols; ++e) {
        const drawing::Color fill = drawing::sequential(m(c, e) / end);
        out += fmt::format("<td style=\"background:#{:02x}{:02x}{:02x}\"{}>{:.1f}", fill.r, fill.g, fill.b,
                           drawing::text_on(fill) == drawing::kWhite ? " class=d" : "", 100 * m(c, e));
      }
    }
    out += "</table>\n";
  }
  return out;
}

// The routing baseline and the configuration that specialises most in the last layer, next to each other.
std::string pair_html(const Summary& s, const std::map<std::string, std::vector<Run>>& by_config) {
  const std::string metric = layer_metric(kSpecialisation, s.layers), baseline = s.study.routing_baseline();
  const ConfigSummary* most = nullptr;
  for (const ConfigSummary& c : s.configs)
    if (const Metric* m = c.find(metric); m && c.config != baseline)
      if (!most || *m->estimate.mean > *most->find(metric)->estimate.mean) most = &c;
  if (!most || !by_config.contains(baseline)) return "";
  std::string out = "<div class=\"pair\">\n";
  for (const std::string& config : {baseline, most->config}) try {
      out += figure(draw(heatmap_of_mean(by_config.at(config), false, s.layers)), "");
    } catch (const Error&) {
      return "";  // what is wrong with it is said below, beside its own maps
    }
  return out +
         "</div>\n<p class=\"note\">The last layer of the baseline and of the configuration that specialises most "
         "there.</p>\n";
}

// Every finished MoE run's grids, all tokens and CLS, and the matched means as pictures. Without scripts each
// configuration folds open; with them the page shows what the boxes at the top choose.
std::string heatmaps_html(const Summary& s, const Listing& listing) {
  std::map<std::string, std::vector<Run>> by_config;
  for (const Run& run : listing.runs)
    if (run.config.moe() && run.state == RunState::done) by_config[run.config.config].push_back(run);
  if (by_config.empty()) return "";
  std::string body = pair_html(s, by_config) + kHeatmapControls;
  bool first = true;
  for (const ConfigSummary& c : s.configs) {
    const auto it = by_config.find(c.config);
    if (it == by_config.end()) continue;
    body += fmt::format("<details class=\"config\" data-config=\"{0}\"{1}><summary>{0}</summary>\n",
                        html_escaped(c.config), first ? " open" : "");
    first = false;
    for (const bool cls : {false, true}) {
      const char* rows = cls ? "cls" : "all";
      try {
        const Heatmap mean = heatmap_of_mean(it->second, cls);
        if (it->second.size() > 1)
          body += fmt::format("<div class=\"map\" data-seed=\"mean\" data-rows=\"{}\">{}</div>\n", rows,
                              figure(draw(mean), ""));
      } catch (const Error& error) {
        body += fmt::format("<p class=\"bad\">{}</p>\n", html_escaped(error.what()));
      }
    }
    for (const Run& run : it->second)
      for (const bool cls : {false, true}) try {
          const Heatmap map = heatmap_of(run, cls);
          double end = 0.05;
          for (const Matrix& m : map.layers)
            for (double value : m.values) end = std::max(end, value);
          body += fmt::format(
              "<details class=\"map\" data-seed=\"{}\" data-rows=\"{}\"><summary>seed{}: {}</summary>"
              "<div class=\"grids\">{}</div></details>\n",
              run.config.seed_index, cls ? "cls" : "all", run.config.seed_index,
              cls ? "CLS rows only" : "all tokens", grid_html(map, end));
        } catch (const Error& error) {
          body += fmt::format("<p class=\"bad\">{}</p>\n", html_escaped(error.what()));
        }
    body += "</details>\n";
  }
  body +=
      "<p class=\"note\">Mean gate of each expert (column) over a topic's tokens (row), in percent. Experts have "
      "no identity across seeds: for the means they are matched, layer by layer, by the best assignment to the mean; "
      "matching alone gives some contrast to a mean. Each run's colours end at its own largest share.</p>\n";
  return section("heatmaps", "Who routes where: topics × experts", body);
}

}  // namespace

std::string report_html(const Summary& s, const Listing& listing) {
  const std::string title = fmt::format("Glia results: {}, {}, {} seed{}", s.common.data.name, s.common.protocol,
                                        s.seeds.size(), s.seeds.size() == 1 ? "" : "s");
  std::string page = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, "
      "initial-scale=1\">\n<title>{}</title>\n<style>{}</style>\n"
      "</head>\n<body>\n<header><h1>{}</h1>\n",
      html_escaped(title), kReportStyle, html_escaped(title));
  size_t done = 0;
  for (const RunLine& run : s.runs) done += run.state == RunState::done;
  page += fmt::format("<p>{}. {} of {} runs finished, on {}.</p>\n", html_escaped(s.study.title), done,
                      s.runs.size(), html_escaped(s.common.device));
  for (const std::string& answer : answers(s))
    page += fmt::format("<p class=\"answer\">{}</p>\n", html_escaped(answer));
  page += warnings_html(s);
  const std::string heatmaps = heatmaps_html(s, listing);
  std::string models;
  for (const Table& table : tables_of_runs(s, listing)) models += as_html(table);
  std::string analysis;
  for (const Table& table : analysis_tables(s)) analysis += as_html(table);
  page += contents_html(s, !models.empty(), !heatmaps.empty(), !analysis.empty()) + "</header>\n<main>\n";
  std::string accuracy;
  for (const Table& table : accuracy_tables(s)) accuracy += as_html(table);
  for (const Table& table : {cost_table(s, false), significance_table(s), power_table(s)})
    if (!table.rows.empty()) accuracy += as_html(table);
  page += section("accuracy", measured_by(s), accuracy);
  std::string specialisation;
  for (const Table& table : specialisation_tables(s)) specialisation += as_html(table);
  if (!specialisation.empty()) page += section("specialisation", "Specialisation", specialisation);
  if (!models.empty()) page += section("models", "What the runs say together", models);
  std::string plots;
  for (const NamedPicture& plot : all_plots(s, listing)) plots += figure(plot.picture, plot.caption);
  page += section("plots", "Plots", plots);
  page += heatmaps;
  if (s.layers > 0)
    page += section("routing", "Routing by layer",
                    fmt::format("<details><summary>Table of {} configurations</summary>{}"
                                "</details>\n",
                                s.configs.size(), as_html(routing_table(s))));
  if (!analysis.empty()) page += section("analysis", "Analysis", analysis);
  std::string about = "<dl>\n";
  for (const auto& [label, value] : provenance(s))
    about += fmt::format("<dt>{}</dt><dd>{}</dd>\n", label, html_escaped(value));
  page += section("runs", "What was run", about + "</dl>\n" + as_html(runs_table(s)));
  return page + fmt::format("</main>\n<script>{}{}</script>\n</body></html>\n", kSortScript, kReportScript);
}

Summary write_report(const std::string& out, std::optional<double> margin) {
  const Listing listing = list_runs(out);
  Summary summary = summarise(listing);
  if (margin) summary.margin = *margin;
  write_summary(out, summary);
  write_file_atomic(out + "/report.html", report_html(summary, listing));
  return summary;
}

void write_plots(const std::string& out, const Summary& s, const Listing& listing) {
  for (const NamedPicture& plot : all_plots(s, listing)) {
    plot.picture.write_svg(fmt::format("{}/plots/{}.svg", out, plot.name));
    plot.picture.write_png(fmt::format("{}/plots/{}.png", out, plot.name));
  }
}

}  // namespace glia::results
