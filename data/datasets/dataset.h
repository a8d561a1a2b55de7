// What a data set is: texts with labels in, token ids with labels out. Options: datasets/options.h.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/datasets/options.h"
#include "data/text/csv.h"
#include "data/tokens/wordpiece.h"

namespace glia {

class PhaseDisplay;

// --- before the tokenizer ------------------------------------------------------------

struct TextSplit {
  std::vector<std::string> texts;
  std::vector<int32_t> labels;  // 0 … C−1
  // Where in each text its last column begins, which is compared when near copies are looked for: the same article may
  // come under another title. Empty: the texts as a whole.
  std::vector<uint32_t> bodies;
  std::vector<std::string_view> body_texts() const;
};

struct TextDataset {
  std::vector<std::string> class_names;  // [C]
  TextSplit train, test;                 // validation is taken from train, see Dataset
  std::string source;                    // for a person: where it came from
  bool is_synthetic = false;
  std::optional<double> bayes_accuracy;  // of the best possible classifier on `test`, where it is known
  std::vector<std::string> notes;        // for a person, a line each: what was found out about the files
};

// --- after it ------------------------------------------------------------

// N sequences, each [CLS] pieces [SEP], one behind the other.
struct TokenSplit {
  std::vector<int32_t> ids;          // [offsets[N]]
  std::vector<int64_t> offsets{0};   // [N + 1]
  std::vector<int32_t> labels;       // [N]
  std::vector<uint8_t> near_copies;  // [N] 1: nearly a training row (data/text/near_copies.h); empty: nobody looked
  std::vector<int32_t> borders;      // [N]: so many of a row's tokens are its prompt; or empty: rows have no border
  int64_t size() const { return static_cast<int64_t>(labels.size()); }
  int64_t tokens() const { return offsets.back(); }
  int64_t near_copy_count() const { return std::count(near_copies.begin(), near_copies.end(), uint8_t{1}); }
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
  std::string cache_note;          // why the ids could not be cached; "" when all went well
  std::vector<std::string> notes;  // for a person, a line each: what was found out, and warnings
  BadRows bad_rows;                // what --skip-bad-rows left out (empty when the ids came from the cache)

  int64_t classes() const { return static_cast<int64_t>(class_names.size()); }
  const Vocabulary& vocabulary() const { return tokenizer->vocabulary(); }
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
const DatasetRow& find_dataset(std::string_view name);  // an unknown name is an error that lists the known ones

// `auto` resolved: ag_news where its files are or where a folder is named, else synthetic.
std::string dataset_name(const DatasetOptions& options);

// The tokenizer with the vocabulary in a file; what was found out about its letters goes to `notes`.
WordPiece tokenizer_from(const DatasetOptions& options, const std::string& path, std::vector<std::string>& notes);

// The tokenizer of a data set: with the vocabulary that is found, else with one trained on its train texts.
WordPiece tokenizer_for(const DatasetOptions& options, const TextDataset& data, std::vector<std::string>& notes,
                        PhaseDisplay* display = nullptr);

inline constexpr double kUnknownShare = 0.01;  // of [UNK] among pieces: more is a warning
// A warning where more than `share` of a part's pieces are [UNK]: of such a text a model learns, and is told, nothing.
void warn_of_unknown_pieces(const TokenSplit& split, const Vocabulary& vocabulary, const char* part, double share,
                            std::vector<std::string>& notes);

// Where the vocabulary is: options.vocab, or vocab.txt in the data folder or above it; "" when there is none.
std::string find_vocabulary(const DatasetOptions& options);

// The data set's token ids, from the cache where it holds exactly these contents, else made and cached; then cut to
// max_rows (validation by the same share) and max_test_rows. `display` is told what takes its time.
Dataset load_dataset(const DatasetOptions& options, PhaseDisplay* display = nullptr);

// The rows of `from` in two stratified parts: `fraction` of each class (rounded; at least one row where the class
// has two) in the second. Depends on labels and seed only; both parts keep the order of the rows.
struct SplitRows {
  std::vector<int64_t> kept, held_out;
};
SplitRows stratified_split(const std::vector<int32_t>& labels, double fraction, uint64_t seed);

// Tokenizes on all cores; the result does not depend on how many there are. `titles`: with the border of each row where its
// last column begins.
TokenSplit tokenize_split(const TextSplit& texts, const WordPiece& tokenizer, int64_t max_length,
                          PhaseDisplay* display = nullptr, bool titles = false);

}  // namespace glia
