// The utilisation CSV: `topic,expert0,expert1,…`, a row a topic.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>

#include "engine/core/check.h"
#include "engine/core/file.h"
#include "experiments/records/routing/routing_shares.h"

namespace glia::results {
namespace {

std::string quoted(const std::string& name) {
  if (name.find_first_of(",\"\n\r") == std::string::npos) return name;
  std::string out = "\"";
  for (char c : name) out += c == '"' ? std::string("\"\"") : std::string(1, c);
  return out + "\"";
}

// One CSV record from `text` at `at`; quotes may hold commas, doubled quotes and line ends.
std::vector<std::string> record(const std::string& text, size_t& at, int& line) {
  std::vector<std::string> fields(1);
  bool in_quotes = false;
  for (; at < text.size(); ++at) {
    const char c = text[at];
    if (c == '\n') ++line;
    if (in_quotes) {
      if (c != '"') {
        fields.back() += c;
      } else if (at + 1 < text.size() && text[at + 1] == '"') {
        fields.back() += c, ++at;
      } else {
        in_quotes = false;
      }
    } else if (c == '"' && fields.back().empty()) {
      in_quotes = true;
    } else if (c == ',') {
      fields.emplace_back();
    } else if (c == '\n') {
      ++at;
      break;
    } else if (c != '\r') {
      fields.back() += c;
    }
  }
  return fields;
}

// (fmt::join of strings trips a false -Wstringop-overflow of g++ 12.)
std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

// Columns behind the first `experts` may have any name, which `beside` gets.
UtilisationFile table_from(const std::string& text, const std::string& path, size_t experts,
                           std::vector<std::string>& beside) {
  if (!text.empty() && text.back() != '\n') fail_input("{}: half-written: the last line has no end", path);
  size_t at = 0;
  int line = 1;
  const auto header = record(text, at, line);
  if (header.size() < 2 || header[0] != "topic")
    fail_input("{}:1: expected the header topic,expert0,expert1,…, got \"{}\"", path,
               text.substr(0, text.find('\n')));
  const size_t named = std::min(header.size(), experts + 1);
  for (size_t e = 1; e < named; ++e)
    if (header[e] != fmt::format("expert{}", e - 1))
      fail_input("{}:1: expected expert{} in column {}, got \"{}\"", path, e - 1, e + 1, header[e]);
  beside.assign(header.begin() + long(named), header.end());
  UtilisationFile file;
  file.u.cols = int(header.size()) - 1;
  while (at < text.size()) {
    const int here = line;
    const auto fields = record(text, at, line);
    if (fields.size() != header.size())
      fail_input("{}:{}: expected {} fields, got {}", path, here, header.size(), fields.size());
    file.topics.push_back(fields[0]);
    const bool none =
        std::all_of(fields.begin() + 1, fields.end(), [](const auto& field) { return field == "n/a"; });
    if (none) file.u.values.resize(file.u.values.size() + fields.size() - 1);
    for (size_t e = 1; e < fields.size() && !none; ++e) {
      double value = 0;
      const char* last = fields[e].data() + fields[e].size();
      const auto [end, error] = std::from_chars(fields[e].data(), last, value);
      if (error != std::errc() || end != last || !(value >= -1e-6) || !std::isfinite(value))
        fail_input("{}:{}: expected a share >= 0 in column {}, got \"{}\"", path, here, e + 1, fields[e]);
      file.u.values.push_back(value);
    }
  }
  file.u.rows = int(file.topics.size());
  if (file.u.rows == 0) fail_input("{}: expected a row a topic, got only the header", path);
  return file;
}

}  // namespace

std::string utilisation_csv(const Matrix& u, const std::vector<std::string>& topics) {
  std::vector<std::string> names;
  for (int e = 0; e < u.cols; ++e) names.push_back(fmt::format("expert{}", e));
  return utilisation_csv(u, topics, names);
}

std::string utilisation_csv(const Matrix& u, const std::vector<std::string>& topics,
                            const std::vector<std::string>& columns) {
  CHECK(int(topics.size()) == u.rows, "utilisation: {} topic names for a [{}, {}] matrix", topics.size(), u.rows,
        u.cols);
  CHECK(int(columns.size()) == u.cols, "utilisation: {} column names for a [{}, {}] matrix", columns.size(), u.rows,
        u.cols);
  std::string text = "topic";
  for (const std::string& name : columns) text += "," + quoted(name);
  text += "\n";
  for (int c = 0; c < u.rows; ++c) {
    text += quoted(topics[size_t(c)]);
    const bool any = seen(u, c);
    for (int e = 0; e < u.cols; ++e) text += any ? fmt::format(",{:.17g}", u(c, e)) : ",n/a";
    text += "\n";
  }
  return text;
}

void write_utilisation(const std::string& path, const Matrix& u, const std::vector<std::string>& topics) {
  write_file_atomic(path, utilisation_csv(u, topics));
}

UtilisationFile read_utilisation(const std::string& path) { return utilisation_from(read_file(path), path); }

UtilisationFile utilisation_from(const std::string& text, const std::string& path) {
  std::vector<std::string> none;
  return table_from(text, path, text.size(), none);
}

namespace {

void want_of_run(const Run& run, const UtilisationFile& file, const std::string& path, size_t beside) {
  if (const int experts = file.u.cols - int(beside); experts != run.config.experts())
    fail_input("{}: expected {} experts as in config.json, got {}", path, run.config.experts(), experts);
  if (file.topics != run.config.data.class_names)
    fail_input("{}: expected the topics {}, got {}", path, joined(run.config.data.class_names),
               joined(file.topics));
}

}  // namespace

RunChoices read_choices(const Run& run, bool cls) {
  RunChoices all;
  for (int l = 1; l <= run.config.layers(); ++l) {
    const std::string path = fmt::format("{}/utilization_choices_{}layer{}.csv", run.folder, cls ? "cls_" : "", l);
    if (l == 1 && !std::filesystem::exists(path)) return {};
    std::vector<std::string> columns;
    UtilisationFile file = table_from(read_file(path), path, size_t(run.config.experts()), columns);
    want_of_run(run, file, path, columns.size());
    if (l == 1) all.columns = columns;
    if (columns != all.columns)
      fail_input("{}: expected the columns of the first layer, {}, got {}", path, joined(all.columns),
                 joined(columns));
    all.layers.push_back(std::move(file.u));
  }
  return all;
}

RunUtilisation read_run_utilisation(const Run& run, bool cls) {
  if (!run.config.moe()) fail_input("{}: has no experts ({}), so no utilisation", run.folder, run.config.router);
  if (run.state != RunState::done)
    fail_input("{}: has no utilisation yet: the run {}", run.folder,
               run.failure ? "failed: " + run.failure->reason : "is not finished");
  RunUtilisation all;
  for (int l = 1; l <= run.config.layers(); ++l) {
    const std::string path = fmt::format("{}/utilization_{}layer{}.csv", run.folder, cls ? "cls_" : "", l);
    UtilisationFile file = read_utilisation(path);
    want_of_run(run, file, path, 0);
    all.topics = file.topics;
    all.layers.push_back(std::move(file.u));
  }
  return all;
}

}  // namespace glia::results
