// What the data sets read from CSV files have in common: find columns, check rows, turn labels into classes.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "data/datasets/dataset.h"

namespace glia {

struct LabelledCsv {
  bool header = false;
  size_t columns = 0;                  // expected fields in a row; 0: as many as the first row has
  std::string label = "1";             // a header name or a number from 1
  std::vector<std::string> text{"2"};  // joined by one space, then trimmed
  std::vector<std::string> labels;     // allowed ones; empty: any, found while reading
};

struct LabelledRows {
  std::vector<std::string> texts, labels;
  std::vector<CsvRow::Place> places;  // of the labels
};

// Errors (each with path, line and column): no such column, a wrong number of fields, a bad label, no text.
LabelledRows read_labelled_csv(const std::string& path, const LabelledCsv& format, BadRows& bad_rows);

// Class indices by position in `class_names`; a label that is not there (it was never in train) is a bad row.
TextSplit to_split(LabelledRows rows, const std::vector<std::string>& class_names, const std::string& path,
                   BadRows& bad_rows);

// The distinct labels: integers in numeric order when all are integers, else strings in byte order.
std::vector<std::string> distinct_labels(const std::vector<std::string>& labels);

std::string trimmed(std::string_view text);  // without white space (ASCII) at its ends

}  // namespace glia
