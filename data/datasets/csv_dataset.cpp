// Any CSV file with a label column and one or more text columns; labels are integers or strings.
#include "data/datasets/datasets.h"
#include "data/datasets/labelled_csv.h"
#include "engine/core/check.h"
#include "engine/core/file.h"

namespace glia::datasets {

uint64_t csv_key(const DatasetOptions& options) {
  const CsvOptions& csv = options.csv;
  if (csv.train.empty()) fail_input("data set csv: expected a file, got none; say --csv-train FILE");
  std::string key = fmt::format("{}|{}|", csv.header, csv.label);
  for (const std::string& column : csv.text) key += column + "|";
  if (csv.test.empty()) key += fmt::format("{}|{}", csv.test_fraction, options.split_seed);
  uint64_t hash = hash_bytes(key, hash_bytes(read_file(csv.train)));
  if (!csv.test.empty()) hash = hash_bytes(read_file(csv.test), hash);
  return hash;
}

TextDataset load_csv(const DatasetOptions& options, BadRows& bad_rows) {
  const CsvOptions& csv = options.csv;
  if (csv.train.empty()) fail_input("data set csv: expected a file, got none; say --csv-train FILE");
  if (csv.text.empty()) fail_input("data set csv: expected a text column, got none; say --csv-text NAME");
  LabelledCsv format;
  format.header = csv.header;
  format.label = csv.label;
  format.text = csv.text;
  LabelledRows train = read_labelled_csv(csv.train, format, bad_rows);
  TextDataset data;
  data.class_names = distinct_labels(train.labels);
  if (data.class_names.size() < 2)
    fail_input("{}: expected at least two labels in column \"{}\", found only \"{}\"", csv.train, csv.label,
               data.class_names[0]);
  data.train = to_split(std::move(train), data.class_names, csv.train, bad_rows);
  if (!csv.test.empty()) {
    data.test = to_split(read_labelled_csv(csv.test, format, bad_rows), data.class_names, csv.test, bad_rows);
    data.source = fmt::format("{} and {}", csv.train, csv.test);
    return data;
  }
  const SplitRows rows = stratified_split(data.train.labels, csv.test_fraction, options.split_seed + 1);
  TextSplit kept;
  const auto move_row = [&](int64_t row, TextSplit& to) {
    to.texts.push_back(std::move(data.train.texts[static_cast<size_t>(row)]));
    to.labels.push_back(data.train.labels[static_cast<size_t>(row)]);
  };
  for (const int64_t row : rows.kept) move_row(row, kept);
  for (const int64_t row : rows.held_out) move_row(row, data.test);
  data.train = std::move(kept);
  data.source = fmt::format("{} ({:.0f} % held out as test)", csv.train, 100 * csv.test_fraction);
  return data;
}

}  // namespace glia::datasets
