// The data sets, one row each. To add one: data/datasets/NAME.cpp with a load and a key function, declared in
// datasets/datasets.h, and a row here. The tests walk this table.
#include "data/datasets/dataset.h"
#include "data/datasets/datasets.h"
#include "engine/core/check.h"

namespace glia {

const std::vector<DatasetRow>& dataset_rows() {
  static const std::vector<DatasetRow> rows{
      {"ag_news", "AG News from its official CSV files: topics of news, 4 classes", datasets::load_ag_news,
       datasets::ag_news_key},
      {"csv", "any CSV file with a label column and text columns", datasets::load_csv, datasets::csv_key},
      {"synthetic", "generated text on made-up topics, with a known best accuracy", datasets::load_synthetic,
       datasets::synthetic_key},
  };
  return rows;
}

const DatasetRow& find_dataset(std::string_view name) {
  std::string known;
  for (const DatasetRow& row : dataset_rows()) {
    if (name == row.name) return row;
    known += (known.empty() ? "" : ", ") + std::string(row.name);
  }
  fail_input("unknown data set \"{}\"; there are: auto, {}", name, known);
}

}  // namespace glia
