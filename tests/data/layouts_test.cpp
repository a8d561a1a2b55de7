// Texts with a split of their own: what is read, what is a token, and what is an error.
#include "data/datasets/layouts.h"

#include "engine/core/file.h"
#include "tests/temporary_folder.h"
#include "tests/test.h"

namespace glia::test {
namespace {

CorpusOptions options_of(const LayoutRow& row, const std::string& path) {
  CorpusOptions o;
  o.layout = row.name, o.files = path, o.training_texts = false;
  o.data.cache = "";
  return o;
}

// The files of every layout, with a text that tells its parts apart.
std::string write_all(const TemporaryFolder& folder) {
  folder.write("ptb.train.txt", " the cat sat on <unk> \n the dog sat \n");
  folder.write("ptb.valid.txt", " the dog sat on the zebra \n");
  folder.write("ptb.test.txt", " a cat \n");
  std::string play;
  for (int i = 0; i < 100; ++i) play += static_cast<char>('a' + i / 10);
  return folder.write("input.txt", play);
}

TEST_CASE("layouts: every one has its parts, is downloaded from somewhere with a sum, and says what it lacks") {
  const TemporaryFolder folder("layouts"), empty("layouts-empty");
  write_all(folder);
  for (const LayoutRow& row : layout_registry()) {
    INFO(std::string(row.name));
    EXPECT(&find_layout(row.name) == &row);
    const Corpus corpus = load_corpus(options_of(row, folder / ""));
    EXPECT(corpus.training.size() == 1);
    EXPECT(corpus.held_out.size() == 1);
    EXPECT(corpus.training.tokens() > 0);
    EXPECT(corpus.classes() == 1);
    bool training = false, held_out = false;
    for (const RemoteFile& file : row.published()) {
      EXPECT(file.md5.size() == 32);
      training = training || file.name == row.training, held_out = held_out || file.name == row.held_out;
    }
    EXPECT(training);
    EXPECT(held_out);
    const std::string error = error_of([&] { load_corpus(options_of(row, empty / "")); });
    EXPECT(contains(error, row.training));
    EXPECT(contains(error, fmt::format("fetch_data --layout {}", row.name)));
    CorpusOptions more = options_of(row, folder / "");
    more.files += "," + more.files;
    EXPECT(contains(error_of([&] { load_corpus(more); }), "expected one path"));
    more = options_of(row, folder / ""), more.training_texts = true;
    EXPECT(contains(error_of([&] { load_corpus(more); }), "expected --training-texts off"));
  }
  EXPECT(contains(error_of([] { find_layout("enwik8"); }), "expected one of ptb, "));
}

TEST_CASE("layouts: Penn Treebank's tokens are its words and its lines' ends; what training lacks is unknown") {
  const TemporaryFolder folder("layouts-ptb");
  write_all(folder);
  const auto text = [&](const char* layout, bool held_out) {
    const Corpus corpus = load_corpus(options_of(find_layout(layout), folder / ""));
    const TokenSplit& part = held_out ? corpus.held_out : corpus.training;
    std::string all;
    for (const int32_t id : part.ids) all += (all.empty() ? "" : " ") + corpus.vocabulary().token(id);
    return all;
  };
  EXPECT(text("ptb", false) == "the cat sat on <unk> <eos> the dog sat <eos>");
  EXPECT(text("ptb", true) == "the dog sat on the [UNK] <eos>");
  EXPECT(text("ptb-test", false) == text("ptb", false));
  EXPECT(text("ptb-test", true) == "[UNK] cat <eos>");
  CorpusOptions o = options_of(find_layout("ptb"), folder / "");
  o.data.vocab = "bytes";
  EXPECT(contains(error_of([&] { load_corpus(o); }), "expected no --vocab"));
  EXPECT(contains(error_of([&] { load_corpus(options_of(find_layout("ptb"), folder / "ptb.train.txt")); }),
                  "expected a folder with ptb.train.txt and ptb.valid.txt"));
  for (const char* name : {"ptb", "tinyshakespeare"}) {
    CorpusOptions lowered = options_of(find_layout(name), folder / "");
    lowered.data.lowercase = "on";
    EXPECT(contains(error_of([&] { load_corpus(lowered); }), "--lowercase on: not read with --layout"));
  }
  const Corpus corpus = load_corpus(options_of(find_layout("ptb"), folder / ""));
  REQUIRE(corpus.notes.size() == 1);
  EXPECT(contains(corpus.notes[0], "of the held-out pieces are [UNK]"));
  // A byte order mark is no word, and what is no text is an error with its file and place.
  const std::string words = text("ptb", false);
  folder.write("ptb.train.txt", "\xEF\xBB\xBF" + read_file(folder / "ptb.train.txt"));
  EXPECT(text("ptb", false) == words);
  folder.write("ptb.valid.txt", " the dog \xFF \n");
  EXPECT(contains(error_of([&] { load_corpus(options_of(find_layout("ptb"), folder / "")); }),
                  "ptb.valid.txt:1:10: expected UTF-8, found byte 0xFF"));
  folder.write("ptb.valid.txt", " the dog \n");
  folder.write("ptb.train.txt", "one [SEP] two\n");
  EXPECT(contains(error_of([&] { load_corpus(options_of(find_layout("ptb"), folder / "")); }),
                  "ptb.train.txt: expected words, found [SEP] among them"));
}

TEST_CASE("layouts: a vocabulary of words has them by how often they occur, and its file is one too") {
  const WordPiece words(Vocabulary::of_words("b a <unk> b\nb a"), false);
  EXPECT(words.of_words());
  const std::vector<std::string>& tokens = words.vocabulary().tokens();
  EXPECT(std::vector<std::string>(tokens.end() - 3, tokens.end()) == std::vector<std::string>{"b", "a", "<unk>"});
  std::vector<int32_t> ids = words.encode(" a  B <unk>\n[SEP] b ");
  EXPECT(words.decode(ids.data(), ids.size(), false) == "a [UNK] <unk> [SEP] b");
  ids.clear();
  words.encode("a b a b", ids, 3);
  EXPECT(ids.size() == 3);
  const std::vector<WordPiece::Piece> pieces = words.pieces(" a <unk>");
  REQUIRE(pieces.size() == 2);
  EXPECT(pieces[1].begin == 3);
  EXPECT(pieces[1].end == 8);
  EXPECT(WordPiece(Vocabulary::from_tokens(tokens, "file")).of_words());
  EXPECT(!WordPiece(Vocabulary::of_bytes()).of_words());
  EXPECT(contains(error_of([] { Vocabulary::of_words("one [CLS]"); }), "[CLS]"));
}

TEST_CASE(
    "layouts: tinyshakespeare is cut at nine tenths of its characters, in a folder or as a file, in bytes or pieces") {
  const TemporaryFolder folder("layouts-play");
  const std::string file = write_all(folder);
  const LayoutRow& row = find_layout("tinyshakespeare");
  for (const std::string& path : {folder / "", file}) {
    const LayoutText parts = read_layout(row, path);
    EXPECT(parts.training.size() == 90);
    EXPECT(parts.held_out == "jjjjjjjjjj");
    const Corpus corpus = load_corpus(options_of(row, path));
    EXPECT(corpus.tokenizer->of_bytes());
    EXPECT(corpus.training.tokens() == 90);
  }
  // Twenty characters of two bytes each: the cut is between two of them.
  std::string wide;
  for (int i = 0; i < 20; ++i) wide += "é";
  EXPECT(read_layout(row, folder.write("wide.txt", wide)).training.size() == 36);
  EXPECT(contains(error_of([&] { read_layout(row, folder.write("short.txt", "\n\n\n")); }),
                  "no text in its training"));
}

}  // namespace
}  // namespace glia::test
