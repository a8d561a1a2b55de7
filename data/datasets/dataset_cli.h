// The flags of a DatasetOptions, for every program that reads a data set.
#pragma once

#include <CLI/CLI.hpp>

#include "data/datasets/dataset.h"

namespace glia {

inline void add_dataset_flags(CLI::App& app, DatasetOptions& o) {
  const char* group = "Data";
  app.add_option("--dataset", o.name, "ag_news, csv, synthetic; auto: ag_news where its files are, else synthetic")
      ->capture_default_str()
      ->group(group);
  app.add_option("--data", o.data_dir, "folder of AG News' train.csv and test.csv [data/ag_news]")->group(group);
  app.add_option("--vocab", o.vocab, "vocab.txt [in the data folder or above it; else one is trained]")
      ->group(group);
  app.add_option("--max-length", o.max_length, "tokens of a sequence, [CLS] and [SEP] included")
      ->check(CLI::Range(3, 1 << 20))
      ->capture_default_str()
      ->group(group);
  app.add_flag_callback(
         "--cased", [&o] { o.lowercase = false; }, "keep case and accents")
      ->group(group);
  app.add_option("--validation-fraction", o.validation_fraction, "of train, stratified, below 1")
      ->check(CLI::Range(0.0, 0.999))
      ->capture_default_str()
      ->group(group);
  app.add_option("--split-seed", o.split_seed, "fixes which rows are held out")
      ->capture_default_str()
      ->group(group);
  app.add_flag("--skip-bad-rows", o.skip_bad_rows, "count and list bad rows instead of stopping at the first")
      ->group(group);
  app.add_option("--cache", o.cache_dir, "folder of cached token ids; \"\": none")
      ->capture_default_str()
      ->group(group);
  app.add_option("--csv-train", o.csv.train, "data set csv: file of the train rows")->group(group);
  app.add_option("--csv-test", o.csv.test, "file of the test rows [a tenth of train, stratified]")->group(group);
  app.add_option("--csv-label", o.csv.label, "label column: name or number")->capture_default_str()->group(group);
  app.add_option("--csv-text", o.csv.text, "text columns: names or numbers")
      ->delimiter(',')
      ->capture_default_str()
      ->group(group);
  app.add_flag_callback(
         "--csv-no-header", [&o] { o.csv.header = false; }, "the first line is a row")
      ->group(group);
  app.add_option("--topics", o.synthetic.topics, "data set synthetic: topics")->capture_default_str()->group(group);
  app.add_option("--difficulty", o.synthetic.difficulty, "0 every topical word tells, 1 none does")
      ->capture_default_str()
      ->group(group);
  app.add_option("--synthetic-rows", o.synthetic.train_rows, "train rows")->capture_default_str()->group(group);
  app.add_option("--synthetic-test-rows", o.synthetic.test_rows, "test rows")->capture_default_str()->group(group);
  app.add_option("--synthetic-seed", o.synthetic.seed, "of the corpus")->capture_default_str()->group(group);
}

}  // namespace glia
