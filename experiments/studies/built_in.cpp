// The built-in studies. The Makefile makes GLIA_STUDIES of all experiments/studies/*.study: a row {name, text} a file.
#include <algorithm>
#include <filesystem>

#include "experiments/studies/study.h"

namespace glia {
namespace {

constexpr std::pair<const char*, const char*> kTexts[] = {
#include GLIA_STUDIES
};

}  // namespace

std::string_view built_in_text(std::string_view wanted) {
  for (const auto& [name, text] : kTexts)
    if (wanted == std::filesystem::path(name).stem().string()) return text;
  return "";
}

std::span<const Study> built_in_studies() {
  static const std::vector<Study> studies = [] {
    std::vector<Study> all;
    for (const auto& [name, text] : kTexts) all.push_back(parse_study(text, name));
    std::ranges::stable_partition(all, [](const Study& s) { return s.name == kDefaultStudy; });
    return all;
  }();
  return studies;
}

}  // namespace glia
