#include "data/text/csv_table.h"

#include <algorithm>
#include <cctype>
#include <charconv>

#include "engine/core/check.h"
#include "engine/core/message.h"

namespace glia {
namespace {

struct Separator {
  const char* name;
  char byte;
};
constexpr Separator kSeparators[] = {{"comma", ','}, {"tab", '\t'}, {"semicolon", ';'}, {"pipe", '|'}};

const char* name_of(char separator) {
  for (const Separator& s : kSeparators)
    if (s.byte == separator) return s.name;
  return "other";
}

// The number that a whole text is, or 0.
size_t column_number(const std::string& text) {
  size_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() ? value : 0;
}

std::vector<std::string> fields_of(std::string_view line, char separator) {
  BadRows bad(true);
  CsvReader reader("", line, bad);
  reader.set_separator(separator);
  CsvRow row;
  std::vector<std::string> fields;
  if (reader.next(row))
    for (const std::string_view field : row.fields) fields.push_back(trimmed(field));
  return fields;
}

}  // namespace

std::string trimmed(std::string_view text) {
  constexpr std::string_view kSpace = " \t\n\r\v\f";
  const size_t first = text.find_first_not_of(kSpace);
  if (first == std::string_view::npos) return "";
  return std::string(text.substr(first, text.find_last_not_of(kSpace) - first + 1));
}

std::vector<std::string> comma_list(const std::string& text) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    if (parts.back().empty()) fail_input("expected columns separated by commas, got \"{}\"", text);
    begin = end + 1;
  }
  return parts;
}

std::string shortened(std::string_view text) {
  std::string shown(text.substr(0, 40));
  while (!shown.empty() && shown.size() < text.size() && (text[shown.size()] & 0xC0) == 0x80) shown.pop_back();
  // A message is one line, whatever the field holds.
  std::replace_if(
      shown.begin(), shown.end(), [](char c) { return std::isspace(static_cast<uint8_t>(c)); }, ' ');
  return one_line(shown.size() < text.size() ? shown + "…" : shown);
}

std::string shortened_list(const std::vector<std::string>& items) {
  constexpr size_t kMost = 10;
  std::string text;
  for (size_t i = 0; i < std::min(items.size(), kMost); ++i) text += (i ? ", " : "") + shortened(items[i]);
  return items.size() > kMost ? text + fmt::format(", … ({} in all)", items.size()) : text;
}

char separator_of(const std::string& name) {
  if (name == "auto") return 0;
  for (const Separator& s : kSeparators)
    if (name == s.name) return s.byte;
  fail_input("separator: expected comma, tab, semicolon, pipe or auto, got \"{}\"", name);
}

CsvTable::CsvTable(const std::string& path, const CsvTableFormat& format, BadRows& bad_rows)
    : name_(path), bad_rows_(bad_rows), reader_(path, bad_rows) {
  open(format);
}

CsvTable::CsvTable(const std::string& name, std::string_view content, const CsvTableFormat& format,
                   BadRows& bad_rows)
    : name_(name), bad_rows_(bad_rows), reader_(name, content, bad_rows) {
  open(format);
}

// The separator with which the first line has most of the wanted columns; where none has any, the one that gives most
// fields, so that the message about the missing column shows names.
void CsvTable::find_separator(const CsvTableFormat& format) {
  separator_ = format.separator;
  const std::string_view line = reader_.first_line();
  // Spreadsheets may write the separator itself into the first line.
  const bool said = line.size() == 5 && line.starts_with("sep=");
  if (said) {
    if (separator_ == 0) separator_ = line[4];
    reader_.skip_first_line();
  }
  if (separator_ == 0) {
    separator_ = ',';
    size_t best_found = 0, best_fields = 1;
    for (const Separator& s : kSeparators) {
      const std::vector<std::string> fields = fields_of(line, s.byte);
      const auto found = static_cast<size_t>(
          std::count_if(format.wanted.begin(), format.wanted.end(), [&](const std::string& wanted) {
            const size_t number = column_number(wanted);
            return std::find(fields.begin(), fields.end(), wanted) != fields.end() ||
                   (number >= 1 && number <= fields.size());
          }));
      if (found > best_found || (best_found == 0 && fields.size() > best_fields)) {
        best_found = found, best_fields = fields.size();
        separator_ = s.byte;
      }
    }
    by_first_line_ = separator_ != ',';
  }
  reader_.set_separator(separator_);
}

void CsvTable::open(const CsvTableFormat& format) {
  find_separator(format);
  CsvRow row;
  columns_ = 0;
  while (!has_first_ && columns_ == 0 && next(row)) {
    std::vector<std::string> fields;
    for (const std::string_view field : row.fields) fields.push_back(trimmed(field));
    if (format.is_header(fields)) {
      header_ = std::move(fields);
      columns_ = header_.size();
    } else {
      columns_ = format.columns ? format.columns : row.fields.size();
      first_ = row, has_first_ = true;
    }
  }
}

size_t CsvTable::column(const std::string& name) const {
  const auto at = std::find(header_.begin(), header_.end(), name);
  if (at != header_.end()) {
    const auto again = std::find(at + 1, header_.end(), name);
    if (again != header_.end())
      fail_input("{}:1:1: expected one column \"{}\", found it as columns {} and {}; name it by its number", name_,
                 name, at - header_.begin() + 1, again - header_.begin() + 1);
    return static_cast<size_t>(at - header_.begin());
  }
  if (const size_t number = column_number(name); number >= 1 && number <= columns_) return number - 1;
  if (header_.empty())
    fail_input("{}:1:1: expected a column number from 1 to {}, got \"{}\" (the file is read without a header)",
               name_, columns_, name);
  fail_input("{}:1:1: expected a column \"{}\", found {}", name_, name, shortened_list(header_));
}

bool CsvTable::next(CsvRow& row) {
  for (;;) {
    if (has_first_ && columns_ > 0) {
      row = first_, has_first_ = false;
    } else if (!reader_.next(row)) {
      return false;
    }
    const auto is_empty = [](std::string_view field) {
      return field.find_first_not_of(" \t\n\r\v\f") == std::string_view::npos;
    };
    if (std::all_of(row.fields.begin(), row.fields.end(), is_empty)) {
      ++blank_rows_;
      continue;
    }
    if (columns_ == 0 || row.fields.size() == columns_) return true;
    bad_rows_.report(
        fmt::format("{}: expected {} fields, found {}", reader_.place(row, 0), columns_, row.fields.size()));
  }
}

std::vector<std::string> CsvTable::notes() const {
  std::vector<std::string> notes;
  if (by_first_line_) notes.push_back(fmt::format("{}: read with separator {}", name_, name_of(separator_)));
  if (reader_.lines_end_in_cr()) notes.push_back(fmt::format("{}: its lines end in CR alone", name_));
  if (blank_rows_ > 0)
    notes.push_back(fmt::format("{}: {} blank row{} skipped", name_, blank_rows_, blank_rows_ == 1 ? "" : "s"));
  return notes;
}

}  // namespace glia
