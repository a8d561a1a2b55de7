// What the pages point to is there.
#include <filesystem>
#include <regex>

#include "engine/core/file.h"
#include "tests/test.h"

using namespace glia;
using namespace glia::test;
namespace fs = std::filesystem;

namespace {

std::vector<fs::path> pages() {
  std::vector<fs::path> all{"README.md", "BENCHMARKS.md"};
  for (const auto& entry : fs::recursive_directory_iterator("docs"))
    if (entry.path().extension() == ".md") all.push_back(entry.path());
  return all;
}

std::vector<std::string> found(const std::string& text, const char* pattern) {
  const std::regex wanted(pattern);
  std::vector<std::string> all;
  for (std::sregex_iterator at(text.begin(), text.end(), wanted), end; at != end; ++at) all.push_back((*at)[1]);
  return all;
}

}  // namespace

TEST_CASE("docs: every link inside the repository leads to a file") {
  int links = 0;
  for (const fs::path& page : pages())
    for (const std::string& link : found(read_file(page), R"(\]\(([^)#\s]+)[^)]*\))")) {
      if (link.find("://") != std::string::npos || link.find('&') != std::string::npos ||
          link.find(' ') != std::string::npos)
        continue;  // another site, or a lambda's arguments
      INFO(page.string(), ": ", link);
      if (link.find('.') == std::string::npos) continue;
      EXPECT(fs::exists(page.parent_path() / link));
      ++links;
    }
  EXPECT(links > 30);
}

TEST_CASE("docs: every program, script and source that a page names is there") {
  int named = 0;
  for (const fs::path& page : pages())
    for (
        const std::string& path : found(
            read_file(page),
            R"((?:^|[\s`(])(?:\./)?((?:tools|experiments|tests|docs|engine|nn|moe|data/text|\.ci)/[A-Za-z0-9_./-]*[A-Za-z0-9_]))")) {
      // x and mine are the reader's to write, results and findings a command's.
      const std::string end = path.substr(path.rfind('/') + 1), name = end.substr(0, end.find('.'));
      if (name == "x" || name == "mine" || path.starts_with("docs/results/") || path.starts_with("docs/findings/"))
        continue;
      INFO(page.string(), ": ", path);
      bool there = false;
      for (const char* ending : {"", ".cpp", ".h", ".cu"}) there = there || fs::exists(path + ending);
      EXPECT(there);
      ++named;
    }
  EXPECT(named > 50);
}
