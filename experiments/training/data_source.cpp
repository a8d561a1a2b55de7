#include "experiments/training/data_source.h"

#include "data/datasets/datasets.h"
#include "engine/core/check.h"
#include "engine/core/file.h"

namespace glia {
namespace {

constexpr uint64_t kCutSeed = 7;  // which rows --max-rows keeps: the same for every run and seed

void cut(TokenSplit& split, int64_t rows) {
  if (rows == 0 || rows >= split.size()) return;
  const double held = static_cast<double>(rows) / static_cast<double>(split.size());
  const SplitRows parts = stratified_split(split.labels, held, kCutSeed);
  TokenSplit kept;
  for (const int64_t row : parts.held_out) kept.append(split, row);
  split = std::move(kept);
}

}  // namespace

DatasetOptions dataset_options(const Options& o) {
  DatasetOptions d;
  d.name = o.dataset;
  d.data_dir = o.data;
  d.vocab = o.vocab;
  d.trained_vocab_size = o.vocab_size;
  d.max_length = o.max_length;
  d.validation_fraction = o.validation_fraction;
  d.split_seed = static_cast<uint64_t>(o.split_seed);
  d.skip_bad_rows = o.skip_bad_rows;
  d.cache_dir = o.cache;
  d.csv.train = o.csv_train;
  d.csv.test = o.csv_test;
  d.csv.label = o.csv_label;
  d.csv.header = o.csv_header;
  d.csv.text.clear();
  for (size_t begin = 0; begin <= o.csv_text.size();) {
    const size_t end = std::min(o.csv_text.find(',', begin), o.csv_text.size());
    d.csv.text.push_back(o.csv_text.substr(begin, end - begin));
    begin = end + 1;
  }
  d.synthetic.topics = o.topics;
  d.synthetic.train_rows = o.synthetic_rows;
  d.synthetic.test_rows = o.synthetic_test_rows;
  d.synthetic.difficulty = o.difficulty;
  d.synthetic.seed = static_cast<uint64_t>(o.synthetic_seed);
  return d;
}

bool has_real_data(const Options& o) {
  if (o.dataset == "synthetic") return false;
  return o.dataset != "auto" || !o.data.empty() || datasets::ag_news_is_there(dataset_options(o));
}

Dataset load_data(const Options& options) {
  Dataset data = load_dataset(dataset_options(options));
  cut(data.train, options.max_rows);
  cut(data.test, options.max_test_rows);
  CHECK(data.train.size() > 0 && data.test.size() > 0, "data: {} training and {} test rows are too few",
        data.train.size(), data.test.size());
  if (options.select == "validation" && data.validation.size() == 0)
    fail_input("--validation-fraction {}: leaves no row for validation", options.validation_fraction);
  return data;
}

results::DataInfo data_info(const Dataset& data) {
  return {data.name,        data.is_synthetic, data.train.size(),  data.validation.size(),
          data.test.size(), data.class_names,  data.bayes_accuracy};
}

uint64_t data_fingerprint(const Dataset& data) {
  uint64_t hash = 0;
  for (const TokenSplit* split : {&data.train, &data.validation, &data.test}) {
    const auto absorb = [&](const auto& values) {
      hash = hash_bytes({reinterpret_cast<const char*>(values.data()), values.size() * sizeof values[0]}, hash);
    };
    absorb(split->ids);
    absorb(split->offsets);
    absorb(split->labels);
  }
  return hash;
}

}  // namespace glia
