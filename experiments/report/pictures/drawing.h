// A picture is a list of shapes in points, y downwards. It is drawn by cairo (PNG; SVG files with the glyphs in
// them, the same everywhere) or written as SVG text with real text for inlining into HTML. Texts are DejaVu Sans, and
// what that has no glyphs for another font (fonts.h).
#pragma once
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

namespace glia::drawing {

struct Color {
  uint8_t r = 0, g = 0, b = 0;
  double alpha = 1;
  bool operator==(const Color&) const = default;
};
inline constexpr Color kBlack{0x22, 0x22, 0x22}, kGrey{0x6b, 0x6b, 0x6b}, kLight{0xdd, 0xdd, 0xdd},
    kWhite{255, 255, 255};
inline constexpr Color kNothing{0, 0, 0, 0};

Color with_alpha(Color color, double alpha);
Color mix(Color a, Color b, double t);  // t = 0: a
// Sequential map for 0 … 1, light to dark with even steps of lightness: readable in grey and by the colour-blind.
Color sequential(double t);
double contrast(Color a, Color b);  // 1 … 21, of WCAG 2.1
// White or full black: on every colour one of them has a contrast of 4.58 or more, which a softer black has not.
Color text_on(Color paper);

struct Point {
  double x = 0, y = 0;
};
enum class Anchor { start, middle, end };

struct TextStyle {
  double size = 12;
  Color color = kBlack;
  Anchor anchor = Anchor::start;
  bool bold = false;
  double degrees = 0;  // clockwise around the anchor point
};

class Picture {
 public:
  // `title` names the picture for people who cannot see it (SVG <title>); it is not drawn.
  Picture(double width, double height, std::string title);
  double width() const { return width_; }
  double height() const { return height_; }
  const std::string& title() const { return title_; }

  void rect(double x, double y, double w, double h, Color fill, Color stroke = kNothing, double line = 1);
  void line(Point a, Point b, Color color, double line = 1, std::vector<double> dashes = {});
  void polyline(std::vector<Point> points, Color color, double line = 1.5, std::vector<double> dashes = {});
  void polygon(std::vector<Point> points, Color fill, Color stroke = kNothing, double line = 1);
  void circle(Point center, double radius, Color fill, Color stroke = kNothing, double line = 1);
  void text(Point baseline, const std::string& text, TextStyle style = {});
  // One of 8 shapes, so that series differ in more than colour.
  void marker(Point center, int shape, double radius, Color fill, Color stroke = kWhite);

  struct Box {
    double x, y, width, height;
    std::string text;
  };
  std::vector<Box> text_boxes()
      const;  // of unrotated texts: the tests look for labels that overlap or leave the page

  std::string svg_text() const;                   // <svg …>…</svg>, scales to its container
  void write_svg(const std::string& path) const;  // cairo
  void write_png(const std::string& path, double scale = 2) const;

 private:
  struct Path {  // polyline, polygon (closed), rect
    std::vector<Point> points;
    bool closed;
    Color fill, stroke;
    double line;
    std::vector<double> dashes;
  };
  struct Disc {
    Point center;
    double radius;
    Color fill, stroke;
    double line;
  };
  struct Text {
    Point at;
    std::string text;
    TextStyle style;
  };
  void draw(void* cairo) const;

  double width_, height_;
  std::string title_;
  std::vector<std::variant<Path, Disc, Text>> shapes_;
};

double text_width(const std::string& text, double size, bool bold = false);  // as drawn, in points

// Moves labels of the given height apart, keeping their order and staying in low … high (closer when they are too
// many); returns their new positions.
std::vector<double> spread(const std::vector<double>& wanted, double height, double low, double high);

// About `count` round numbers (1, 2 or 5 times a power of ten) that cover low … high from inside, and their
// decimals.
struct Ticks {
  std::vector<double> at;
  int decimals = 0;
};
Ticks ticks(double low, double high, int count = 5);

}  // namespace glia::drawing
