// The report in a browser, where Debian's chromium is installed: at the width of a desk and of a phone, light and dark.
#include <nlohmann/json.hpp>

#include "engine/core/file.h"
#include "experiments/report/report.h"
#include "tests/command.h"
#include "tests/records/fake_results.h"
#include "tests/test.h"

using namespace glia;
using namespace glia::test;

namespace {

// The page in a frame of that width and very high, so that all of it can be asked what lies where. What the frame posts
// becomes the text of an element that --dump-dom prints.
nlohmann::json look_at(const std::string& folder, int width, bool dark) {
  const std::string page = folder + "/frame.html";
  write_file_atomic(page,
                    fmt::format("<!DOCTYPE html><meta charset=utf-8><body style='margin:0'><pre id=said></pre>"
                                "<script>addEventListener('message',function(e){{"
                                "document.getElementById('said').textContent=e.data+'END'}})</script>"
                                "<iframe src=checked.html style='border:0;width:{}px;height:40000px'></iframe>",
                                width));
  const std::string out =
      run_command(
          fmt::format("chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage "
                      "--user-data-dir={0}/profile --blink-settings=preferredColorScheme={1} "
                      "--window-size=1300,900 --virtual-time-budget=20000 --dump-dom file://{2} 2>/dev/null",
                      folder, dark ? 0 : 1, page))
          .out;
  const size_t at = out.find("{\"faults\""), end = out.find("END</pre>");
  INFO(out.substr(0, 400));
  REQUIRE(at != std::string::npos);
  REQUIRE(end != std::string::npos);
  std::string text = out.substr(at, end - at);
  for (const auto& [escaped, plain] : {std::pair{"&lt;", "<"}, {"&gt;", ">"}, {"&amp;", "&"}})
    for (size_t found; (found = text.find(escaped)) != std::string::npos;)
      text.replace(found, std::string(escaped).size(), plain);
  return nlohmann::json::parse(text);
}

}  // namespace

TEST_CASE("report: in a browser nothing overflows, contrast is 4.5 or more, tables sort, boxes choose") {
  if (run_command("command -v chromium").out.empty()) SKIP("Debian's chromium is not installed");
  TemporaryFolder tmp("browser");
  write_fake_results(tmp.path, 3, 20);
  results::write_failure(tmp.path + "/seed1/astrocyte", {"loss is not <finite>", 12});
  results::write_report(tmp.path);
  std::string html = read_file(tmp.path + "/report.html");
  const size_t end = html.rfind("</body>");
  REQUIRE(end != std::string::npos);
  html.insert(end, "<script>" + read_file("tests/report/browser_checks.js") + "</script>");
  write_file_atomic(tmp.path + "/checked.html", html);
  for (const int width : {1280, 390})
    for (const bool dark : {false, true}) {
      const nlohmann::json seen = look_at(tmp.path, width, dark);
      INFO(seen.dump(1));
      EXPECT(seen.at("faults").empty());
      const nlohmann::json& facts = seen.at("facts");
      EXPECT(facts.at("width") == width);
      EXPECT(facts.at("dark") == dark);
      EXPECT(facts.at("texts") > 500);
      EXPECT(facts.at("tables") == facts.at("links"));
      EXPECT(facts.at("tables") >= 5);
      EXPECT(facts.at("configurations") >= 5);
    }
}
