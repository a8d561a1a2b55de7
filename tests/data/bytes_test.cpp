// Bytes as tokens: text in, the same text out, and whole files as blocks of lines.
#include "data/datasets/corpus.h"
#include "data/text/documents.h"
#include "tests/temporary_folder.h"
#include "tests/test.h"

namespace glia::test {
namespace {

TEST_CASE("bytes: every byte is a token, white space and capitals too, and comes back as it was") {
  const WordPiece bytes(Vocabulary::of_bytes(), true);
  EXPECT(bytes.of_bytes());
  EXPECT(bytes.vocabulary().size() == 261);
  const std::string text = std::string("To be,\n\n  or\tNOT é [SEP]\xff") + '\0';
  std::vector<int32_t> ids = bytes.encode(text);
  EXPECT(ids.size() == text.size());
  EXPECT(bytes.decode(ids.data(), ids.size()) == text);
  EXPECT(bytes.pieces(text)[3].begin == 3);
  ids.clear();
  EXPECT(bytes.encode_sequence(text, 6, ids));
  EXPECT(ids.size() == 6);
  EXPECT(ids.front() == bytes.vocabulary().cls());
  EXPECT(bytes.decode(ids.data(), ids.size()) == "To b");
  // A file of the tokens is one too; a vocabulary with some of them is none.
  std::vector<std::string> tokens = bytes.vocabulary().tokens();
  EXPECT(WordPiece(Vocabulary::from_tokens(tokens, "file")).of_bytes());
  tokens.erase(tokens.begin() + 100);
  EXPECT(!WordPiece(Vocabulary::from_tokens(tokens, "file")).of_bytes());
}

TEST_CASE("bytes: a file is cut into blocks that end with a line, and nothing of it is left out") {
  const std::string text = "one\n\ntwo three\nfour\n  five";
  std::string together;
  const std::vector<std::string_view> blocks = blocks_of(text, 5);
  EXPECT(blocks.size() == 2);
  for (size_t i = 0; i < blocks.size(); ++i) {
    together += blocks[i];
    if (i + 1 < blocks.size()) EXPECT(blocks[i].back() == '\n');
  }
  EXPECT(together == text);
  EXPECT(blocks_of("", 5).empty());

  const TemporaryFolder folder("bytes");
  std::string play;
  for (int i = 0; i < 4000; ++i) play += fmt::format("Line {} of a play,\n\n", i);
  CorpusOptions o;
  o.data.dataset = "synthetic", o.data.cache = "", o.data.vocab = "bytes";
  o.data.synthetic_rows = o.data.synthetic_test_rows = 8;
  o.files = folder.write("play.txt", play), o.training_texts = false, o.held_out = 0.2;
  const Corpus corpus = load_corpus(o);
  EXPECT(corpus.tokenizer->of_bytes());
  EXPECT(corpus.sources[0].documents > 8);
  const std::string begins =
      corpus.tokenizer->decode(corpus.training.ids.data(), static_cast<size_t>(corpus.training.length(0)));
  EXPECT(contains(play, begins));
  EXPECT(begins.size() > 8000);
}

}  // namespace
}  // namespace glia::test
