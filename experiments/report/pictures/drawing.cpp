#include "experiments/report/pictures/drawing.h"

#include <cairo/cairo-svg.h>
#include <cairo/cairo.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <memory>
#include <numbers>
#include <numeric>

#include "engine/core/check.h"
#include "engine/core/file.h"
#include "experiments/report/html_escape.h"
#include "experiments/report/pictures/fonts.h"

namespace glia::drawing {
namespace {

using Surface = std::unique_ptr<cairo_surface_t, decltype(&cairo_surface_destroy)>;
using Cairo = std::unique_ptr<cairo_t, decltype(&cairo_destroy)>;

cairo_status_t append(void* text, const unsigned char* data, unsigned int size) {
  static_cast<std::string*>(text)->append(reinterpret_cast<const char*>(data), size);
  return CAIRO_STATUS_SUCCESS;
}

void check_status(cairo_status_t status, const char* what) {
  CHECK(status == CAIRO_STATUS_SUCCESS, "drawing: {}: {}", what, cairo_status_to_string(status));
}

void set_font(cairo_t* cr, const std::string& family, double size, bool bold) {
  cairo_select_font_face(cr, family.c_str(), CAIRO_FONT_SLANT_NORMAL,
                         bold ? CAIRO_FONT_WEIGHT_BOLD : CAIRO_FONT_WEIGHT_NORMAL);
  cairo_set_font_size(cr, size);
}

// Calls with each run and its width, its font set.
template <class Visit> void each_run(cairo_t* cr, const std::string& text, double size, bool bold, Visit&& visit) {
  for (const FontRun& run : font_runs(text)) {
    set_font(cr, run.family, size, bold);
    cairo_text_extents_t extents;
    cairo_text_extents(cr, run.text.c_str(), &extents);
    visit(run, extents.x_advance);
  }
}

double width_of(cairo_t* cr, const std::string& text, double size, bool bold) {
  double width = 0;
  each_run(cr, text, size, bold, [&](const FontRun&, double advance) { width += advance; });
  return width;
}

void set_color(cairo_t* cr, Color c) { cairo_set_source_rgba(cr, c.r / 255.0, c.g / 255.0, c.b / 255.0, c.alpha); }

// Two decimals without trailing zeros: pictures inline a few thousand numbers.
std::string short_number(double x) {
  std::string text = fmt::format("{:.2f}", x);
  text.erase(text.find_last_not_of('0') + 1);
  if (text.back() == '.') text.pop_back();
  return text == "-0" ? "0" : text;
}

std::string paint(const char* attribute, Color c) {
  if (c.alpha == 0) return attribute[0] == 'f' ? " fill=\"none\"" : "";
  std::string out = fmt::format(" {}=\"#{:02x}{:02x}{:02x}\"", attribute, c.r, c.g, c.b);
  if (c.alpha < 1) out += fmt::format(" {}-opacity=\"{}\"", attribute, short_number(c.alpha));
  return out;
}

std::string stroke(Color color, double line, const std::vector<double>& dashes = {}) {
  if (color.alpha == 0) return "";
  std::string out = paint("stroke", color) + fmt::format(" stroke-width=\"{}\"", short_number(line));
  if (!dashes.empty()) {
    out += " stroke-dasharray=\"";
    for (size_t i = 0; i < dashes.size(); ++i) out += fmt::format("{}{}", i ? " " : "", short_number(dashes[i]));
    out += "\"";
  }
  return out;
}

// cairo counts surfaces over the whole program and puts the count into the names of an SVG's parts: the same picture
// would have other bytes the second time. Here the names are counted file by file, in the order of their appearance.
std::string with_own_ids(const std::string& svg) {
  std::map<std::string, std::string> names;
  std::string out;
  // Where each mark comes next; looked for again only once it is passed, since one may never come in megabytes of text.
  constexpr std::array<std::string_view, 3> marks = {"id=\"", "href=\"#", "url(#"};
  std::array<size_t, 3> next{};
  for (size_t i = 0; i < marks.size(); ++i) next[i] = svg.find(marks[i]);
  for (size_t at = 0; at < svg.size();) {
    size_t start = std::string::npos, length = 0;
    for (size_t i = 0; i < marks.size(); ++i) {
      if (next[i] < at) next[i] = svg.find(marks[i], at);
      if (next[i] < start) start = next[i], length = marks[i].size();
    }
    if (start == std::string::npos) return out + svg.substr(at);
    const size_t begin = start + length, end = svg.find_first_of("\")", begin);
    out += svg.substr(at, begin - at);
    const auto [it, fresh] = names.try_emplace(svg.substr(begin, end - begin));
    if (fresh) it->second = fmt::format("p{}", names.size());
    out += it->second;
    at = end;
  }
  return out;
}

}  // namespace

Color with_alpha(Color color, double alpha) {
  color.alpha = alpha;
  return color;
}

Color mix(Color a, Color b, double t) {
  const auto channel = [t](uint8_t x, uint8_t y) { return uint8_t(std::lround(x + (y - x) * t)); };
  return {channel(a.r, b.r), channel(a.g, b.g), channel(a.b, b.b), a.alpha + (b.alpha - a.alpha) * t};
}

Color sequential(double t) {
  // Stops of our own from near-white through green-blue to near-black blue, lightness falling evenly from 97 to 17.
  static constexpr Color stops[] = {{0xf7, 0xf8, 0xf3}, {0xcf, 0xe3, 0xdc}, {0x92, 0xc5, 0xcb}, {0x4a, 0x9f, 0xbd},
                                    {0x1f, 0x74, 0xa6}, {0x1d, 0x48, 0x80}, {0x14, 0x22, 0x4d}};
  constexpr int last = int(std::size(stops)) - 1;
  const double at = std::clamp(std::isnan(t) ? 0.0 : t, 0.0, 1.0) * last;
  const int i = std::min(int(at), last - 1);
  return mix(stops[i], stops[i + 1], at - i);
}

double contrast(Color a, Color b) {
  const auto luminance = [](Color c) {
    const auto linear = [](uint8_t v) {
      const double x = v / 255.0;
      return x <= 0.03928 ? x / 12.92 : std::pow((x + 0.055) / 1.055, 2.4);
    };
    return 0.2126 * linear(c.r) + 0.7152 * linear(c.g) + 0.0722 * linear(c.b);
  };
  const double x = luminance(a) + 0.05, y = luminance(b) + 0.05;
  return std::max(x, y) / std::min(x, y);
}

Color text_on(Color paper) { return contrast(kWhite, paper) > contrast(Color{}, paper) ? kWhite : Color{}; }

Picture::Picture(double width, double height, std::string title)
    : width_(width), height_(height), title_(std::move(title)) {}

void Picture::rect(double x, double y, double w, double h, Color fill, Color stroke, double line) {
  shapes_.emplace_back(std::in_place_type<Path>,
                       Path{{{x, y}, {x + w, y}, {x + w, y + h}, {x, y + h}}, true, fill, stroke, line, {}});
}

void Picture::line(Point a, Point b, Color color, double line, std::vector<double> dashes) {
  polyline({a, b}, color, line, std::move(dashes));
}

void Picture::polyline(std::vector<Point> points, Color color, double line, std::vector<double> dashes) {
  if (points.size() >= 2)
    shapes_.emplace_back(std::in_place_type<Path>,
                         Path{std::move(points), false, kNothing, color, line, std::move(dashes)});
}

void Picture::polygon(std::vector<Point> points, Color fill, Color stroke, double line) {
  shapes_.emplace_back(std::in_place_type<Path>, Path{std::move(points), true, fill, stroke, line, {}});
}

void Picture::circle(Point center, double radius, Color fill, Color stroke, double line) {
  shapes_.emplace_back(std::in_place_type<Disc>, Disc{center, radius, fill, stroke, line});
}

void Picture::text(Point baseline, const std::string& text, TextStyle style) {
  if (!text.empty()) shapes_.emplace_back(std::in_place_type<Text>, Text{baseline, text, style});
}

void Picture::marker(Point c, int shape, double r, Color fill, Color stroke) {
  const auto star = [&](int points, double inner, double turn) {  // inner = 1: a regular polygon
    std::vector<Point> corners;
    const int n = inner == 1 ? points : 2 * points;
    for (int i = 0; i < n; ++i) {
      const double angle = turn + 2 * std::numbers::pi * i / n, radius = i % 2 && inner != 1 ? r * inner : r;
      corners.push_back({c.x + 1.15 * radius * std::sin(angle), c.y - 1.15 * radius * std::cos(angle)});
    }
    polygon(std::move(corners), fill, stroke);
  };
  constexpr double pi = std::numbers::pi;
  switch (shape % 8) {
    case 0: return circle(c, r, fill, stroke);
    case 1: return star(4, 1, pi / 4);      // square
    case 2: return star(3, 1, 0);           // triangle
    case 3: return star(4, 1, 0);           // diamond
    case 4: return star(3, 1, pi);          // triangle down
    case 5: return star(4, 0.38, 0);        // four-pointed star
    case 6: return star(5, 0.45, 0);        // star
    default: return star(4, 0.38, pi / 4);  // cross
  }
}

std::string Picture::svg_text() const {
  // Verdana has DejaVu's widths (both descend from Bitstream Vera), so labels measured here fit there.
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" role=\"img\" "
      "font-family=\"DejaVu Sans,Verdana,sans-serif\"><title>{2}</title>",
      short_number(width_), short_number(height_), html_escaped(title_));
  for (const auto& shape : shapes_) {
    if (const auto* path = std::get_if<Path>(&shape)) {
      const auto& p = path->points;
      const bool is_rect =
          path->closed && p.size() == 4 && p[0].y == p[1].y && p[1].x == p[2].x && p[0].x == p[3].x;
      if (is_rect) {
        out += fmt::format("<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"", short_number(p[0].x),
                           short_number(p[0].y), short_number(p[2].x - p[0].x), short_number(p[2].y - p[0].y));
      } else {
        out += "<path d=\"M";
        for (size_t i = 0; i < p.size(); ++i)
          out += fmt::format("{}{} {}", i ? "L" : "", short_number(p[i].x), short_number(p[i].y));
        out += path->closed ? "Z\"" : "\"";
      }
      out += paint("fill", path->fill) + stroke(path->stroke, path->line, path->dashes) + "/>";
    } else if (const auto* disc = std::get_if<Disc>(&shape)) {
      out += fmt::format("<circle cx=\"{}\" cy=\"{}\" r=\"{}\"", short_number(disc->center.x),
                         short_number(disc->center.y), short_number(disc->radius));
      out += paint("fill", disc->fill) + stroke(disc->stroke, disc->line) + "/>";
    } else {
      const auto& [at, text, style] = std::get<Text>(shape);
      out += fmt::format("<text x=\"{}\" y=\"{}\" font-size=\"{}\"", short_number(at.x), short_number(at.y),
                         short_number(style.size));
      out += paint("fill", style.color);
      if (style.anchor != Anchor::start)
        out += style.anchor == Anchor::middle ? " text-anchor=\"middle\"" : " text-anchor=\"end\"";
      if (style.bold) out += " font-weight=\"bold\"";
      if (style.degrees != 0)
        out += fmt::format(" transform=\"rotate({} {} {})\"", short_number(style.degrees), short_number(at.x),
                           short_number(at.y));
      out += ">";
      out += html_escaped(text) + "</text>";
    }
  }
  return out + "</svg>";
}

