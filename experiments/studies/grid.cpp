#include "experiments/studies/grid.h"

#include <algorithm>
#include <charconv>
#include <sstream>

#include "engine/core/check.h"

namespace glia {

std::vector<Cell> Grid::cells() const {
  std::vector<Cell> all{{}};
  for (const auto& [flag, values] : axes) {
    std::vector<Cell> longer;
    for (const Cell& cell : all)
      for (const std::string& value : values) {
        Cell next = cell;
        next.name += (next.name.empty() ? "" : "-") + flag + value;
        next.settings.emplace_back(flag, value);
        longer.push_back(std::move(next));
      }
    all = std::move(longer);
  }
  return axes.empty() ? std::vector<Cell>{} : all;
}

const std::string& Grid::seeds_for(const std::string& configuration) const {
  const auto own = seeds_of.find(configuration);
  return own == seeds_of.end() ? seeds : own->second;
}

std::vector<Cell> Grid::pick(const std::string& names) const {
  const std::vector<Cell> all = cells();
  if (names == "all") return all;
  std::vector<Cell> picked;
  std::istringstream words(names);
  for (std::string name; std::getline(words, name, ',');) {
    const auto it = std::ranges::find(all, name, &Cell::name);
    if (it == all.end()) {
      std::string known;
      for (const Cell& cell : all) known += (known.empty() ? "" : ", ") + cell.name;
      fail_input("--cells: expected all or some of {}; got '{}'", known, name);
    }
    picked.push_back(*it);
  }
  if (picked.empty()) fail_input("--cells: expected all, or names separated by commas; got '{}'", names);
  return picked;
}

Claim parse_claim(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  const bool has_margin = words.size() == 7 && words[3] == "-";
  Claim claim{text, {}, {}, {}, 0};
  bool good = (words.size() == 5 || has_margin) && words[1] == ">" && words[words.size() - 2] == "in";
  if (has_margin) {
    const std::string& number = words[4];
    const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), claim.margin);
    good = good && error == std::errc{} && end == number.data() + number.size() && claim.margin >= 0;
  }
  if (!good) fail_input("expected 'A > B in METRIC' or 'A > B - MARGIN in METRIC', got '{}'", text);
  claim.ours = words[0], claim.theirs = words[2], claim.metric = words.back();
  return claim;
}

}  // namespace glia
