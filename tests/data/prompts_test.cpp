// Prompts: where they end, which rows are left out, and what is asked of a sequence that has one.
#include "data/datasets/prompts.h"

#include "data/batches/pieces.h"
#include "tests/temporary_folder.h"
#include "tests/test.h"

namespace glia::test {
namespace {

TEST_CASE("prompts: a border lies behind the first sentence, or in the middle where none ends in the first half") {
  const std::vector<int32_t> enders = {4, 9};
  const auto border = [&](std::vector<int32_t> ids) {
    return border_of(ids.data(), static_cast<int64_t>(ids.size()), enders);
  };
  EXPECT(border({1, 20, 9, 21, 4, 22, 23, 2}) == 3);
  EXPECT(border({1, 20, 21, 22, 23, 9, 24, 2}) == 4);  // too late
  EXPECT(border({1, 20, 21, 22, 23, 24, 25, 2}) == 4);
  EXPECT(border({1, 2}) == 1);
  EXPECT(border({1}) == 0);
}

TEST_CASE("prompts: bytes have marks that end a sentence, and of a layout's words a line's end does") {
  const Vocabulary bytes = Vocabulary::of_bytes();
  const int32_t first = bytes.first_byte();
  EXPECT(sentence_enders(bytes) == std::vector<int32_t>{first + '!', first + '.', first + '?'});
  const Vocabulary words = Vocabulary::of_words("a b <eos> c <eos>");
  EXPECT(sentence_enders(words) == std::vector<int32_t>{words.find("<eos>")});
}

TEST_CASE("prompts: of each sequence every token is told by the one before it, from the prompt's last one on") {
  const std::vector<int32_t> ids = {1, 20, 21, 22, 2, 1, 30, 31, 2, 1, 2}, offsets = {0, 5, 9, 11},
                             lengths = {5, 4, 2}, borders = {3, 0, 1};
  std::vector<int32_t> read(11), targets(11);
  const auto find = [&](const int32_t* spans, const int32_t* at) {
    const auto n =
        static_cast<size_t>(find_next_words(ids.data(), offsets.data(), spans, at, 3, read.data(), targets.data()));
    return std::pair{std::vector<int32_t>(read.begin(), read.begin() + static_cast<int64_t>(n)),
                     std::vector<int32_t>(targets.begin(), targets.begin() + static_cast<int64_t>(n))};
  };
  using Both = std::pair<std::vector<int32_t>, std::vector<int32_t>>;
  EXPECT(find(lengths.data(), nullptr) == Both{{0, 1, 2, 3, 5, 6, 7, 9}, {20, 21, 22, 2, 30, 31, 2, 2}});
  EXPECT(find(lengths.data(), borders.data()) == Both{{2, 3, 5, 6, 7, 9}, {22, 2, 30, 31, 2, 2}});
  const std::vector<int32_t> spans = {4, 3, 1};  // their texts go on elsewhere
  EXPECT(find(spans.data(), borders.data()) == Both{{2, 5, 6}, {22, 30, 31}});
}

TEST_CASE("prompts: pieces have a border each and tell [SEP] only where their document ends") {
  TokenSplit text;
  for (int32_t i = 0; i < 50; ++i) text.ids.push_back(i % 5 == 4 ? 9 : 10 + i);
  text.offsets.push_back(50), text.labels.push_back(0);
  PieceOptions o;
  o.places = 16, o.longest = 16, o.cls = 1, o.sep = 2, o.seed = 3, o.epochs = 1, o.sequences = 4;
  o.masking = next_words(), o.enders = {9};
  std::vector<int32_t> ids(16), offsets(5), lengths(4), labels(4), borders(4), read(16), targets(16);
  BatchView view;
  view.ids = ids.data(), view.offsets = offsets.data(), view.lengths = lengths.data(), view.labels = labels.data();
  view.borders = borders.data(), view.read = read.data(), view.targets = targets.data();
  view.token_capacity = 16, view.sequence_capacity = 4;
  PieceStream stream(text, o);
  int64_t ends = 0;
  while (stream.fill(view)) {
    for (int64_t b = 0; b < 4; ++b)
      if (lengths[size_t(b)] > 0)
        EXPECT(borders[size_t(b)] == border_of(ids.data() + offsets[size_t(b)], lengths[size_t(b)], o.enders));
    for (int64_t i = 0; i < view.read_rows; ++i) {
      EXPECT(targets[size_t(i)] == ids[size_t(read[size_t(i)]) + 1]);
      ends += targets[size_t(i)] == 2;
    }
  }
  EXPECT(ends == 1);
}

DatasetOptions csv_options(const TemporaryFolder& dir) {
  dir.write(
      "train.csv",
      "label,title,text\na,Two words,and a text of more\nb,,no title here at all\na,\"One, two. Three\",x y z\nb,Title,\n"
      "a,Again two,words that follow\nb,Once more,words that follow it\n");
  dir.write("test.csv", "label,title,text\na,Two words,and a text of more\nb,,words\n");
  DatasetOptions o;
  o.dataset = "csv", o.cache = dir / "cache", o.vocab_size = 100;
  o.csv_train = dir / "train.csv", o.csv_test = dir / "test.csv";
  o.csv_text = "title,text", o.prompt = "title", o.validation_fraction = 0;
  return o;
}

TEST_CASE(
    "prompts: titles are prompts; rows without one, or with nothing else, are left out and counted; cached too") {
  const TemporaryFolder dir("prompts");
  const DatasetOptions o = csv_options(dir);
  for (const bool cached : {false, true}) {
    const Dataset data = load_dataset(o);
    EXPECT(data.from_cache == cached);
    EXPECT(data.train.size() == 4);
    EXPECT(data.test.size() == 1);
    EXPECT(contains(data.notes.front(), "2 of 6 training rows"));
    REQUIRE(data.train.borders.size() == 4);
    for (size_t row = 0; row < 4; ++row) {
      std::vector<int32_t> title;
      data.tokenizer->encode(row == 0   ? "Two words"
                             : row == 1 ? "One, two. Three"
                             : row == 2 ? "Again two"
                                        : "Once more",
                             title);
      EXPECT(data.train.borders[row] == static_cast<int32_t>(1 + title.size()));
      const auto begin = data.train.ids.begin() + data.train.offsets[row] + 1;
      EXPECT(std::equal(title.begin(), title.end(), begin));
    }
  }
  DatasetOptions none = o;
  none.prompt = "none";
  EXPECT(load_dataset(none).train.borders.empty());
  DatasetOptions sentence = o;
  sentence.dataset = "synthetic", sentence.prompt = "sentence", sentence.cache = "", sentence.synthetic_rows = 40;
  sentence.synthetic_test_rows = 8;
  const Dataset made = load_dataset(sentence);
  const std::vector<int32_t> enders = sentence_enders(made.vocabulary());
  for (int64_t row = 0; row < made.test.size(); ++row)
    EXPECT(made.test.borders[size_t(row)] ==
           border_of(made.test.ids.data() + made.test.offsets[size_t(row)], made.test.length(row), enders));
  sentence.prompt = "title";
  EXPECT(contains(error_of([&] { load_dataset(sentence); }), "expected texts of several columns"));
}

}  // namespace
}  // namespace glia::test
