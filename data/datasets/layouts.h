// Texts whose publishers say which part is held out and what is a token, so that a loss can be laid beside published ones
// (docs/causal.md).
#pragma once

#include <span>
#include <string>
#include <vector>

#include "data/datasets/corpus.h"
#include "data/datasets/fetch.h"

namespace glia {

inline constexpr const char* kLineEnd = "<eos>";  // of layouts whose tokens are words

struct LayoutRow {
  const char* name;
  enum class Tokens {
    kWords,  // as white space cuts them, a line's end one of them; all that the training part has
    kBytes   // or what --vocab says
  } tokens;
  const char *training, *held_out;  // names of files; the same one: its first nine tenths, and the rest
  const std::vector<RemoteFile>& (*published)();
};
std::span<const LayoutRow> layout_registry();
// An unknown name is an error that lists the known ones.
const LayoutRow& find_layout(const std::string& name);

struct LayoutText {
  std::string training, held_out;
};
// Both parts, of a folder, or of the file itself where the layout is one. Errors: a file that is missing, a part that is empty.
LayoutText read_layout(const LayoutRow& row, const std::string& path);

// Each part is one document, whose label is 0. Errors: other paths than one, a vocabulary where words are the tokens.
Corpus layout_corpus(const CorpusOptions& options);

}  // namespace glia
