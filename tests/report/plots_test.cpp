#include "experiments/report/pictures/plots.h"

#include <algorithm>
#include <filesystem>

#include "engine/core/file.h"
#include "experiments/report/pictures/fonts.h"
#include "experiments/report/pictures/heatmap.h"
#include "experiments/report/report.h"
#include "experiments/report/tables.h"
#include "tests/records/fake_results.h"
#include "tests/test.h"

using namespace glia;
using namespace glia::drawing;
using namespace glia::results;
using namespace glia::test;

namespace {

// "" when all texts lie on the page and none covers another; else what is wrong.
std::string layout_fault(const Picture& p) {
  const auto boxes = p.text_boxes();
  for (size_t i = 0; i < boxes.size(); ++i) {
    const auto& a = boxes[i];
    if (a.x < 0 || a.y < 0 || a.x + a.width > p.width() || a.y + a.height > p.height())
      return fmt::format("{}: \"{}\" leaves the page", p.title(), a.text);
    for (size_t j = 0; j < i; ++j) {
      const auto& b = boxes[j];
      if (a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height)
        return fmt::format("{}: \"{}\" covers \"{}\"", p.title(), a.text, b.text);
    }
  }
  return "";
}

std::string count_tags_fault(const std::string& html, std::vector<std::string> tags) {
  const auto count = [&](const std::string& part) {
    size_t n = 0;
    for (size_t at = html.find(part); at != std::string::npos; at = html.find(part, at + 1)) ++n;
    return n;
  };
  for (const auto& tag : tags) {
    const size_t opened = count("<" + tag + ">") + count("<" + tag + " "), closed = count("</" + tag + ">");
    if (opened == 0 || opened != closed) return fmt::format("{} <{}>, {} closed", opened, tag, closed);
  }
  return "";
}

}  // namespace

TEST_CASE("plots: no label covers another or leaves the page, at a whole study and at one configuration") {
  if (!std::filesystem::exists("/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf"))
    SKIP("DejaVu fonts are not installed");
  for (const int seeds : {5, 1}) {
    TemporaryFolder tmp("plots");
    if (seeds == 5) write_fake_results(tmp.path, 5, 30);
    else write_fake_run(tmp.path, fake_config("astrocyte-hierarchical", 0, 2, 4), 30);
    const Listing listing = list_runs(tmp.path);
    const Summary s = summarise(listing);
    EXPECT(layout_fault(accuracy_plot(s)) == "");
    for (bool cls : {false, true}) {
      EXPECT(layout_fault(specialisation_plot(s, 1, cls)) == "");
      EXPECT(layout_fault(specialisation_plot(s, s.layers, cls)) == "");
      for (const Run& run : listing.runs)
        if (run.config.moe() && run.config.seed_index == 0) EXPECT(layout_fault(draw(heatmap_of(run, cls))) == "");
    }
    EXPECT(layout_fault(depth_plot(s)) == "");
    EXPECT(layout_fault(scatter_plot(s)) == "");
    EXPECT(layout_fault(curves_plot(s, training_curves(listing))) == "");
  }
}

TEST_CASE("plots: many layers, many experts, many configurations") {
  TemporaryFolder tmp("plots-many");
  for (int i = 0; i < 40; ++i) write_fake_run(tmp.path, fake_config(fmt::format("router-{:02}", i), 0, 2, 16), 4);
  const Listing listing = list_runs(tmp.path);
  const Summary s = summarise(listing);
  EXPECT(layout_fault(accuracy_plot(s)) == "");
  EXPECT(layout_fault(scatter_plot(s)) == "");
  EXPECT(layout_fault(draw(heatmap_of(listing.runs[0], false))) == "");
  EXPECT(layout_fault(depth_plot(s)) == "");
  EXPECT(layout_fault(curves_plot(s, training_curves(listing))) == "");
  Heatmap deep = heatmap_of(listing.runs[0], false);
  deep.layers.resize(24, deep.layers[0]), deep.layer_numbers.resize(24, 12), deep.captions.clear();
  EXPECT(layout_fault(draw(deep)) == "");
}

TEST_CASE("plots: a curve of one point is seen, inside its panel") {
  TemporaryFolder tmp("plots-point");
  write_fake_run(tmp.path, fake_config("dense", 0), 4);
  const Summary s = summarise(list_runs(tmp.path));
  const auto marks = [&](const Curves& curves) {
    const std::string svg = curves_plot(s, {curves}).svg_text();
    size_t n = 0;
    for (size_t at = svg.find("<circle"); at != std::string::npos; at = svg.find("<circle", at + 1)) ++n;
    return n;
  };
  EXPECT(marks({"dense", {{5}, {1.4}}, {{5}, {0.5}}}) == marks({"dense", {{4, 5}, {1.5, 1.4}}, {{5}, {0.5}}}) + 1);
}

