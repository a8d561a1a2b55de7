// AG News: 120,000 train and 7,600 test rows in 4 classes, as official CSV files "class","title","description".
// X. Zhang, J. Zhao, Y. LeCun, "Character-level Convolutional Networks for Text Classification", NeurIPS 2015.
#include <algorithm>
#include <filesystem>

#include "data/datasets/datasets.h"
#include "data/datasets/labelled_csv.h"
#include "engine/core/check.h"
#include "engine/core/command_line/program.h"
#include "engine/core/file.h"

namespace glia::datasets {
namespace fs = std::filesystem;

std::string ag_news_dir(const DatasetOptions& options) {
  return options.data.empty() ? "data/ag_news" : options.data;
}

bool ag_news_is_there(const DatasetOptions& options) {
  const fs::path dir = ag_news_dir(options);
  return fs::is_regular_file(dir / "train.csv") && fs::is_regular_file(dir / "test.csv");
}

namespace {

std::string file_of(const DatasetOptions& options, const char* name) {
  const fs::path path = fs::path(ag_news_dir(options)) / name;
  if (!fs::exists(path))
    fail_input("{}: no such file; type `{}`, put AG News' train.csv and test.csv there, or say --data DIR",
               path.string(), program("tools/fetch_data"));
  return path.string();
}

// Copies of the set count their classes from 0. They are told by a 0 and no 4 among the train labels; any other 0 is
// a bad row.
bool counts_from_zero(const LabelledRows& train) {
  const auto has = [&](const char* label) {
    return std::find(train.labels.begin(), train.labels.end(), label) != train.labels.end();
  };
  return has("0") && !has("4");
}

// The rows with labels 1 … 4.
LabelledRows official(LabelledRows rows, bool from_zero, const std::string& path, BadRows& bad_rows) {
  LabelledRows kept;
  kept.notes = std::move(rows.notes);
  if (from_zero) kept.notes.push_back(fmt::format("{}: its classes are counted from 0", path));
  for (size_t i = 0; i < rows.labels.size(); ++i) {
    std::string& label = rows.labels[i];
    if (label == (from_zero ? "4" : "0")) {
      bad_rows.report(fmt::format("{}:{}:{}: expected a class out of {}, found \"{}\"", path, rows.places[i].line,
                                  rows.places[i].column, from_zero ? "0, 1, 2, 3" : "1, 2, 3, 4", label));
      continue;
    }
    if (from_zero) ++label[0];
    kept.labels.push_back(std::move(label));
    kept.texts.push_back(std::move(rows.texts[i]));
    kept.bodies.push_back(rows.bodies[i]);
    kept.places.push_back(rows.places[i]);
  }
  return kept;
}

}  // namespace

// Of a missing pair the first is named, whatever the order in which a compiler has arguments computed.
uint64_t ag_news_key(const DatasetOptions& options) {
  const uint64_t train = hash_bytes(read_file(file_of(options, "train.csv")));
  return hash_bytes(read_file(file_of(options, "test.csv")), train);
}

TextDataset load_ag_news(const DatasetOptions& options, BadRows& bad_rows) {
  LabelledCsv format;
  format.header = LabelledCsv::Header::kFound;
  format.columns = 3;
  format.label = std::string("1");  // a plain literal trips -Wrestrict in g++ 12
  format.text = {"2", "3"};         // title + " " + description, trimmed: a third of the rows have no title
  format.labels = {"0", "1", "2", "3", "4"};
  const std::string train = file_of(options, "train.csv"), test = file_of(options, "test.csv");
  TextDataset data;
  data.class_names = {"World", "Sports", "Business", "Sci/Tech"};
  data.source = fmt::format("AG News, official CSV files in {}", ag_news_dir(options));
  LabelledRows train_rows = read_labelled_csv(train, format, bad_rows),
               test_rows = read_labelled_csv(test, format, bad_rows);
  const bool from_zero = counts_from_zero(train_rows);
  train_rows = official(std::move(train_rows), from_zero, train, bad_rows);
  test_rows = official(std::move(test_rows), from_zero, test, bad_rows);
  // A file without one of the classes cannot be AG News; say so before anything is trained on it.
  const std::vector<std::string> seen = distinct_labels(train_rows.labels);
  for (size_t i = 0; i < test_rows.labels.size(); ++i)
    if (std::find(seen.begin(), seen.end(), test_rows.labels[i]) == seen.end())
      fail_input("{}:{}:{}: expected a class that {} has, found {}", test, test_rows.places[i].line,
                 test_rows.places[i].column, train, test_rows.labels[i]);
  for (const LabelledRows* rows : {&train_rows, &test_rows})
    data.notes.insert(data.notes.end(), rows->notes.begin(), rows->notes.end());
  const std::vector<std::string> classes{"1", "2", "3", "4"};
  data.train = to_split(std::move(train_rows), classes, train, bad_rows);
  data.test = to_split(std::move(test_rows), classes, test, bad_rows);
  return data;
}

}  // namespace glia::datasets
