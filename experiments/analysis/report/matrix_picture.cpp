#include "experiments/analysis/report/matrix_picture.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace glia::results {
namespace {

using namespace drawing;

constexpr Color kNegative{0xd5, 0x5e, 0x00};  // Okabe and Ito's vermilion
constexpr double kTitle = 15, kSmall = 10.5, kCellHeight = 24;

Color fill_of(double value, double largest) {
  if (std::isnan(value)) return kLight;
  const double t = largest > 0 ? std::min(std::abs(value) / largest, 1.0) : 0;
  return value < 0 ? mix(kWhite, kNegative, t) : sequential(t);
}

}  // namespace

Picture draw(const MatrixPicture& m) {
  double label_w = 0, cell_w = 34, largest = 0;
  for (const auto& name : m.rows) label_w = std::max(label_w, text_width(name, 11.5));
  for (const auto& name : m.columns) cell_w = std::max(cell_w, text_width(name, kSmall) + 8);
  for (const Matrix& panel : m.panels)
    for (const double value : panel.values)
      if (std::isfinite(value)) {
        largest = std::max(largest, std::abs(value));
        cell_w = std::max(cell_w, text_width(fmt::format("{:.{}f}", value, m.decimals), kSmall) + 8);
      }
  const int across = m.panels.size() > 1 && m.columns.size() <= 16 ? 2 : 1;
  const int down = (int(m.panels.size()) + across - 1) / across;
  const double left = label_w + 22, panel_w = cell_w * double(m.columns.size()), gap = 26, header = 58;
  const double panel_h = kCellHeight * double(m.rows.size()), pitch = panel_h + 56;
  const double width = std::max({left + across * panel_w + (across - 1) * gap + 16,
                                 text_width(m.title, kTitle, true) + 32, text_width(m.note, kSmall) + 32});
  Picture p(width, header + down * pitch + 10, m.title);
  p.text({14, 26}, m.title, {.size = kTitle, .bold = true});
  p.text({14, 44}, m.note, {.size = kSmall, .color = kGrey});
  for (int i = 0; i < int(m.panels.size()); ++i) {
    const double x0 = left + (i % across) * (panel_w + gap), y0 = header + 22 + (i / across) * pitch;
    p.text({x0, y0 - 8}, m.captions[size_t(i)], {.size = 12, .bold = true});
    for (int r = 0; r < m.panels[size_t(i)].rows; ++r) {
      const double y = y0 + r * kCellHeight;
      if (i % across == 0)
        p.text({x0 - 8, y + kCellHeight / 2 + 4}, m.rows[size_t(r)], {.size = 11.5, .anchor = Anchor::end});
      for (int c = 0; c < m.panels[size_t(i)].cols; ++c) {
        const double value = m.panels[size_t(i)](r, c);
        const Color fill = fill_of(value, largest);
        p.rect(x0 + c * cell_w, y, cell_w, kCellHeight, fill, kWhite, 1);
        p.text({x0 + (c + 0.5) * cell_w, y + kCellHeight / 2 + 4},
               std::isnan(value) ? "n/a" : fmt::format("{:.{}f}", value, m.decimals),
               {.size = kSmall, .color = text_on(fill), .anchor = Anchor::middle});
      }
    }
    for (size_t c = 0; c < m.columns.size(); ++c)
      p.text({x0 + (double(c) + 0.5) * cell_w, y0 + panel_h + 15}, m.columns[c],
             {.size = kSmall, .color = kGrey, .anchor = Anchor::middle});
  }
  return p;
}

}  // namespace glia::results