TEST_CASE("plots: the training curve of a configuration is the mean over its seeds") {
  TemporaryFolder tmp("plots-curves");
  for (int seed : {0, 1}) {
    const std::string folder = run_folder(tmp.path, seed, "dense");
    begin_run(folder, fake_config("dense", seed), false);
    MetricsLog log(folder, 0);
    for (int step = 1; step <= 100; ++step) {
      TrainPoint p;
      p.step = step, p.values = {{"ce", seed + (step <= 50 ? 2.0 : 0.0)}};
      log.add(p);
    }
    log.add(EvalPoint{"validation", 100, {{"accuracy", 0.5 + 0.2 * seed}, {"loss", 0.1}}, {}});
  }
  const auto curves = training_curves(list_runs(tmp.path), 4);
  REQUIRE(curves.size() == 1);
  REQUIRE(curves[0].loss.values.size() == 4);
  EXPECT(curves[0].loss.values[0] == doctest::Approx(2.5));
  EXPECT(curves[0].loss.values[3] == doctest::Approx(0.5));
  EXPECT(curves[0].accuracy.values == std::vector<double>{0.6});
}

TEST_CASE("drawing: labels that want the same place are spread in order, inside the limits") {
  const auto placed = spread({50, 50, 52, 10, 99, 100}, 10, 0, 100);
  std::vector<double> sorted = placed;
  std::sort(sorted.begin(), sorted.end());
  for (size_t i = 1; i < sorted.size(); ++i) EXPECT(sorted[i] - sorted[i - 1] >= 10 - 1e-9);
  EXPECT(sorted.front() >= 0);
  EXPECT(sorted.back() <= 100);
  EXPECT(placed[0] < placed[1]);
  EXPECT(placed[1] < placed[2]);
  EXPECT(placed[3] == 10);  // alone: where it wants to be
  EXPECT(spread({5, 5, 5}, 10, 0, 10) == std::vector<double>{0, 5, 10});
}

TEST_CASE("drawing: ticks are round and inside") {
  EXPECT(ticks(0, 1, 5).at == std::vector<double>{0, 0.2, 0.4, 2 * 0.2 + 0.2, 0.8, 1});
  EXPECT(ticks(0.8952, 0.9448, 5).decimals == 2);
  for (double value : ticks(-3.7, 12.1, 6).at) {
    EXPECT(value >= -3.7);
    EXPECT(value <= 12.1);
  }
  EXPECT(ticks(2, 2).at.size() == 1);
}

TEST_CASE("drawing: SVG text escapes, scales and names the picture; files come from cairo") {
  TemporaryFolder tmp("drawing");
  Picture p(120, 60, "a < b");
  p.rect(1, 2, 30.126, 4, {0x12, 0x34, 0x56});
  p.text({5, 20}, "R&D <x>", {.anchor = Anchor::end});
  p.marker({50, 30}, 6, 5, kBlack);
  const std::string svg = p.svg_text();
  EXPECT(contains(svg, "<title>a &lt; b</title>"));
  EXPECT(contains(svg, "<rect x=\"1\" y=\"2\" width=\"30.13\" height=\"4\" fill=\"#123456\"/>"));
  EXPECT(contains(svg, "text-anchor=\"end\">R&amp;D &lt;x&gt;</text>"));
  p.write_png(tmp.path + "/p.png");
  p.write_svg(tmp.path + "/p.svg");
  EXPECT(read_file(tmp.path + "/p.png").substr(1, 3) == "PNG");
  EXPECT(contains(read_file(tmp.path + "/p.svg"), "<title>a &lt; b</title>"));
  // cairo's counter has moved on, the file has not; what refers to a name still finds it.
  p.write_svg(tmp.path + "/again.svg");
  const std::string file = read_file(tmp.path + "/again.svg");
  EXPECT(file == read_file(tmp.path + "/p.svg"));
  EXPECT(contains(file, "href=\"#p"));
  for (size_t at = file.find("href=\"#"); at != std::string::npos; at = file.find("href=\"#", at + 1)) {
    const std::string name = file.substr(at + 7, file.find('"', at + 7) - at - 7);
    EXPECT(contains(file, "id=\"" + name + "\""));
  }
  const double black = sequential(1).r, white = sequential(0).r;
  EXPECT(black < white);
  EXPECT(text_on(sequential(1)) == kWhite);
  EXPECT(text_on(sequential(0)) == Color{});
  for (double t = 0; t <= 1; t += 1e-3) EXPECT(contrast(sequential(t), text_on(sequential(t))) >= 4.5);
}

