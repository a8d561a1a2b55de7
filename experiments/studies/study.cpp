#include "experiments/studies/study.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>

#include "data/datasets/dataset.h"
#include "data/text/utf8.h"
#include "engine/core/check.h"
#include "engine/core/file.h"
#include "experiments/records/metrics.h"
#include "experiments/training/options.h"

namespace glia {
namespace {

std::string trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t\r"), end = text.find_last_not_of(" \t\r");
  return begin == std::string_view::npos ? "" : std::string(text.substr(begin, end - begin + 1));
}

std::vector<std::string> list_of(const std::string& text, char at) {
  std::vector<std::string> items;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(at, begin), text.size());
    if (std::string item = trimmed(std::string_view(text).substr(begin, end - begin)); !item.empty())
      items.push_back(std::move(item));
    begin = end + 1;
  }
  return items;
}

std::string names_of(const std::vector<Configuration>& configurations) {
  std::string names;
  for (const Configuration& c : configurations) names += (names.empty() ? "" : ", ") + c.name;
  return names;
}

// One line `key = value`, with its place for messages.
struct Line {
  std::string place, key, value;

  [[noreturn]] void wrong(const std::string& wanted) const {
    fail_input("{}: {}: expected {}, got '{}'", place, key, wanted, value);
  }
  double number(const std::string& text) const {
    double x = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), x);
    if (error != std::errc{} || end != text.data() + text.size() || !std::isfinite(x)) wrong("a number");
    return x;
  }
  double number() const { return number(value); }
  int whole(int least, int most) const {
    const double x = number();
    if (x != std::floor(x) || x < least || x > most) wrong(fmt::format("a whole number, {} … {}", least, most));
    return static_cast<int>(x);
  }
};

// What config.json keeps may be set by a study, and how many seeds there are; where and how runs are made may not.
bool may_set(const Flag& flag) {
  const bool of_router = std::holds_alternative<const OptionRow*>(flag.member);  // kept with the model
  return flag.part != Flag::Part::kNone || of_router || std::string(flag.name) == "seeds" ||
         std::string(flag.name) == "preset" || std::string(flag.name) == "protocol" ||
         std::string(flag.name) == "precision";
}

void add_setting(std::vector<std::pair<std::string, std::string>>& settings, const Line& line) {
  try {
    const Flag& flag = find_flag(line.key);
    Options unused;
    set_value(unused, flag, line.value);
    if (!may_set(flag)) fail_input("--{} says where or how to run, which is no part of a study", line.key);
  } catch (const Error& error) {
    fail_input("{}: {}", line.place, error.what());
  }
  settings.emplace_back(line.key, line.value);
}

void set_look(Look& look, const Line& line) {
  if (line.key == "look.colour") {
    unsigned rgb = 0;
    const std::string& v = line.value;
    const auto [end, error] =
        std::from_chars(v.data() + std::min<size_t>(1, v.size()), v.data() + v.size(), rgb, 16);
    if (v.size() != 7 || v[0] != '#' || error != std::errc{} || end != v.data() + v.size()) line.wrong("#rrggbb");
    look.colour = {uint8_t(rgb >> 16), uint8_t(rgb >> 8), uint8_t(rgb)};
  } else if (line.key == "look.marker") {
    look.marker = line.whole(0, 7);
  } else if (line.key == "look.dashes") {
    for (const std::string& item : list_of(line.value, ' ')) look.dashes.push_back(line.number(item));
    if (look.dashes.empty() || std::ranges::any_of(look.dashes, [](double d) { return d <= 0; }))
      line.wrong("lengths above 0");
  } else {
    fail_input("{}: expected look.colour, look.marker or look.dashes, got {}", line.place, line.key);
  }
}

// A key of summary.json, "specialisation.4" or "specialisation.last" too: a row of the metric table, or what has none.
void check_metric(const std::string& place, const std::string& metric) {
  const std::string row = metric.substr(0, metric.find('.'));
  const auto known = [&](results::Stage stage) { return results::metric_row(stage, row) != nullptr; };
  if (row != "other_prompt" && !known(results::Stage::routing) && !known(results::Stage::evaluation) &&
      !known(results::Stage::analysis))
    fail_input("{}: expected a metric as in summary.json, accuracy or specialisation.4 say, got '{}'", place,
               metric);
}

