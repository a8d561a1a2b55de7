// What a data set is: texts with labels in, token ids with labels out, and the options that choose and shape one.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/text/csv.h"
#include "data/tokens/wordpiece.h"

namespace glia {

// --- before the tokenizer ------------------------------------------------------------

struct TextSplit {
  std::vector<std::string> texts;
  std::vector<int32_t> labels;  // 0 … C−1
};

struct TextDataset {
  std::vector<std::string> class_names;  // [C]
  TextSplit train, test;                 // validation is taken from train, see Dataset
  std::string source;                    // for a person: where it came from
  bool is_synthetic = false;
  std::optional<double> bayes_accuracy;  // of the best possible classifier on `test`, where it is known
};

// --- after it ------------------------------------------------------------

// N sequences, each [CLS] pieces [SEP], one behind the other.
struct TokenSplit {
  std::vector<int32_t> ids;         // [offsets[N]]
  std::vector<int64_t> offsets{0};  // [N + 1]
  std::vector<int32_t> labels;      // [N]
  int64_t size() const { return static_cast<int64_t>(labels.size()); }
  int64_t tokens() const { return offsets.back(); }
  int64_t length(int64_t row) const { return offsets[row + 1] - offsets[row]; }
  void append(const TokenSplit& from, int64_t row);
};

struct Dataset {
  std::string name, source;
  bool is_synthetic = false;
  std::optional<double> bayes_accuracy;
  std::vector<std::string> class_names;  // [C]
  TokenSplit train, validation, test;
  std::shared_ptr<const WordPiece> tokenizer;
  int64_t max_length = 0;
  bool from_cache = false;
  std::string cache_note;  // why the ids could not be cached; "" when all went well
  BadRows bad_rows;        // what --skip-bad-rows left out (empty when the ids came from the cache)

  int64_t classes() const { return static_cast<int64_t>(class_names.size()); }
  const Vocabulary& vocabulary() const { return tokenizer->vocabulary(); }
};

// --- options ------------------------------------------------------------

// `csv`: any file with a label and one or more text columns. Columns: header names or numbers from 1.
struct CsvOptions {
  std::string train, test;  // without `test` a stratified test_fraction of train is held out
  double test_fraction = 0.1;
  bool header = true;
  std::string label = "label";
  std::vector<std::string> text{"text"};  // joined by a space
};

// `synthetic`: see datasets/synthetic.h.
struct SyntheticOptions {
  int64_t topics = 4, train_rows = 12000, test_rows = 2400;
  double difficulty = 0.4;  // 0: every word gives the topic away; 1: no word does
  uint64_t seed = 1;
};

struct DatasetOptions {
  std::string name = "auto";  // a registry row, or auto: ag_news where its files are, else synthetic
  std::string data_dir;       // --data; default data/ag_news
  std::string
      vocab;  // --vocab; default vocab.txt in data_dir, in the folder above it, else trained on the train texts
  int64_t trained_vocab_size = 8000;
  bool lowercase = true;
  int64_t max_length = 128;
  double validation_fraction = 0.05;  // of the train rows of each class
  uint64_t split_seed = 1;            // fixes validation (and a held-out test), whatever the seed of a run
  bool skip_bad_rows = false;
  std::string cache_dir = "data/cache";  // "": no cache
  CsvOptions csv;
  SyntheticOptions synthetic;
};

// --- the registry (registry.cpp) ------------------------------------------------------------

struct DatasetRow {
  const char* name;
  const char* help;
  TextDataset (*load)(const DatasetOptions& options, BadRows& bad_rows);
  // Changes when what load() would return changes: a hash of the files and of the options that load() reads.
  uint64_t (*content_key)(const DatasetOptions& options);
};

const std::vector<DatasetRow>& dataset_rows();
const DatasetRow& find_dataset(const std::string& name);  // an unknown name is an error that lists the known ones

// `auto` resolved: ag_news where its files are or where a folder is named, else synthetic.
std::string dataset_name(const DatasetOptions& options);

// The tokenizer of a data set: with the vocabulary that is found, else with one trained on its train texts.
WordPiece tokenizer_for(const DatasetOptions& options, const TextDataset& data);

// Where the vocabulary is: options.vocab, or vocab.txt in the data folder or above it; "" when there is none.
std::string find_vocabulary(const DatasetOptions& options);

// The data set's token ids, from the cache where it holds exactly these contents, else made and cached.
Dataset load_dataset(const DatasetOptions& options);

// The rows of `from` in two stratified parts: `fraction` of each class (rounded; at least one row where the class
// has two) in the second. Depends on labels and seed only; both parts keep the order of the rows.
struct SplitRows {
  std::vector<int64_t> kept, held_out;
};
SplitRows stratified_split(const std::vector<int32_t>& labels, double fraction, uint64_t seed);

// Tokenizes on all cores; the result does not depend on how many there are.
TokenSplit tokenize_split(const TextSplit& texts, const WordPiece& tokenizer, int64_t max_length);

}  // namespace glia