TEST_CASE(
    "drawing: a picture larger than cairo's surfaces becomes a smaller PNG, and thousands of shapes an SVG at once") {
  const TemporaryFolder tmp("large-picture");
  drawing::Picture p(30000, 40, "large");
  for (int i = 0; i < 3000; ++i) p.rect(10 * i, 0, 10, 40, drawing::kBlack);
  p.write_png(tmp.path + "/p.png", 2);
  const std::string png = read_file(tmp.path + "/p.png");
  const auto side = [&](size_t at) {  // big-endian, of the header
    return (uint32_t(uint8_t(png[at])) << 24) + (uint32_t(uint8_t(png[at + 1])) << 16) +
           (uint32_t(uint8_t(png[at + 2])) << 8) + uint8_t(png[at + 3]);
  };
  EXPECT(side(16) == 16384);
  EXPECT(side(20) == 22);
  p.write_svg(tmp.path + "/p.svg");
  EXPECT(contains(read_file(tmp.path + "/p.svg"), "<title>large</title>"));
}

TEST_CASE("report: one self-contained page with warnings first, the same bytes each time") {
  TemporaryFolder tmp("report");
  write_fake_results(tmp.path, 2, 20);
  write_failure(tmp.path + "/seed1/astrocyte", {"loss is not <finite>", 12});
  write_report(tmp.path);
  const std::string html = read_file(tmp.path + "/report.html");
  EXPECT(contains(html, "Failed: astrocyte of seed1: loss is not &lt;finite&gt;"));
  EXPECT(html.find("Synthetic data") < html.find("<main>"));
  EXPECT(contains(html, "In test accuracy nothing can be told from chance yet (1 to 2 seeds each, no tests)"));
  for (size_t at = html.find("href=\"#"); at != std::string::npos; at = html.find("href=\"#", at + 1)) {
    const std::string target = html.substr(at + 7, html.find('"', at + 7) - at - 7);
    EXPECT(contains(html, "<section id=\"" + target + "\""));
  }
  EXPECT(!contains(html, "http://www.w3.org/1999"));
  for (const char* outside : {"src=", "href=\"h", "href=\"/", "href=\".", "url(", "@import", "fetch("})
    EXPECT(!contains(html, outside));
  EXPECT(!contains(html, "nan"));
  EXPECT(count_tags_fault(html, {"section", "details", "table", "figure", "svg", "div", "style", "script", "ul"}) ==
         "");
  write_report(tmp.path);
  EXPECT(read_file(tmp.path + "/report.html") == html);
  EXPECT(contains(html, "astrocyte-hierarchical, mean of 2 seeds, experts matched"));
}

TEST_CASE("fonts: what DejaVu Sans has no glyph for is another font's, and what none has is named") {
  if (!std::filesystem::exists("/usr/share/fonts/truetype/dejavu/DejaVuSansMono.ttf"))
    SKIP("DejaVu fonts are not installed");
  EXPECT(font_runs("").empty());
  const std::vector<FontRun> plain = font_runs("бизнес – Ähre \xFF");
  REQUIRE(plain.size() == 1);
  EXPECT(plain[0].family == kFont);
  EXPECT(plain[0].text == "бизнес – Ähre \xFF");
  // U+2312 is in DejaVu Sans Mono, not in DejaVu Sans.
  const std::vector<FontRun> mixed = font_runs("a⌒⌒b");
  REQUIRE(mixed.size() == 3);
  EXPECT(mixed[1].family != kFont);
  EXPECT(mixed[1].text == "⌒⌒");
  EXPECT(text_width("a⌒⌒b", 10) == doctest::Approx(text_width("ab", 10) + 2 * text_width("⌒", 10)).epsilon(0.05));
  // Nobody's: private use.
  EXPECT(missing_font_note({"business", "⌒"}) == "");
  const std::string note = missing_font_note({"a\U0010FF00", "\U0010FF00b"});
  EXPECT(note.starts_with("No installed font has \U0010FF00: "));
}

TEST_CASE("heat map in the terminal: wide letters of topics take two columns") {
  Heatmap map;
  map.title = "t", map.topics = {"世界", "бизнес"}, map.layer_numbers = {1};
  map.layers.emplace_back(2, 2);
  map.layers[0].values = {0.25, 0.75, 0.5, 0.5};
  const std::string text = as_text(map, false);
  EXPECT(text.find("\n  世界    25.0") != std::string::npos);
  EXPECT(text.find("\n  бизнес  50.0") != std::string::npos);
}