void Picture::draw(void* handle) const {
  cairo_t* cr = static_cast<cairo_t*>(handle);
  set_color(cr, kWhite);
  cairo_paint(cr);
  cairo_set_line_join(cr, CAIRO_LINE_JOIN_ROUND);
  const auto fill_and_stroke = [&](Color fill, Color stroke, double line) {
    if (fill.alpha > 0) set_color(cr, fill), cairo_fill_preserve(cr);
    if (stroke.alpha > 0) set_color(cr, stroke), cairo_set_line_width(cr, line), cairo_stroke_preserve(cr);
  };
  for (const auto& shape : shapes_) {
    if (const auto* path = std::get_if<Path>(&shape)) {
      cairo_new_path(cr);  // showing a text leaves a current point
      for (const Point& p : path->points) cairo_line_to(cr, p.x, p.y);
      if (path->closed) cairo_close_path(cr);
      cairo_set_dash(cr, path->dashes.data(), int(path->dashes.size()), 0);
      fill_and_stroke(path->fill, path->stroke, path->line);
      cairo_set_dash(cr, nullptr, 0, 0);
    } else if (const auto* disc = std::get_if<Disc>(&shape)) {
      cairo_new_path(cr);
      cairo_arc(cr, disc->center.x, disc->center.y, disc->radius, 0, 2 * std::numbers::pi);
      fill_and_stroke(disc->fill, disc->stroke, disc->line);
    } else {
      const auto& [at, text, style] = std::get<Text>(shape);
      cairo_save(cr);
      cairo_translate(cr, at.x, at.y);
      cairo_rotate(cr, style.degrees * std::numbers::pi / 180);
      const double part = style.anchor == Anchor::middle ? 0.5 : style.anchor == Anchor::end ? 1 : 0;
      double x = -part * width_of(cr, text, style.size, style.bold);
      set_color(cr, style.color);
      each_run(cr, text, style.size, style.bold, [&](const FontRun& run, double advance) {
        cairo_move_to(cr, x, 0);
        cairo_show_text(cr, run.text.c_str());
        x += advance;
      });
      cairo_restore(cr);
    }
  }
  check_status(cairo_status(cr), "drawing failed");
}

