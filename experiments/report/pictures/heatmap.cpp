#include "experiments/report/pictures/heatmap.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/core/check.h"
#include "engine/core/command_line/terminal.h"

namespace glia::results {
namespace {

using namespace drawing;

Matrix permuted(const Matrix& m,
                const std::vector<int>& column_of) {  // column e of the result is column_of[e] of m
  Matrix out(m.rows, m.cols);
  for (int c = 0; c < m.rows; ++c)
    for (int e = 0; e < m.cols; ++e) out(c, e) = m(c, column_of[size_t(e)]);
  return out;
}

// For each column of the reference, the column of m that goes there.
std::vector<int> match(const Matrix& reference, const Matrix& m) {
  std::vector<double> cost(size_t(m.cols) * size_t(m.cols));
  for (int e = 0; e < m.cols; ++e)
    for (int f = 0; f < m.cols; ++f)
      for (int c = 0; c < m.rows; ++c) {
        const double d = reference(c, e) - m(c, f);
        cost[size_t(e) * size_t(m.cols) + size_t(f)] += d * d;
      }
  return best_assignment(cost, m.cols);
}

double largest(const Heatmap& map) {
  double top = 0;
  for (const Matrix& m : map.layers)
    for (double value : m.values) top = std::max(top, value);
  return top;
}

// The colour scale ends at the next 5 %, so that pictures of similar runs share it.
double scale_end(const Heatmap& map) { return std::max(0.05, std::ceil(largest(map) * 20 - 1e-9) / 20); }

std::string caption_of(int layer, const std::optional<double>& specialisation) {
  return fmt::format("layer {} · specialisation {}", layer,
                     specialisation ? fmt::format("{:.4f}", *specialisation) : std::string("n/a"));
}

void keep_layer(Heatmap& map, std::optional<int> layer, const std::string& from) {
  for (size_t l = 0; l < map.layers.size(); ++l) map.layer_numbers.push_back(int(l) + 1);
  if (!layer) return;
  if (*layer < 1 || *layer > int(map.layers.size()))
    fail_input("{}: expected a layer in 1…{}, got {}", from, map.layers.size(), *layer);
  const auto keep = [&](auto& list) {
    if (!list.empty()) list = {list[size_t(*layer - 1)]};
  };
  keep(map.layers), keep(map.layer_numbers), keep(map.captions);
}

// Switch's gates are probabilities, ReMoE's have any sum: of those nobody knows what an even share would be.
bool gates_are_shares(const Heatmap& map) {
  for (const Matrix& m : map.layers)
    for (int c = 0; c < m.rows; ++c) {
      double sum = 0;
      for (int e = 0; e < m.cols; ++e) sum += m(c, e);
      if (seen(m, c) && std::abs(sum - 1) > 1e-3) return false;
    }
  return true;
}

}  // namespace

std::string layer_caption(const Heatmap& map, size_t l) {
  if (l < map.captions.size()) return map.captions[l];
  return caption_of(map.layer_numbers[l], specialisation(map.layers[l]));
}

std::vector<int> best_assignment(const std::vector<double>& cost, int n) {
  CHECK(cost.size() == size_t(n) * size_t(n), "best_assignment: wants an [n, n] cost, n = {}, got {}", n,
        cost.size());
  // Row and column 0 are sentinels. u and v are potentials: cost − u − v >= 0, and 0 on assigned pairs.
  std::vector<double> u(size_t(n) + 1), v(size_t(n) + 1);
  std::vector<int> row_of(size_t(n) + 1), previous(size_t(n) + 1);
  for (int row = 1; row <= n; ++row) {
    row_of[0] = row;
    int column = 0;
    std::vector<double> distance(size_t(n) + 1, std::numeric_limits<double>::infinity());
    std::vector<char> done(size_t(n) + 1, 0);
    do {  // grow the tree of shortest alternating paths until it reaches a free column
      done[size_t(column)] = 1;
      const int from = row_of[size_t(column)];
      double step = std::numeric_limits<double>::infinity();
      int next = 0;
      for (int j = 1; j <= n; ++j) {
        if (done[size_t(j)]) continue;
        const double reduced = cost[size_t(from - 1) * size_t(n) + size_t(j - 1)] - u[size_t(from)] - v[size_t(j)];
        if (reduced < distance[size_t(j)]) distance[size_t(j)] = reduced, previous[size_t(j)] = column;
        if (distance[size_t(j)] < step) step = distance[size_t(j)], next = j;
      }
      CHECK(next > 0, "best_assignment: the costs are not finite");
      for (int j = 0; j <= n; ++j)
        if (done[size_t(j)]) u[size_t(row_of[size_t(j)])] += step, v[size_t(j)] -= step;
        else distance[size_t(j)] -= step;
      column = next;
    } while (row_of[size_t(column)] != 0);
    for (; column != 0; column = previous[size_t(column)])  // flip the path
      row_of[size_t(column)] = row_of[size_t(previous[size_t(column)])];
  }
  std::vector<int> column_of(static_cast<size_t>(n));
  for (int j = 1; j <= n; ++j) column_of[size_t(row_of[size_t(j)] - 1)] = j - 1;
  return column_of;
}

Matrix matched_mean(const std::vector<Matrix>& matrices) {
  CHECK(!matrices.empty(), "matched_mean: no matrices");
  Matrix reference = matrices[0];
  std::vector<std::vector<int>> old;
  for (int round = 0; round < 100; ++round) {  // the squared distance to the mean falls every round, so it ends
    std::vector<std::vector<int>> assignments;
    Matrix mean(reference.rows, reference.cols);
    for (const Matrix& m : matrices) {
      CHECK(m.rows == mean.rows && m.cols == mean.cols, "matched_mean: [{}, {}] among [{}, {}] matrices", m.rows,
            m.cols, mean.rows, mean.cols);
      assignments.push_back(match(reference, m));
      const Matrix aligned = permuted(m, assignments.back());
      for (size_t i = 0; i < mean.values.size(); ++i) mean.values[i] += aligned.values[i] / double(matrices.size());
    }
    if (assignments == old) break;
    old = std::move(assignments);
    reference = std::move(mean);
  }
  return reference;
}

Heatmap heatmap_of(const Run& run, bool cls, std::optional<int> layer) {
  return heatmap_of(run, read_run_utilisation(run, cls), cls, layer);
}

Heatmap heatmap_of(const Run& run, RunUtilisation u, bool cls, std::optional<int> layer) {
  Heatmap map;
  map.title =
      fmt::format("{}, seed{}: {}", run.config.config, run.config.seed_index, cls ? "CLS rows only" : "all tokens");
  map.note = fmt::format("mean gate of each expert over a topic's {}, in percent", cls ? "CLS rows" : "tokens");
  map.topics = std::move(u.topics);
  map.layers = std::move(u.layers);
  keep_layer(map, layer, run.folder);
  return map;
}

Heatmap heatmap_of_mean(const std::vector<Run>& runs, bool cls, std::optional<int> layer) {
  CHECK(!runs.empty(), "heatmap of the mean: no runs");
  if (runs.size() == 1) return heatmap_of(runs[0], cls, layer);
  std::vector<RunUtilisation> all;
  for (const Run& run : runs) all.push_back(read_run_utilisation(run, cls));
  Heatmap map;
  map.title = fmt::format("{}, mean of {} seeds, experts matched: {}", runs[0].config.config, runs.size(),
                          cls ? "CLS rows only" : "all tokens");
  map.note =
      "each seed's experts permuted by the best assignment to the mean, layer by layer; specialisation: mean of "
      "the seeds'";
  map.topics = all[0].topics;
  for (size_t l = 0; l < all[0].layers.size(); ++l) {
    std::vector<Matrix> layers;
    std::optional<double> mean = 0;
    for (const RunUtilisation& u : all) {
      CHECK(u.layers.size() == all[0].layers.size(), "{}: other layers than {}", runs[0].folder, u.layers.size());
      layers.push_back(u.layers[l]);
      const auto one = specialisation(u.layers[l]);
      mean = one && mean ? std::optional(*mean + *one / double(all.size())) : std::nullopt;
    }
    map.layers.push_back(matched_mean(layers));
    map.captions.push_back(caption_of(int(l) + 1, mean));
  }
  keep_layer(map, layer, runs[0].folder);
  return map;
}

Picture draw(const Heatmap& map) {
  const int experts = map.layers[0].cols, topics = map.layers[0].rows, layers = int(map.layers.size());
  const double cell_w = experts <= 8 ? 38 : experts <= 16 ? 30 : 14, cell_h = topics <= 20 ? 26 : 16;
  const bool annotate = cell_w >= 30;
  double label_w = 0;
  for (const auto& topic : map.topics) label_w = std::max(label_w, text_width(topic, 11.5));
  const int columns = layers == 1 ? 1 : experts > 32 ? 1 : layers <= 8 ? 2 : 4;
  const int panel_rows = (layers + columns - 1) / columns;
  const double left = label_w + 22, gap = 26, panel_h = topics * cell_h;
  double panel_w = experts * cell_w;
  for (int l = 0; l < layers; ++l) panel_w = std::max(panel_w, text_width(layer_caption(map, size_t(l)), 12, true));
  const double pitch_h = panel_h + 56, header = 58;
  double width = left + columns * panel_w + (columns - 1) * gap + 16;
  width = std::max({width, text_width(map.title, 15, true) + 32, text_width(map.note, 10.5) + 32});
  const double height = header + panel_rows * pitch_h + 46;
  const double end = scale_end(map);
  Picture p(width, height, map.title);
  p.text({14, 26}, map.title, {.size = 15, .bold = true});
  p.text({14, 44}, map.note, {.size = 10.5, .color = kGrey});
  for (int l = 0; l < layers; ++l) {
    const Matrix& m = map.layers[size_t(l)];
    const double x0 = left + (l % columns) * (panel_w + gap), y0 = header + 22 + (l / columns) * pitch_h;
    p.text({x0, y0 - 8}, layer_caption(map, size_t(l)), {.size = 12, .bold = true});
    for (int c = 0; c < topics; ++c) {
      if (l % columns == 0)
        p.text({x0 - 8, y0 + (c + 0.5) * cell_h + 4}, map.topics[size_t(c)], {.size = 11.5, .anchor = Anchor::end});
      if (!seen(m, c)) {
        p.text({x0 + panel_w / 2, y0 + (c + 0.5) * cell_h + 4}, map.nothing,
               {.size = 10.5, .color = kGrey, .anchor = Anchor::middle});
        continue;
      }
      for (int e = 0; e < experts; ++e) {
        const Color fill = sequential(m(c, e) / end);
        p.rect(x0 + e * cell_w, y0 + c * cell_h, cell_w, cell_h, fill, kWhite, 1);
        if (annotate)
          p.text({x0 + (e + 0.5) * cell_w, y0 + (c + 0.5) * cell_h + 4}, fmt::format("{:.1f}", 100 * m(c, e)),
                 {.size = 10.5, .color = text_on(fill), .anchor = Anchor::middle});
      }
    }
    const int every = experts <= 16 ? 1 : 8;
    for (int e = 0; e < experts; e += every)
      p.text({x0 + (e + 0.5) * cell_w, y0 + panel_h + 15}, fmt::format("{}{}", experts <= 8 ? "e" : "", e),
             {.size = 10.5, .color = kGrey, .anchor = Anchor::middle});
  }
  const double bar_w = std::min(240.0, width - left - 90), y = height - 34;
  constexpr int steps = 48;
  for (int i = 0; i < steps; ++i)
    p.rect(left + bar_w * i / steps, y, bar_w * (steps - i) / steps, 11,
           sequential((i + 0.5) / steps));  // no seams
  for (double value : {0.0, end / 2, end})
    p.text({left + bar_w * value / end, y + 24}, fmt::format("{:g} %", 100 * value),
           {.size = 10.5, .color = kGrey, .anchor = Anchor::middle});
  const double even = map.mark.value_or(gates_are_shares(map) ? 1.0 / experts : std::nan("")),
               at = left + bar_w * even / end;
  if (even <= end) {  // where every share would be if topics and experts had nothing to do with each other
    p.line({at, y - 3}, {at, y + 13}, kBlack, 1.6);
    p.text({at, y - 6}, fmt::format("{} {:.3g} %", map.mark_name, 100 * even),
           {.size = 10.5, .color = kGrey, .anchor = at < left + bar_w / 2 ? Anchor::start : Anchor::end});
  }
  if (map.layers.size() > 1)  // of one there is no room for it, and nothing to say
    p.text({left + bar_w + 22, y + 10}, "one scale for all layers", {.size = 10.5, .color = kGrey});
  return p;
}

std::string as_text(const Heatmap& map, bool color) {
  const double end = scale_end(map);
  int label = 5;
  for (const auto& topic : map.topics) label = std::max(label, columns_of(topic));
  std::string text = fmt::format("{} (percent)\n", map.title);
  for (size_t l = 0; l < map.layers.size(); ++l) {
    const Matrix& m = map.layers[l];
    text += fmt::format("  {}\n  {}", layer_caption(map, l), std::string(size_t(label), ' '));
    for (int e = 0; e < m.cols; ++e) text += fmt::format(" {:>5} ", fmt::format("e{}", e));
    text += "\n";
    for (int c = 0; c < m.rows; ++c) {
      const std::string& topic = map.topics[size_t(c)];
      text += fmt::format("  {}{}", topic, std::string(size_t(label - columns_of(topic)), ' '));
      for (int e = 0; e < m.cols; ++e) {
        const std::string cell = seen(m, c) ? fmt::format(" {:5.1f} ", 100 * m(c, e)) : "   n/a ";
        if (color && seen(m, c)) {
          // The 6 × 6 × 6 cube of the 256 colours, which every terminal with colours has.
          const Color fill = sequential(m(c, e) / end);
          const auto level = [](uint8_t v) { return v < 48 ? 0 : v < 115 ? 1 : (v - 35) / 40; };
          text += fmt::format("\x1b[48;5;{};38;5;{}m{}\x1b[0m",
                              16 + 36 * level(fill.r) + 6 * level(fill.g) + level(fill.b),
                              text_on(fill) == kWhite ? 231 : 16, cell);
        } else {
          text += cell;
        }
      }
      while (!color && text.back() == ' ') text.pop_back();
      text += "\n";
    }
  }
  return text;
}

}  // namespace glia::results
