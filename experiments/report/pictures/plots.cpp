#include "experiments/report/pictures/plots.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>

#include "engine/core/check.h"
#include "experiments/report/tables.h"

namespace glia::results {
namespace {

using namespace drawing;

constexpr double kTitle = 15, kLabel = 12, kSmall = 10.5;

std::string stars(const std::optional<double>& p) {
  return !p ? "" : *p < 0.001 ? "***" : *p < 0.01 ? "**" : *p < 0.05 ? "*" : "";
}

// A linear axis: data low … high onto pixels from … to.
struct Axis {
  double low, high, from, to;
  double operator()(double value) const { return from + (value - low) / (high - low) * (to - from); }
};

// Range of the values with a margin on both sides; `zero`: the axis starts there.
Axis fitted(const std::vector<double>& values, double from, double to, bool zero) {
  double low = 0, high = 1;
  if (!values.empty()) {
    const auto [a, b] = std::minmax_element(values.begin(), values.end());
    low = zero ? std::min(0.0, *a) : *a, high = *b;
  }
  double margin = 0.06 * (high - low);
  if (margin <= 0) margin = std::max(1e-3, 0.05 * std::abs(high));
  // What is drawn here is never below 0, whatever the margin.
  return {zero ? 0 : low >= 0 ? std::max(0.0, low - margin) : low - margin, high + margin, from, to};
}

std::string label_of(double value, int decimals) { return fmt::format("{:.{}f}", value, decimals); }

void x_axis(Picture& p, const Axis& x, double top, double bottom, const std::string& name, int count = 5) {
  const Ticks t = ticks(x.low, x.high, count);
  for (double value : t.at) {
    p.line({x(value), top}, {x(value), bottom}, kLight, 0.8);
    p.text({x(value), bottom + 16}, label_of(value, t.decimals),
           {.size = kSmall, .color = kGrey, .anchor = Anchor::middle});
  }
  p.line({x.from, bottom}, {x.to, bottom}, kGrey, 1);
  p.text({(x.from + x.to) / 2, bottom + 36}, name, {.size = kLabel, .color = kGrey, .anchor = Anchor::middle});
}

void y_axis(Picture& p, const Axis& y, double left, double right, const std::string& name) {
  const Ticks t = ticks(y.low, y.high, 6);
  for (double value : t.at) {
    p.line({left, y(value)}, {right, y(value)}, kLight, 0.8);
    p.text({left - 7, y(value) + 4}, label_of(value, t.decimals),
           {.size = kSmall, .color = kGrey, .anchor = Anchor::end});
  }
  p.line({left, y.from}, {left, y.to}, kGrey, 1);
  p.text({left, y.to - 10}, name, {.size = kLabel, .color = kGrey});
}

struct Bar {
  std::string config;
  const Metric* metric;
  std::string note;  // right of the value
  std::optional<double> published;
};

void whisker(Picture& p, double from, double to, double y) {
  p.line({from, y}, {to, y}, kBlack, 1.6);
  for (double end : {from, to}) p.line({end, y - 4}, {end, y + 4}, kBlack, 1.6);
}

// What stands for a mean: a bar from 0 with its standard error or, where the axis does not start at 0 and a bar's length would
// say nothing, a dot with its 95 % interval.
enum class Shown { bars, dots };

std::optional<std::pair<double, double>> whisker_of(const statistics::Estimate& e, Shown shown) {
  if (shown == Shown::dots) return e.ci_low ? std::optional(std::pair(*e.ci_low, *e.ci_high)) : std::nullopt;
  return e.se ? std::optional(std::pair(*e.mean - *e.se, *e.mean + *e.se)) : std::nullopt;
}

// Horizontal bars: the configurations' names are readable without turning the head.
Picture bar_plot(const Summary& s, const std::string& title, const std::string& note, const std::string& axis_name,
                 const std::vector<Bar>& bars, Shown shown) {
  const double pitch = 34, top = 74, bottom = top + pitch * double(bars.size());
  double label_w = 60, value_w = 0, note_w = 0;
  std::vector<double> extent;
  std::vector<std::string> values;
  for (const Bar& bar : bars) {
    const auto& e = bar.metric->estimate;
    label_w = std::max(label_w, text_width(bar.config, kLabel));
    values.push_back(fmt::format("{:.4f} ±{}", *e.mean, e.se ? fmt::format("{:.4f}", *e.se) : kNotAvailable));
    value_w = std::max(value_w, text_width(values.back(), 11));
    note_w = std::max(note_w, text_width(bar.note, 11));
    extent.insert(extent.end(), bar.metric->values.begin(), bar.metric->values.end());
    extent.push_back(*e.mean);
    if (const auto ends = whisker_of(e, shown)) extent.insert(extent.end(), {ends->first, ends->second});
    if (bar.published) extent.push_back(*bar.published);
  }
  const double left = label_w + 24, plot_w = 430, width = left + plot_w + value_w + note_w + 44;
  Picture p(std::max(width, text_width(title, kTitle, true) + 32), bottom + 76, title);
  const Axis x = fitted(extent, left, left + plot_w, shown == Shown::bars);
  p.text({14, 26}, title, {.size = kTitle, .bold = true});
  p.text({14, 46}, note, {.size = kSmall, .color = kGrey});
  x_axis(p, x, top - 6, bottom, axis_name, 6);
  for (size_t i = 0; i < bars.size(); ++i) {
    const Bar& bar = bars[i];
    const auto& e = bar.metric->estimate;
    const double y = top + pitch * (double(i) + 0.5);
    const Style style = style_of(s, bar.config);
    p.text({left - 8, y + 4}, bar.config, {.size = kLabel, .anchor = Anchor::end});
    if (shown == Shown::bars) p.rect(left, y - 9, x(*e.mean) - left, 18, with_alpha(style.color, 0.75));
    const double seeds_y = y + (shown == Shown::bars ? 5.5 : 10);
    for (double value : bar.metric->values) p.circle({x(value), seeds_y}, 2, with_alpha(kBlack, 0.4));
    if (const auto ends = whisker_of(e, shown)) whisker(p, x(ends->first), x(ends->second), y);
    if (shown == Shown::dots) p.circle({x(*e.mean), y}, 5.5, style.color, kBlack);
    if (bar.published) p.marker({x(*bar.published), y}, 3, 5.5, kWhite, kBlack);
    p.text({left + plot_w + 16, y + 4}, values[i], {.size = 11});
    p.text({left + plot_w + 28 + value_w, y + 4}, bar.note, {.size = 11});
  }
  // The legend has its own line below the axis' name.
  double at = left;
  const double y = bottom + 60;
  const auto entry = [&](const std::string& text, const std::function<void(double)>& symbol) {
    symbol(at + 8);
    p.text({at + 20, y + 4}, text, {.size = kSmall, .color = kGrey});
    at += 20 + text_width(text, kSmall) + 18;
  };
  entry("one seed", [&](double cx) { p.circle({cx, y}, 2, with_alpha(kBlack, 0.4)); });
  entry(shown == Shown::bars ? "± standard error" : "95 % interval",
        [&](double cx) { whisker(p, cx - 7, cx + 7, y); });
  if (std::ranges::any_of(bars, [](const Bar& b) { return b.published.has_value(); }))
    entry("published", [&](double cx) { p.marker({cx, y}, 3, 5.5, kWhite, kBlack); });
  return p;
}

std::string p_note(const Comparison* vs) {
  return vs && vs->welch_holm ? fmt::format("p {}{}", format_p(vs->welch_holm), stars(vs->welch_holm)) : "";
}

std::string p_legend(const std::string& baseline) {
  return fmt::format("p against {} (Welch, Holm-corrected); * < 0.05, ** < 0.01, *** < 0.001", baseline);
}

std::optional<double> published_mark(const Summary& s, const std::string& config, const std::string& metric) {
  const Published* p = s.published(config, metric);
  return p ? std::optional(p->value) : std::nullopt;
}

// Names at the right end of the lines, moved apart, with a thin lead from where the line ends.
struct EndLabel {
  std::string config;
  double y;
};
constexpr double kEndLabelHeight = 17;

// Where a panel ends so that the names of so many lines stand beside it without covering one another.
double bottom_for(double top, size_t lines) { return std::max(400.0, top + kEndLabelHeight * (double(lines) - 1)); }

void end_labels(Picture& p, const Summary& s, const std::vector<EndLabel>& labels, double x, double low,
                double high) {
  std::vector<double> wanted;
  for (const EndLabel& label : labels) wanted.push_back(label.y);
  const std::vector<double> placed = spread(wanted, kEndLabelHeight, low, high);
  for (size_t i = 0; i < labels.size(); ++i) {
    const Style style = style_of(s, labels[i].config);
    p.line({x + 5, labels[i].y}, {x + 18, placed[i]}, with_alpha(style.color, 0.6), 0.8);
    p.marker({x + 25, placed[i]}, style.marker, 4.5, style.color);
    p.text({x + 34, placed[i] + 4}, labels[i].config, {.size = 11});
  }
}

double names_width(const Summary& s, bool moe_only) {
  double w = 0;
  for (const ConfigSummary& c : s.configs)
    if (c.moe || !moe_only) w = std::max(w, text_width(c.config, 11));
  return w;
}

// The study's, else that of a built-in study which has a configuration of this name.
const Look* look_of(const Study& study, const std::string& config) {
  const auto of = [&](const Study& one) -> const Look* {
    const Configuration* c = one.find(config);
    return c && c->look ? &*c->look : nullptr;
  };
  if (const Look* own = of(study)) return own;
  for (const Study& other : built_in_studies())
    if (const Look* look = of(other)) return look;
  return nullptr;
}

}  // namespace

Style style_of(const Summary& s, const std::string& config) {
  if (const Look* look = look_of(s.study, config)) {
    const auto [r, g, b] = look->colour;
    return {{r, g, b}, look->marker, look->dashes};
  }
  // Other routers: further colours (Tol's muted scheme) by their place among the unknown ones.
  static const Color more[] = {{0x33, 0x22, 0x88}, {0x88, 0x22, 0x55}, {0x11, 0x77, 0x33}, {0x99, 0x99, 0x33},
                               {0x44, 0xaa, 0x99}, {0xaa, 0x44, 0x99}, {0x66, 0x33, 0x22}, {0x88, 0xcc, 0xee}};
  int place = 0;
  for (const ConfigSummary& c : s.configs) {
    if (c.config == config) break;
    place += look_of(s.study, c.config) == nullptr;
  }
  static const std::vector<double> dashes[] = {{}, {5, 3}, {2, 2}};
  return {more[place % 8], place % 8, dashes[place / 8 % 3]};
}

namespace {

// One dot a configuration of what all of them are measured by.
Picture dots_plot(const Summary& s, const std::string& metric, const std::string& title, const std::string& name) {
  std::vector<Bar> bars;
  for (const ConfigSummary& c : s.configs) {
    const Metric* m = c.find(metric);
    if (m)
      bars.push_back({c.config, m, p_note(c.against(metric, s.study.accuracy_baseline())),
                      published_mark(s, c.config, metric)});
  }
  return bar_plot(s, title, p_legend(s.study.accuracy_baseline()),
                  name + " (the axis does not start at 0; numbers: mean ± standard error)", bars, Shown::dots);
}

}  // namespace

Picture accuracy_plot(const Summary& s) { return dots_plot(s, "accuracy", "Test accuracy", "accuracy"); }

Picture word_loss_plot(const Summary& s) {
  return dots_plot(s, "word_loss", "Loss a word", "nats a word, lower is better");
}

Picture specialisation_plot(const Summary& s, int layer, bool cls) {
  const std::string metric = layer_metric(cls ? "specialisation_cls" : kSpecialisation, layer);
  std::vector<Bar> bars;
  for (const ConfigSummary& c : s.configs) {
    const Metric* m = c.find(metric);
    if (!m) continue;
    bars.push_back(
        {c.config, m, p_note(c.against(metric, s.study.routing_baseline())),
         published_mark(s, c.config, layer_metric(cls ? "specialisation_cls" : "specialisation", layer))});
  }
  const char* place = layer == 1 ? " (first)" : layer == s.layers ? " (last)" : "";
  return bar_plot(s,
                  fmt::format("Specialisation, layer {}{}, {}", layer, place, cls ? "CLS rows only" : "all tokens"),
                  p_legend(s.study.routing_baseline()),
                  "specialisation: mean deviation of the experts' shares over topics", bars, Shown::bars);
}

Picture depth_plot(const Summary& s) {
  const double panel = 300, left = 62, gap = 74, top = 84, bottom = bottom_for(top, s.configs.size());
  const double right_w = names_width(s, true) + 50;
  const int sides = s.reads_cls() ? 2 : 1;
  Picture p(left + sides * panel + (sides - 1) * gap + right_w + 6, bottom + 52, "Specialisation by depth");
  p.text({14, 26}, "Specialisation by depth", {.size = kTitle, .bold = true});
  p.text({14, 46}, "mean over seeds; bars: standard error", {.size = kSmall, .color = kGrey});
  std::vector<double> values;
  for (const ConfigSummary& c : s.configs)
    for (int l = 1; l <= s.layers; ++l)
      for (const char* name : {kSpecialisation, "specialisation_cls"})
        if (const Metric* m = c.find(layer_metric(name, l));
            m && (sides == 2 || name != std::string("specialisation_cls")))
          values.push_back(*m->estimate.mean + m->estimate.se.value_or(0));
  const Axis y = fitted(values, bottom, top, true);
  for (int side = 0; side < sides; ++side) {
    const double x0 = left + side * (panel + gap);
    y_axis(p, y, x0, x0 + panel, side ? "CLS rows only" : "all tokens");
    const double inset = s.layers == 1 ? panel / 2 : 22;
    const auto x = [&](int l) {
      return s.layers == 1 ? x0 + inset : x0 + inset + (panel - 2 * inset) * (l - 1) / (s.layers - 1);
    };
    const int every = (s.layers + 11) / 12;  // the first layer and the last one have their numbers
    for (int l = s.layers; l >= 1; l = l == 1 ? 0 : l - every > every ? l - every : 1)
      p.text({x(l), bottom + 17}, std::to_string(l), {.size = kSmall, .color = kGrey, .anchor = Anchor::middle});
    p.line({x0, bottom}, {x0 + panel, bottom}, kGrey, 1);
    p.text({x0 + panel / 2, bottom + 38}, "layer", {.size = kLabel, .color = kGrey, .anchor = Anchor::middle});
    std::vector<EndLabel> labels;
    for (const ConfigSummary& c : s.configs) {
      const Style style = style_of(s, c.config);
      std::vector<Point> points;
      for (int l = 1; l <= s.layers; ++l)
        if (const Metric* m = c.find(layer_metric(side ? "specialisation_cls" : kSpecialisation, l))) {
          points.push_back({x(l), y(*m->estimate.mean)});
          if (const auto& se = m->estimate.se)
            p.line({x(l), y(*m->estimate.mean - *se)}, {x(l), y(*m->estimate.mean + *se)},
                   with_alpha(style.color, 0.6), 1.4);
        }
      if (points.empty()) continue;
      p.polyline(points, style.color, 1.8, style.dashes);
      for (const Point& point : points) p.marker(point, style.marker, 4, style.color);
      labels.push_back({c.config, points.back().y});
    }
    // A single layer stands in the panel's middle; names begin behind the grid's lines all the same.
    if (side == sides - 1) end_labels(p, s, labels, x0 + panel - (s.layers == 1 ? 10 : inset) + 12, top, bottom);
  }
  return p;
}

Picture scatter_plot(const Summary& s) {
  const double left = 72, plot_w = 460, top = 84, right_w = names_width(s, true) + 44;
  const double bottom = std::max(420.0, top + 20.0 * double(s.configs.size()));  // room for the legend
  Picture p(left + plot_w + right_w + 10, bottom + 56, "Accuracy against specialisation");
  p.text({14, 26}, "Accuracy against last-layer specialisation", {.size = kTitle, .bold = true});
  p.text({14, 46}, "means over seeds, bars: standard errors; small dots: single runs",
         {.size = kSmall, .color = kGrey});
  struct Entry {
    const ConfigSummary* config;
    const Metric *x, *y;
  };
  std::vector<Entry> entries;
  std::vector<double> xs, ys;
  for (const ConfigSummary& c : s.configs) {
    const Metric* x = c.find(layer_metric(kSpecialisation, s.layers));
    const Metric* y = c.find("accuracy");
    if (!x || !y) continue;
    entries.push_back({&c, x, y});
    xs.insert(xs.end(), x->values.begin(), x->values.end());
    ys.insert(ys.end(), y->values.begin(), y->values.end());
  }
  const Axis x = fitted(xs, left, left + plot_w, false), y = fitted(ys, bottom, top, false);
  x_axis(p, x, top, bottom, "specialisation of the last layer, all tokens", 6);
  y_axis(p, y, left, left + plot_w, "test accuracy");
  double legend = top + 8;
  for (const Entry& e : entries) {
    const Style style = style_of(s, e.config->config);
    for (size_t i = 0; i < e.x->values.size() && i < e.y->values.size(); ++i)
      p.circle({x(e.x->values[i]), y(e.y->values[i])}, 1.8, with_alpha(style.color, 0.6));
  }
  for (const Entry& e : entries) {
    const Style style = style_of(s, e.config->config);
    const double mx = *e.x->estimate.mean, my = *e.y->estimate.mean;
    const double sx = e.x->estimate.se.value_or(0), sy = e.y->estimate.se.value_or(0);
    p.line({x(mx - sx), y(my)}, {x(mx + sx), y(my)}, style.color, 1.4);
    p.line({x(mx), y(my - sy)}, {x(mx), y(my + sy)}, style.color, 1.4);
    p.marker({x(mx), y(my)}, style.marker, 6, style.color, kBlack);
    p.marker({left + plot_w + 22, legend}, style.marker, 5, style.color, kBlack);
    p.text({left + plot_w + 33, legend + 4}, e.config->config, {.size = 11});
    legend += 20;
  }
  return p;
}

std::vector<Curves> training_curves(const Listing& listing, int bins) {
  const std::vector<Run>& runs = listing.runs;
  struct Sums {
    std::vector<double> loss, count;
    std::map<int64_t, std::pair<double, int>> accuracy;  // by step
    double last_step = 0;
  };
  std::vector<std::pair<std::string, Sums>> all;
  // Pass 1 finds the longest run of all, so that the bins of all configurations agree.
  std::vector<std::pair<const Run*, Metrics>> logs;
  double last = 1;
  for (const Run& run : runs) {
    try {
      logs.emplace_back(&run, read_metrics(run.folder, size_t(bins) * 10));
    } catch (const Error&) {
      continue;  // a run without a log yet has no curve; the summary names what is broken
    }
    if (!logs.back().second.train.empty()) last = std::max(last, double(logs.back().second.train.back().step));
  }
  for (const auto& [run, metrics] : logs) {
    auto at = std::ranges::find(all, run->config.config, &std::pair<std::string, Sums>::first);
    if (at == all.end()) {
      at = all.insert(at, {run->config.config, {}});
      at->second.loss.resize(size_t(bins)), at->second.count.resize(size_t(bins));
    }
    Sums& sums = at->second;
    for (const TrainPoint& point : metrics.train) {
      const size_t bin = size_t(std::clamp(int(double(point.step) / last * bins), 0, bins - 1));
      // The task's own part where there are several, else the loss itself.
      const double loss = point.values.get("ce", point.values.get("loss"));
      if (std::isfinite(loss)) sums.loss[bin] += loss, sums.count[bin] += 1;
    }
    for (const EvalPoint& point : metrics.evals) {
      auto& [sum, count] = sums.accuracy[point.step];
      sum += point.values.get("accuracy"), ++count;
    }
  }
  std::vector<Curves> curves;
  for (const auto& [config, sums] : all) {
    Curves c{config, {}, {}};
    for (int bin = 0; bin < bins; ++bin)
      if (sums.count[size_t(bin)] > 0) {
        c.loss.steps.push_back((bin + 0.5) * last / bins);
        c.loss.values.push_back(sums.loss[size_t(bin)] / sums.count[size_t(bin)]);
      }
    for (const auto& [step, sum] : sums.accuracy) {
      c.accuracy.steps.push_back(double(step));
      c.accuracy.values.push_back(sum.first / sum.second);
    }
    curves.push_back(std::move(c));
  }
  std::ranges::sort(curves, [&](const Curves& a, const Curves& b) {
    return configuration_less(listing.study, a.config, b.config);
  });
  return curves;
}

Picture curves_plot(const Summary& s, const std::vector<Curves>& curves) {
  const double panel = 330, left = 62, gap = 74, top = 84, bottom = bottom_for(top, curves.size());
  const double right_w = names_width(s, false) + 56;
  Picture p(left + 2 * panel + gap + right_w + 6, bottom + 52, "Training curves");
  p.text({14, 26}, "Training curves", {.size = kTitle, .bold = true});
  p.text({14, 46}, "mean over seeds", {.size = kSmall, .color = kGrey});
  for (int side = 0; side < 2; ++side) {
    const double x0 = left + side * (panel + gap);
    std::vector<double> xs = {0}, ys;
    for (const Curves& c : curves) {
      const Curve& curve = side ? c.accuracy : c.loss;
      xs.insert(xs.end(), curve.steps.begin(), curve.steps.end());
      ys.insert(ys.end(), curve.values.begin(), curve.values.end());
    }
    // The first evaluations of a model that knows nothing yet would flatten all that follows.
    if (side && ys.size() > 8) {
      std::vector<double> sorted = ys;
      std::sort(sorted.begin(), sorted.end());
      const double low = sorted[sorted.size() / 4] - 2 * (sorted.back() - sorted[sorted.size() / 4]);
      std::erase_if(ys, [&](double v) { return v < low; });
    }
    const Axis x{0, *std::max_element(xs.begin(), xs.end()) + 1e-9, x0, x0 + panel};
    const Axis y = fitted(ys, bottom, top, !side);
    x_axis(p, x, top, bottom, "step", 5);
    y_axis(p, y, x0, x0 + panel, side ? "accuracy of the evaluations" : "cross-entropy of the training batches");
    std::vector<EndLabel> labels;
    for (const Curves& c : curves) {
      const Curve& curve = side ? c.accuracy : c.loss;
      const Style style = style_of(s, c.config);
      std::vector<Point> points;
      for (size_t i = 0; i < curve.steps.size(); ++i)
        if (curve.values[i] >= y.low) points.push_back({x(curve.steps[i]), y(curve.values[i])});
      if (points.empty()) continue;
      p.polyline(points, style.color, 1.6, style.dashes);
      if (side || points.size() == 1)  // a line of one point would not be seen
        for (const Point& point : points) p.marker(point, style.marker, 3.2, style.color);
      labels.push_back({c.config, points.back().y});
    }
    if (side) end_labels(p, s, labels, x0 + panel + 2, top, bottom);
  }
  return p;
}

}  // namespace glia::results