// published.accuracy = 0.9431, published.accuracy.p = <0.001, published.specialisation.1 = 0.0129 (0.0139)
void set_published(Configuration& c, const Line& line) {
  std::string metric = line.key.substr(std::string("published.").size());
  if (metric == "name") {
    c.published_name = line.value;
  } else if (metric.ends_with(".p")) {
    metric.resize(metric.size() - 2);
    if (!c.published.contains(metric)) line.wrong("published." + metric + " before it");
    c.published[metric].p = line.value;
  } else {
    check_metric(line.place, metric);
    const size_t bracket = line.value.find('(');
    Published& value = c.published[metric];
    value.value = line.number(trimmed(std::string_view(line.value).substr(0, bracket)));
    if (bracket == std::string::npos) return;
    if (line.value.back() != ')') line.wrong("a number, or two, the second in brackets");
    value.other = line.number(line.value.substr(bracket + 1, line.value.size() - bracket - 2));
  }
}

void set_in_configuration(Configuration& c, const Line& line) {
  if (line.key.starts_with("published.")) return set_published(c, line);
  if (line.key.starts_with("look.")) {
    if (!c.look) c.look.emplace();
    return set_look(*c.look, line);
  }
  if (line.key == "router") c.router = line.value;
  else if (line.key == "balance") c.balance = line.number();
  else if (line.key == "energy") c.energy = line.number();
  else if (line.key == "random-ffn") {
    if (line.value != "on" && line.value != "off") line.wrong("on or off");
    c.random_ffn = line.value == "on";
  } else if (line.key == "seeds" || line.key == "preset" || line.key == "protocol") {
    // What follows from them is settled before a configuration's own settings are looked at.
    fail_input("{}: --{} is of a whole study: expected it above the first [configuration]", line.place, line.key);
  } else add_setting(c.settings, line);
}

// grid.lr = 5e-5, 1e-4    grid.seeds = 1    grid.seeds.dense = 5    grid.chosen-seeds = 5    grid.choice = each    grid.finalists = 2
void set_grid(Grid& grid, const Line& line) {
  const std::string key = line.key.substr(std::string("grid.").size());
  if (key == "choice") {
    if (line.value != "one" && line.value != "each") line.wrong("one or each");
    grid.each = line.value == "each";
    return;
  }
  if (key == "finalists") {
    const auto [end, error] =
        std::from_chars(line.value.data(), line.value.data() + line.value.size(), grid.finalists);
    if (error != std::errc() || end != line.value.data() + line.value.size() || grid.finalists < 1)
      line.wrong("a number of cells from 1 on");
    return;
  }
  constexpr std::string_view of_one = "seeds.";
  try {
    if (key == "chosen-seeds" || key == "seeds" || key.starts_with(of_one)) {
      const std::vector<int> seeds = parse_seeds(line.value);
      if (key == "chosen-seeds") grid.chosen_seeds = line.value, grid.chosen_seed_indices = seeds;
      else if (key == "seeds") grid.seeds = line.value;
      else grid.seeds_of[key.substr(of_one.size())] = line.value;
      return;
    }
    const std::vector<std::string> values = list_of(line.value, ',');
    for (const std::string& value : values) {
      std::vector<std::pair<std::string, std::string>> unused;
      add_setting(unused, {line.place, key, value});
      if (value.find_first_of("/: \t") != std::string::npos) line.wrong("values that can name a folder");
      if (std::ranges::count(values, value) > 1) line.wrong("each value once");
    }
    grid.axes.emplace_back(key, values);
  } catch (const Error& error) {
    const std::string text = error.what();
    fail_input("{}", text.starts_with(line.place) ? text : fmt::format("{}: {}", line.place, text));
  }
}

void take_configurations(Study& s, const Line& line, const std::string& own_name) {
  const std::string_view text = built_in_text(line.value);
  if (text.empty() || line.value == own_name) line.wrong("another built-in study");
  s.configurations = parse_study(std::string(text), line.value).configurations;
}

void set_in_study(Study& s, const Line& line) {
  if (line.key.starts_with("grid.")) return set_grid(s.grid, line);
  if (line.key.starts_with("claim.")) {
    try {
      s.claims.push_back(parse_claim(line.value));
    } catch (const Error& error) {
      fail_input("{}: {}", line.place, error.what());
    }
    return check_metric(line.place, s.claims.back().metric);
  }
  if (line.key == "configurations") return take_configurations(s, line, s.name);
  if (line.key == "title") s.title = line.value;
  else if (line.key == "compare.accuracy") s.accuracy_baselines = list_of(line.value, ',');
  else if (line.key == "compare.routing") s.routing_baselines = list_of(line.value, ',');
  else if (line.key == "published.data") {
    // By another name its numbers would stand beside no run, and nobody would know why.
    if (std::ranges::none_of(dataset_rows(), [&](const DatasetRow& row) { return line.value == row.name; }))
      line.wrong("a data set of --dataset");
    s.published_data = line.value;
  } else if (line.key == "published.note") s.published_note = line.value;
  else if (line.key == "published.layers") s.published_layers = line.whole(1, 10000);
  else add_setting(s.settings, line);
}