void Picture::write_svg(const std::string& path) const {
  std::string text;
  const Surface surface(cairo_svg_surface_create_for_stream(append, &text, width_, height_), cairo_surface_destroy);
  {
    const Cairo cr(cairo_create(surface.get()), cairo_destroy);
    draw(cr.get());
  }
  cairo_surface_finish(surface.get());
  check_status(cairo_surface_status(surface.get()), "SVG");
  // cairo writes no title; screen readers and browsers' tabs want one.
  if (const size_t end = text.find('>', text.find("<svg")); end != std::string::npos)
    text.insert(end + 1, fmt::format("\n<title>{}</title>", html_escaped(title_)));
  write_file_atomic(path, with_own_ids(text));
}

void Picture::write_png(const std::string& path, double scale) const {
  constexpr double kMostPixels = 16384;  // a side: cairo has room for 32,767, and few viewers for more than this
  scale = std::min(scale, kMostPixels / std::max(width_, height_));
  const Surface surface(cairo_image_surface_create(CAIRO_FORMAT_RGB24, int(std::ceil(width_ * scale)),
                                                   int(std::ceil(height_ * scale))),
                        cairo_surface_destroy);
  check_status(cairo_surface_status(surface.get()), "PNG");
  const Cairo cr(cairo_create(surface.get()), cairo_destroy);
  cairo_scale(cr.get(), scale, scale);
  draw(cr.get());
  std::string bytes;
  check_status(cairo_surface_write_to_png_stream(surface.get(), append, &bytes), "PNG");
  write_file_atomic(path, bytes);
}

