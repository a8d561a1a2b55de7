// What the data sets read from CSV files have in common: find the separator and the columns, check rows, turn labels
// into classes.
#pragma once

#include <string>
#include <vector>

#include "data/datasets/dataset.h"
#include "data/text/csv_table.h"

namespace glia {

struct LabelledCsv {
  // kFound: the first line is a header when its label is neither a number nor an allowed label. If such a header has
  // columns "label" and "text", these are taken instead of the ones below.
  enum class Header { kNo, kYes, kFound };
  Header header = Header::kNo;
  char separator = 0;                  // 0: found out from the first line
  size_t columns = 0;                  // expected fields in a row; 0: as many as the first row has
  std::string label = "1";             // a header name or a number from 1
  std::vector<std::string> text{"2"};  // joined by one space, then trimmed
  std::vector<std::string> labels;     // allowed ones; empty: any, found while reading
};

struct LabelledRows {
  std::vector<std::string> texts, labels;
  std::vector<uint32_t> bodies;       // as TextSplit's
  std::vector<CsvRow::Place> places;  // of the labels
  std::vector<std::string> notes;     // what was found out: separator, header, blank lines; each names the file
};

// Errors (each with path, line and column): no such column or two of that name, a wrong number of fields, a bad label,
// no text. Rows of nothing but empty fields are no rows: skipped and counted in a note.
LabelledRows read_labelled_csv(const std::string& path, const LabelledCsv& format, BadRows& bad_rows);

// Class indices by position in `class_names`; a label that is not there (it was never in train) is a bad row.
TextSplit to_split(LabelledRows rows, const std::vector<std::string>& class_names, const std::string& path,
                   BadRows& bad_rows);

// The distinct labels: integers in numeric order when all are integers, else strings in byte order.
std::vector<std::string> distinct_labels(const std::vector<std::string>& labels);

// Warnings, a line each: labels that differ in case, width or white space only ("Sport", "sport").
std::vector<std::string> look_alikes(const std::vector<std::string>& class_names);

}  // namespace glia