// The name is a folder's.
void check_name(const std::string& place, const std::string& name) {
  const bool good = !name.empty() && name != "." && name != ".." && name != "all" && name != "plots" &&
                    name.find_first_of("/, :\t") == std::string::npos;
  if (!good)
    fail_input("{}: expected a configuration's name (no space, comma, colon or slash), got '{}'", place, name);
}

void check_study(const Study& s, const std::string& from) {
  if (s.configurations.empty()) fail_input("{}: expected at least one [configuration]", from);
  if (s.accuracy_baselines.empty()) fail_input("{}: expected compare.accuracy = a configuration, or several", from);
  const bool any_router = std::ranges::any_of(s.configurations, [](const auto& c) { return c.router != "none"; });
  if (any_router && s.routing_baselines.empty())
    fail_input("{}: expected compare.routing = a configuration with a router, or several", from);
  for (const auto& list : {s.accuracy_baselines, s.routing_baselines})
    for (const std::string& name : list)
      if (!s.find(name))
        fail_input("{}: expected one of {} to compare with, got '{}'", from, names_of(s.configurations), name);
  for (const auto& [name, seeds] : s.grid.seeds_of)
    if (!s.find(name))
      fail_input("{}: grid.seeds: expected one of {}, got '{}'", from, names_of(s.configurations), name);
  for (const Claim& claim : s.claims)
    for (const std::string& name : {claim.ours, claim.theirs})
      if (!s.find(name))
        fail_input("{}: claim '{}': expected one of {}, got '{}'", from, claim.text, names_of(s.configurations),
                   name);
  if (!s.claims.empty() && s.grid.empty())
    fail_input("{}: claims are looked at in a grid's cells: there is none", from);
  if (const Grid& g = s.grid;
      g.empty() && (g.each || g.seeds != Grid().seeds || !g.chosen_seeds.empty() || !g.seeds_of.empty()))
    fail_input("{}: grid.seeds, grid.chosen-seeds and grid.choice are of a grid: expected grid.FLAG beside them",
               from);
  if (const Grid& g = s.grid; g.finalists > 1 && (!g.each || g.chosen_seeds.empty()))
    fail_input(
        "{}: grid.finalists are of configurations that choose with further seeds: expected grid.choice = each and "
        "grid.chosen-seeds beside it",
        from);
  for (const Configuration& c : s.configurations)
    for (const auto& [key, value] : c.settings)
      if (const std::string start = start_run(value);
          key == "init" && !start.empty() && start.find('/') == std::string::npos) {
        // Only backwards: then no circle of runs waits for itself.
        const Configuration* before = s.find(start);
        if (!before || before >= &c)
          fail_input("{}: {} starts from '{}': expected a configuration above it", from, c.name, start);
      }
}

}  // namespace

const Configuration* Study::find(std::string_view wanted) const {
  for (const Configuration& c : configurations)
    if (c.name == wanted) return &c;
  return nullptr;
}

const Published* Study::published(const std::string& config, const std::string& metric, const std::string& data_set,
                                  int layers) const {
  const Configuration* c = find(config);
  if (!c || data_set != published_data) return nullptr;
  const bool of_layer = metric.find('.') != std::string::npos;
  if (of_layer && layers != published_layers) return nullptr;
  const auto it = c->published.find(metric);
  return it == c->published.end() ? nullptr : &it->second;
}

Study parse_study(const std::string& text, const std::string& from) {
  Study s;
  s.name = std::filesystem::path(from).stem().string();
  s.text = text;
  std::vector<std::string> keys;  // of the block so far
  int number = 0;
  bool in_configuration = false;
  for (size_t begin = text.size() - utf8::without_mark(text).size(); begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string content = trimmed(std::string_view(text).substr(begin, end - begin));
    const std::string place = fmt::format("{}:{}", from, ++number);
    begin = end + 1;
    if (content.empty() || content[0] == '#') continue;
    if (content[0] == '[') {
      if (content.back() != ']') fail_input("{}: expected [name], got '{}'", place, content);
      Configuration c;
      c.name = trimmed(std::string_view(content).substr(1, content.size() - 2));
      check_name(place, c.name);
      if (s.find(c.name)) fail_input("{}: the configuration {} is there twice", place, c.name);
      s.configurations.push_back(std::move(c));
      in_configuration = true;
      keys.clear();
      continue;
    }
    const size_t equals = content.find('=');
    if (equals == std::string::npos) fail_input("{}: expected key = value or [name], got '{}'", place, content);
    const Line line{place, trimmed(std::string_view(content).substr(0, equals)),
                    trimmed(std::string_view(content).substr(equals + 1))};
    if (line.key.empty() || line.value.empty()) fail_input("{}: expected key = value, got '{}'", place, content);
    if (std::ranges::find(keys, line.key) != keys.end()) fail_input("{}: {} is there twice", place, line.key);
    keys.push_back(line.key);
    if (!in_configuration) set_in_study(s, line);
    else set_in_configuration(s.configurations.back(), line);
    (in_configuration ? s.configurations.back().places : s.places)[line.key] = place;
  }
  if (s.title.empty()) s.title = s.name;
  check_study(s, from);
  return s;
}

