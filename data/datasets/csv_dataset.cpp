// Any CSV file with a label column and one or more text columns; labels are integers or strings.
#include <algorithm>
#include <filesystem>

#include "data/datasets/datasets.h"
#include "data/datasets/labelled_csv.h"
#include "engine/core/check.h"
#include "engine/core/file.h"

namespace glia::datasets {
namespace {

constexpr double kTestFraction = 0.1;  // held out where there is no --csv-test

LabelledCsv format_of(const DatasetOptions& o) {
  if (o.csv_train.empty()) fail_input("data set csv: expected a file, got none; say --csv-train FILE");
  LabelledCsv format;
  format.header = o.csv_header ? LabelledCsv::Header::kYes : LabelledCsv::Header::kNo;
  format.separator = separator_of(o.csv_separator);
  format.label = o.csv_label;
  format.text = comma_list(o.csv_text);
  return format;
}

// A class that cannot be in train and test both is worth a look at its rows.
void warn_of_rare_classes(const LabelledRows& rows, const std::vector<std::string>& class_names,
                          const std::string& path, std::vector<std::string>& notes) {
  for (const std::string& name : class_names) {
    if (std::count(rows.labels.begin(), rows.labels.end(), name) != 1) continue;
    const auto at = std::find(rows.labels.begin(), rows.labels.end(), name) - rows.labels.begin();
    notes.push_back(fmt::format("warning: the class \"{}\" has one row, {}:{}", shortened(name), path,
                                rows.places[static_cast<size_t>(at)].line));
  }
}

void move_notes(std::vector<std::string>& from, std::vector<std::string>& to) {
  to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
}

}  // namespace

uint64_t csv_key(const DatasetOptions& o) {
  const LabelledCsv format = format_of(o);
  std::string key = fmt::format("csv 2|{}|{}|{}|", o.csv_header, o.csv_separator, o.csv_label);
  for (const std::string& column : format.text) key += column + "|";
  if (o.csv_test.empty()) key += fmt::format("{}|{}", kTestFraction, o.split_seed);
  for (const std::string& path : {o.csv_train, o.csv_test})
    if (!path.empty() && std::filesystem::is_fifo(path))
      fail_input("{}: expected a file, found a pipe: rows are read more than once", path);
  uint64_t hash = hash_bytes(key, hash_bytes(read_file(o.csv_train)));
  if (!o.csv_test.empty()) hash = hash_bytes(read_file(o.csv_test), hash);
  return hash;
}

TextDataset load_csv(const DatasetOptions& options, BadRows& bad_rows) {
  const LabelledCsv format = format_of(options);
  const std::string &path = options.csv_train, &test_path = options.csv_test;
  LabelledRows train = read_labelled_csv(path, format, bad_rows);
  TextDataset data;
  data.class_names = distinct_labels(train.labels);
  if (data.class_names.size() < 2)
    fail_input("{}: expected at least two labels in column \"{}\", found only \"{}\"", path, options.csv_label,
               shortened(data.class_names[0]));
  move_notes(train.notes, data.notes);
  if (test_path.empty()) warn_of_rare_classes(train, data.class_names, path, data.notes);
  std::vector<std::string> alike = look_alikes(data.class_names);
  move_notes(alike, data.notes);
  data.train = to_split(std::move(train), data.class_names, path, bad_rows);
  if (!test_path.empty()) {
    LabelledRows test = read_labelled_csv(test_path, format, bad_rows);
    move_notes(test.notes, data.notes);
    data.test = to_split(std::move(test), data.class_names, test_path, bad_rows);
    data.source = fmt::format("{} and {}", path, test_path);
    return data;
  }
  const SplitRows rows =
      stratified_split(data.train.labels, kTestFraction, static_cast<uint64_t>(options.split_seed) + 1);
  TextSplit kept;
  const auto move_row = [&](int64_t row, TextSplit& to) {
    to.texts.push_back(std::move(data.train.texts[static_cast<size_t>(row)]));
    to.labels.push_back(data.train.labels[static_cast<size_t>(row)]);
    to.bodies.push_back(data.train.bodies[static_cast<size_t>(row)]);
  };
  if (rows.held_out.empty())
    fail_input(
        "{}: expected classes of several rows in column \"{}\", found {} labels in {} rows: none is left to test",
        path, options.csv_label, data.class_names.size(), rows.kept.size());
  for (const int64_t row : rows.kept) move_row(row, kept);
  for (const int64_t row : rows.held_out) move_row(row, data.test);
  data.train = std::move(kept);
  data.source = fmt::format("{} ({:.0f} % held out as test)", path, 100 * kTestFraction);
  return data;
}

}  // namespace glia::datasets
