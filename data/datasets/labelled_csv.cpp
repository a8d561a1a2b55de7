#include "data/datasets/labelled_csv.h"

#include <utf8proc.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <unordered_map>

#include "engine/core/check.h"

namespace glia {
namespace {

bool to_integer(std::string_view text, int64_t& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

// Labels become headings of tables and legends of pictures: what is none of one line is the text's column, or damage.
std::string wrong_label(const std::string& name) {
  constexpr size_t kLongest = 200;
  if (name.size() > kLongest)
    return fmt::format("{} bytes, more than {}: is the column right?", name.size(), kLongest);
  const auto control = std::find_if(name.begin(), name.end(), [](char c) {
    const auto byte = static_cast<uint8_t>(c);
    return (byte < 0x20 && byte != '\t') || byte == 0x7F;
  });
  return control == name.end() ? ""
                               : fmt::format("a control character, byte 0x{:02X}", static_cast<uint8_t>(*control));
}

}  // namespace

LabelledRows read_labelled_csv(const std::string& path, const LabelledCsv& format, BadRows& bad_rows) {
  const auto allowed = [&](const std::string& name) {
    return format.labels.empty() ||
           std::find(format.labels.begin(), format.labels.end(), name) != format.labels.end();
  };
  CsvTableFormat shape{format.separator, format.columns, format.text, {}};
  shape.wanted.push_back(format.label);
  shape.is_header = [&](const std::vector<std::string>& row) {
    int64_t number = 0;
    return format.header == LabelledCsv::Header::kYes ||
           (format.header == LabelledCsv::Header::kFound && !allowed(row[0]) && !to_integer(row[0], number));
  };
  CsvTable table(path, shape, bad_rows);
  LabelledRows found;
  if (table.empty())
    fail_input("{}: expected rows, found {}", path, bad_rows.count() ? "only bad ones" : "an empty file");

  const std::vector<std::string>& header = table.header();
  const auto has = [&](const char* name) { return std::find(header.begin(), header.end(), name) != header.end(); };
  const bool guessed = format.header == LabelledCsv::Header::kFound && !header.empty();
  const bool by_name = guessed && has("label") && has("text");
  const size_t label = table.column(by_name ? "label" : format.label);
  std::vector<size_t> text;
  if (by_name) text.push_back(table.column("text"));
  else
    for (const std::string& column : format.text) text.push_back(table.column(column));
  if (guessed)
    found.notes.push_back(fmt::format("{}: its first line is a header ({}), no row", path, shortened_list(header)));

  CsvRow row;
  std::string joined_text;
  while (table.next(row)) {
    std::string name = trimmed(row.fields[label]);
    if (name.empty()) {
      bad_rows.report(fmt::format("{}: expected a label, found nothing", table.place(row, label)));
      continue;
    }
    if (const std::string wrong = wrong_label(name); !wrong.empty()) {
      bad_rows.report(fmt::format("{}: expected a label, found {}", table.place(row, label), wrong));
      continue;
    }
    if (!allowed(name)) {
      bad_rows.report(fmt::format("{}: expected a class out of {}, found \"{}\"", table.place(row, label),
                                  shortened_list(format.labels), shortened(name)));
      continue;
    }
    joined_text.clear();
    size_t body = 0;
    for (const size_t column : text) {
      if (column != text.front()) joined_text += ' ';
      if (!trimmed(row.fields[column]).empty()) body = joined_text.size();
      joined_text += row.fields[column];
    }
    std::string whole = trimmed(joined_text);
    if (whole.empty()) {
      bad_rows.report(fmt::format("{}: expected text, found nothing", table.place(row, text.front())));
      continue;
    }
    // Behind the white space that the text begins with.
    const size_t before = joined_text.find(whole);
    found.bodies.push_back(static_cast<uint32_t>(body - std::min(body, before)));
    found.texts.push_back(std::move(whole));
    found.labels.push_back(std::move(name));
    found.places.push_back(row.places[label]);
  }
  if (found.texts.empty())
    fail_input("{}: expected rows, found {}", path, bad_rows.count() ? "only bad ones" : "only a header");
  // Columns by number fit a file without a header as well, whose first row would be lost in silence.
  if (format.header == LabelledCsv::Header::kYes && header[label] != format.label &&
      std::find(found.labels.begin(), found.labels.end(), header[label]) != found.labels.end())
    found.notes.push_back(
        fmt::format("warning: {}: its first line is taken for names, but \"{}\" in it is a label of other rows; "
                    "--csv-header off reads it as a row",
                    path, shortened(header[label])));
  for (std::string& note : table.notes()) found.notes.push_back(std::move(note));
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

std::vector<std::string> look_alikes(const std::vector<std::string>& class_names) {
  std::unordered_map<std::string, std::string> seen;
  std::vector<std::string> warnings;
  for (const std::string& name : class_names) {
    utf8proc_uint8_t* folded = nullptr;
    const auto size = utf8proc_map(
        reinterpret_cast<const utf8proc_uint8_t*>(name.data()), static_cast<utf8proc_ssize_t>(name.size()), &folded,
        static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT | UTF8PROC_CASEFOLD |
                                       UTF8PROC_IGNORE));
    const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(folded, std::free);
    std::string key(reinterpret_cast<const char*>(folded), size > 0 ? static_cast<size_t>(size) : 0);
    std::erase_if(key, [](char c) { return c == ' ' || (c >= '\t' && c <= '\r'); });
    double number = 0;  // 1, 01 and 1.0, as tables make of one column
    const auto [end, failed] = std::from_chars(key.data(), key.data() + key.size(), number);
    const bool is_number = failed == std::errc() && end == key.data() + key.size() && std::isfinite(number);
    if (is_number) key = fmt::format("{}", number);
    const auto [at, is_new] = seen.emplace(std::move(key), name);
    if (!is_new)
      warnings.push_back(fmt::format("warning: the labels \"{}\" and \"{}\" {}, and are two classes",
                                     shortened(at->second), shortened(name),
                                     is_number ? "are one number" : "differ in case, spaces or unseen marks only"));
  }
  return warnings;
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
                                  rows.places[i].line, rows.places[i].column, shortened_list(class_names),
                                  shortened(rows.labels[i])));
      continue;
    }
    split.texts.push_back(std::move(rows.texts[i]));
    split.bodies.push_back(rows.bodies[i]);
    split.labels.push_back(at->second);
  }
  return split;
}

}  // namespace glia