Study find_study(const std::string& name) {
  std::string known;
  for (const Study& s : built_in_studies()) {
    if (s.name == name) return s;
    known += (known.empty() ? "" : ", ") + s.name;
  }
  if (!std::filesystem::is_regular_file(name))
    fail_input("--study: expected one of {}, or a file; got '{}'", known, name);
  return parse_study(read_file(name), name);
}

namespace {

bool same_run(const Configuration& a, const Configuration& b) {
  return a.router == b.router && a.balance == b.balance && a.energy == b.energy && a.random_ffn == b.random_ffn &&
         a.settings == b.settings;
}

// "study/name" of a built-in study.
const Configuration& configuration_of_other(std::string_view study, std::string_view name) {
  std::string known;
  for (const Study& s : built_in_studies()) {
    known += (known.empty() ? "" : ", ") + s.name;
    if (s.name != study) continue;
    if (const Configuration* found = s.find(name)) return *found;
    fail_input("configuration: expected one of {} in study {}; got '{}'", names_of(s.configurations), study, name);
  }
  fail_input("configuration: expected one of the studies {} before the '/'; got '{}'", known, study);
}

}  // namespace

const Configuration& configuration_of(const Study& study, std::string_view name) {
  if (const size_t slash = name.find('/'); slash != std::string_view::npos) {
    const std::string_view of = name.substr(0, slash), rest = name.substr(slash + 1);
    if (const Configuration* own = of == study.name ? study.find(rest) : nullptr) return *own;
    return configuration_of_other(of, rest);
  }
  if (const Configuration* own = study.find(name)) return *own;
  const Configuration* found = nullptr;
  std::string_view first;
  for (const Study& s : built_in_studies()) {
    const Configuration* other = s.find(name);
    if (!other) continue;
    if (found && !same_run(*found, *other))
      fail_input("configuration: '{}' means one thing in study {} and another in {}: expected {}/{} or {}/{}", name,
                 first, s.name, first, name, s.name, name);
    if (!found) found = other, first = s.name;
  }
  if (found) return *found;
  fail_input("configuration: expected one of {}, or STUDY/NAME of another; got '{}'",
             names_of(study.configurations), name);
}

std::span<const Configuration> configurations() { return built_in_studies().front().configurations; }
const Configuration& configuration(std::string_view name) {
  return configuration_of(built_in_studies().front(), name);
}

std::vector<std::string> parse_configs(const std::string& text, const Study& study) {
  std::vector<std::string> names;
  if (text == "all") {
    for (const Configuration& c : study.configurations) names.push_back(c.name);
    return names;
  }
  for (const std::string& name : list_of(text, ',')) {
    const Configuration& row = configuration_of(study, name);  // throws for an unknown one
    bool there = false;  // by whatever name: its runs would be the same folders
    for (const std::string& before : names) {
      const Configuration& other = configuration_of(study, before);
      if (other.name != row.name) continue;
      if (!same_run(other, row))
        fail_input("--configs: {} and {} have one name for their runs: expected each in an --out of its own",
                   before, name);
      there = true;
    }
    if (!there) names.push_back(study.find(row.name) == &row ? row.name : name);
  }
  if (names.empty()) fail_input("--configs: expected all, or names separated by commas; got '{}'", text);
  return names;
}

bool configuration_less(const Study& study, const std::string& a, const std::string& b) {
  const auto rank = [&](const std::string& name) {
    const Configuration* c = study.find(name);
    return c ? c - study.configurations.data() : std::ssize(study.configurations);
  };
  const auto ra = rank(a), rb = rank(b);
  return ra != rb ? ra < rb : a < b;
}

void apply_settings(Options& options, const std::vector<std::pair<std::string, std::string>>& settings) {
  for (const auto& [key, value] : settings)
    if (!options.typed.contains(key)) set_value(options, find_flag(key), value);
}

std::string start_run(const std::string& init) {
  constexpr std::string_view prefix = "run:";
  return init.starts_with(prefix) ? init.substr(prefix.size()) : "";
}

}  // namespace glia