double text_width(const std::string& text, double size, bool bold) {
  const Surface surface(cairo_image_surface_create(CAIRO_FORMAT_A8, 1, 1), cairo_surface_destroy);
  const Cairo cr(cairo_create(surface.get()), cairo_destroy);
  return width_of(cr.get(), text, size, bold);
}

std::vector<Picture::Box> Picture::text_boxes() const {
  std::vector<Box> boxes;
  for (const auto& shape : shapes_)
    if (const auto* t = std::get_if<Text>(&shape); t && t->style.degrees == 0) {
      const double w = text_width(t->text, t->style.size, t->style.bold);
      const double x = t->at.x - (t->style.anchor == Anchor::middle ? w / 2
                                  : t->style.anchor == Anchor::end  ? w
                                                                    : 0);
      boxes.push_back(
          {x, t->at.y - 0.76 * t->style.size, w, t->style.size, t->text});  // DejaVu: ascent .76, descent .24
    }
  return boxes;
}

std::vector<double> spread(const std::vector<double>& wanted, double height, double low, double high) {
  std::vector<size_t> order(wanted.size());
  std::iota(order.begin(), order.end(), size_t(0));
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return wanted[a] < wanted[b]; });
  if (wanted.size() > 1) height = std::min(height, (high - low) / double(wanted.size() - 1));
  // Blocks of touching labels; a block sits at the mean of what its members want, and merges with one it touches.
  struct Block {
    double sum = 0;  // of wanted − offset in the block
    size_t count = 0;
    double top = 0;
  };
  std::vector<Block> blocks;
  for (size_t i : order) {
    Block block{wanted[i], 1, 0};
    for (;;) {
      const double extent = double(block.count - 1) * height;
      block.top = std::max(low, std::min(block.sum / double(block.count), high - extent));
      if (blocks.empty() || blocks.back().top + double(blocks.back().count) * height <= block.top) break;
      const Block& above = blocks.back();
      block.sum = above.sum + block.sum - double(block.count) * double(above.count) * height;
      block.count += above.count;
      blocks.pop_back();
    }
    blocks.push_back(block);
  }
  std::vector<double> placed(wanted.size());
  size_t next = 0;
  for (const Block& block : blocks)
    for (size_t k = 0; k < block.count; ++k) placed[order[next++]] = block.top + double(k) * height;
  return placed;
}

Ticks ticks(double low, double high, int count) {
  Ticks out;
  if (!(high > low)) return {{low}, 3};
  const double raw = (high - low) / std::max(count, 1), power = std::pow(10, std::floor(std::log10(raw)));
  double step = 10 * power;
  for (double factor : {5.0, 2.0, 1.0})
    if (factor * power >= raw * 0.999) step = factor * power;
  out.decimals = std::max(0, int(-std::floor(std::log10(step) + 1e-9)));
  for (double k = std::ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; ++k)
    out.at.push_back(k * step + 0.0);  // + 0: no "-0"
  return out;
}

}  // namespace glia::drawing
