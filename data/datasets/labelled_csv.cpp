#include "data/datasets/labelled_csv.h"

#include <algorithm>
#include <charconv>
#include <unordered_map>

#include "engine/core/check.h"

namespace glia {
namespace {

bool to_integer(std::string_view text, int64_t& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

std::string joined(const std::vector<std::string>& items) {
  std::string text;
  for (const std::string& item : items) text += (text.empty() ? "" : ", ") + item;
  return text;
}

// The place of a column: by its name in the header, or by its number.
size_t find_column(const std::string& column, const std::vector<std::string>& header, size_t columns,
                   const std::string& path) {
  const auto at = std::find(header.begin(), header.end(), column);
  if (at != header.end()) return static_cast<size_t>(at - header.begin());
  int64_t number = 0;
  if (to_integer(column, number) && number >= 1 && number <= static_cast<int64_t>(columns))
    return static_cast<size_t>(number) - 1;
  if (header.empty())
    fail_input("{}:1:1: expected a column number from 1 to {}, got \"{}\" (the file is read without a header)",
               path, columns, column);
  fail_input("{}:1:1: expected a column \"{}\", found {}", path, column, joined(header));
}

std::string shortened(std::string_view text) {
  std::string shown(text.substr(0, 40));
  while (!shown.empty() && shown.size() < text.size() && (text[shown.size()] & 0xC0) == 0x80) shown.pop_back();
  return shown.size() < text.size() ? shown + "…" : shown;
}

}  // namespace

std::string trimmed(std::string_view text) {
  constexpr std::string_view kSpace = " \t\n\r\v\f";
  const size_t first = text.find_first_not_of(kSpace);
  if (first == std::string_view::npos) return "";
  return std::string(text.substr(first, text.find_last_not_of(kSpace) - first + 1));
}

LabelledRows read_labelled_csv(const std::string& path, const LabelledCsv& format, BadRows& bad_rows) {
  CsvReader reader(path, bad_rows);
  CsvRow row;
  LabelledRows found;
  size_t columns = format.columns, label = 0;
  std::vector<size_t> text;
  const auto find_columns = [&](const std::vector<std::string>& header) {
    if (columns == 0) columns = row.fields.size();
    label = find_column(format.label, header, columns, path);
    for (const std::string& column : format.text) text.push_back(find_column(column, header, columns, path));
  };
  bool known = false;
  std::string joined_text;
  while (reader.next(row)) {
    if (!known) {
      known = true;
      std::vector<std::string> header;
      if (format.header)
        for (const std::string_view field : row.fields) header.push_back(trimmed(field));
      find_columns(header);
      if (format.header) continue;
    }
    if (row.fields.size() != columns) {
      bad_rows.report(
          fmt::format("{}: expected {} fields, found {}", reader.place(row, 0), columns, row.fields.size()));
      continue;
    }
    std::string name = trimmed(row.fields[label]);
    if (name.empty()) {
      bad_rows.report(fmt::format("{}: expected a label, found nothing", reader.place(row, label)));
      continue;
    }
    if (!format.labels.empty() &&
        std::find(format.labels.begin(), format.labels.end(), name) == format.labels.end()) {
      bad_rows.report(fmt::format("{}: expected a class out of {}, found \"{}\"", reader.place(row, label),
                                  joined(format.labels), shortened(name)));
      continue;
    }
    joined_text.clear();
    for (const size_t column : text) {
      if (column != text.front()) joined_text += ' ';
      joined_text += row.fields[column];
    }
    std::string whole = trimmed(joined_text);
    if (whole.empty()) {
      bad_rows.report(fmt::format("{}: expected text, found nothing", reader.place(row, text.front())));
      continue;
    }
    found.texts.push_back(std::move(whole));
    found.labels.push_back(std::move(name));
    found.places.push_back(row.places[label]);
  }
  if (found.texts.empty())
    fail_input("{}: expected rows, found {}", path,
               bad_rows.count() ? "only bad ones"
               : known          ? "only a header"
                                : "an empty file");
  return found;
}

std::vector<std::string> distinct_labels(const std::vector<std::string>& labels) {
  std::vector<std::string> names = labels;
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  int64_t a = 0, b = 0;
  if (std::all_of(names.begin(), names.end(), [&](const std::string& n) { return to_integer(n, a); }))
    std::sort(names.begin(), names.end(), [&](const std::string& x, const std::string& y) {
      to_integer(x, a), to_integer(y, b);
      return a != b ? a < b : x < y;
    });
  return names;
}

TextSplit to_split(LabelledRows rows, const std::vector<std::string>& class_names, const std::string& path,
                   BadRows& bad_rows) {
  std::unordered_map<std::string, int32_t> classes;
  for (size_t c = 0; c < class_names.size(); ++c) classes.emplace(class_names[c], static_cast<int32_t>(c));
  TextSplit split;
  for (size_t i = 0; i < rows.texts.size(); ++i) {
    const auto at = classes.find(rows.labels[i]);
    if (at == classes.end()) {
      bad_rows.report(fmt::format("{}:{}:{}: expected a label that the train rows have ({}), found \"{}\"", path,
                                  rows.places[i].line, rows.places[i].column, joined(class_names),
                                  shortened(rows.labels[i])));
      continue;
    }
    split.texts.push_back(std::move(rows.texts[i]));
    split.labels.push_back(at->second);
  }
  return split;
}

}  // namespace glia
