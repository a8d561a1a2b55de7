// Text for pretraining: files with a document a line (or where bytes are the tokens all of a file, in blocks of lines), and the training texts of a data set. What the data set is tested or validated
// on stays out: its validation rows, and every document that shares a run of words with a test row.
#pragma once

#include "data/datasets/dataset.h"

namespace glia {

inline constexpr const char* kNoLayout = "lines";

struct CorpusOptions {
  DatasetOptions data;         // the data set that is tested on later; vocabulary, cache
  std::string files;           // paths or folders, separated by commas; "": none
  bool training_texts = true;  // the data set's training texts too
  int64_t overlap_words = 8;   // length of a shared run; 0: test rows are not looked at
  double held_out = 0.01;      // share of each source's documents
  int64_t max_documents = 0;   // of each source; 0: all
  bool topics = false;         // a document's label is its class in the data set instead of its source
  // Else the text is one of data/datasets/layouts.h, and of what is above only files and data have a part.
  std::string layout = kNoLayout;
};

struct Corpus {
  struct Source {
    std::string name;
    int64_t documents = 0;                    // found
    int64_t overlapping = 0, validation = 0;  // of them left out: share a run with a test row; are validation rows
    int64_t held_out = 0, guards = 0;         // documents; guards: left out because they lie beside held-out ones
  };
  std::vector<Source> sources;
  std::string excluded;  // name of the data set whose test rows are kept out; "": there is none
  int64_t test_rows = 0;
  // Ids without [CLS] and [SEP]; a document's label is its source's number. With topics: its class among class_names, −1 where
  // it is none of the data set's.
  TokenSplit training, held_out;
  std::vector<std::string> class_names;  // [C]; empty without topics
  std::shared_ptr<const WordPiece> tokenizer;
  bool from_cache = false;
  std::vector<std::string> notes;  // for a person, a line each

  const Vocabulary& vocabulary() const { return tokenizer->vocabulary(); }
  // What labels are below.
  int64_t classes() const {
    return static_cast<int64_t>(class_names.empty() ? sources.size() : class_names.size());
  }
};

// Held-out documents are runs of neighbouring ones (up to 64), and some on both sides of a run are left out of both parts: where a line is
// only a paragraph, no article lies in both. Which ones depends on --split-seed alone. Errors: no text at all, too little of
// it to hold some out, files that cannot be read.
Corpus load_corpus(const CorpusOptions& options, PhaseDisplay* display = nullptr);

}  // namespace glia
