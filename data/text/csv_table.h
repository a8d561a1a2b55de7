// A CSV file as a table: its separator and header found out, columns by name or number, rows of one length, blank
// ones left out. What was found out is told in notes().
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "data/text/csv.h"

namespace glia {

struct CsvTableFormat {
  char separator = 0;  // 0: out of comma, tab, semicolon and pipe the one with which the first line has the columns
  size_t columns = 0;  // expected fields in a row of a file without a header; 0: as many as the first row has
  std::vector<std::string> wanted;  // the columns that will be asked for: they tell the separator
  // Whether the first row, its fields trimmed, is a header.
  std::function<bool(const std::vector<std::string>& row)> is_header = [](const auto&) { return true; };
};

// "comma" → ','; "auto" → 0. Error for other names.
char separator_of(const std::string& name);

class CsvTable {
 public:
  // Errors: those of CsvReader.
  CsvTable(const std::string& path, const CsvTableFormat& format, BadRows& bad_rows);
  CsvTable(const std::string& name, std::string_view content, const CsvTableFormat& format, BadRows& bad_rows);

  const std::vector<std::string>& header() const { return header_; }  // trimmed; empty: the file has none
  bool empty() const { return columns_ == 0; }                        // not even a header

  // The place of a column: by its name in the header, or by its number from 1. Error: there is none, or two.
  size_t column(const std::string& name) const;

  // The next row with the right number of fields; others are bad rows. Rows of nothing but empty fields are skipped.
  bool next(CsvRow& row);
  std::string place(const CsvRow& row, size_t field) const { return reader_.place(row, field); }

  // A line each, which names the file: separator, header where it was a guess, and (after the last row) blank rows.
  std::vector<std::string> notes() const;

 private:
  void open(const CsvTableFormat& format);
  void find_separator(const CsvTableFormat& format);

  std::string name_;
  BadRows& bad_rows_;
  CsvReader reader_;
  char separator_ = ',';
  bool by_first_line_ = false;
  size_t columns_ = 0;
  std::vector<std::string> header_;
  CsvRow first_;  // a first row that is no header; its views hold until the reader goes on
  bool has_first_ = false;
  int64_t blank_rows_ = 0;
};

std::string trimmed(std::string_view text);  // without white space (ASCII) at its ends
// "title,body" → {"title", "body"}. Error: an empty part.
std::vector<std::string> comma_list(const std::string& text);
// For a message: a long text or list cut short.
std::string shortened(std::string_view text);
std::string shortened_list(const std::vector<std::string>& items);

}  // namespace glia
