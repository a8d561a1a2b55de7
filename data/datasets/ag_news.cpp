// AG News: 120,000 train and 7,600 test rows in 4 classes, as official CSV files "class","title","description".
// X. Zhang, J. Zhao, Y. LeCun, "Character-level Convolutional Networks for Text Classification", NeurIPS 2015.
#include <algorithm>
#include <filesystem>

#include "data/datasets/datasets.h"
#include "data/datasets/labelled_csv.h"
#include "engine/core/check.h"
#include "engine/core/file.h"

namespace glia::datasets {
namespace fs = std::filesystem;

std::string ag_news_dir(const DatasetOptions& options) {
  return options.data_dir.empty() ? "data/ag_news" : options.data_dir;
}

bool ag_news_is_there(const DatasetOptions& options) {
  const fs::path dir = ag_news_dir(options);
  return fs::is_regular_file(dir / "train.csv") && fs::is_regular_file(dir / "test.csv");
}

namespace {

std::string file_of(const DatasetOptions& options, const char* name) {
  const fs::path path = fs::path(ag_news_dir(options)) / name;
  if (!fs::exists(path))
    fail_input("{}: no such file; type `make data`, put AG News' train.csv and test.csv there, or say --data DIR",
               path.string());
  return path.string();
}

}  // namespace

uint64_t ag_news_key(const DatasetOptions& options) {
  return hash_bytes(read_file(file_of(options, "test.csv")), hash_bytes(read_file(file_of(options, "train.csv"))));
}

TextDataset load_ag_news(const DatasetOptions& options, BadRows& bad_rows) {
  LabelledCsv format;
  format.columns = 3;
  format.label = std::string("1");  // a plain literal trips -Wrestrict in g++ 12
  format.text = {"2", "3"};         // title + " " + description, trimmed: a third of the rows have no title
  format.labels = {"1", "2", "3", "4"};
  const std::string train = file_of(options, "train.csv"), test = file_of(options, "test.csv");
  TextDataset data;
  data.class_names = {"World", "Sports", "Business", "Sci/Tech"};
  data.source = fmt::format("AG News, official CSV files in {}", ag_news_dir(options));
  LabelledRows train_rows = read_labelled_csv(train, format, bad_rows),
               test_rows = read_labelled_csv(test, format, bad_rows);
  // A file without one of the classes cannot be AG News; say so before anything is trained on it.
  const std::vector<std::string> seen = distinct_labels(train_rows.labels);
  for (size_t i = 0; i < test_rows.labels.size(); ++i)
    if (std::find(seen.begin(), seen.end(), test_rows.labels[i]) == seen.end())
      fail_input("{}:{}:{}: expected a class that {} has, found {}", test, test_rows.places[i].line,
                 test_rows.places[i].column, train, test_rows.labels[i]);
  data.train = to_split(std::move(train_rows), format.labels, train, bad_rows);
  data.test = to_split(std::move(test_rows), format.labels, test, bad_rows);
  return data;
}

}  // namespace glia::datasets
