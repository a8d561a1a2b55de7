// Which test rows nearly stand among the training rows.
#include "data/text/near_copies.h"

#include "data/datasets/dataset.h"
#include "engine/core/file.h"
#include "tests/records/fake_results.h"
#include "tests/test.h"

using namespace glia;
using namespace glia::test;

namespace {

// "w1 w2 …" in letters, since digits are no words.
std::string words(int first, int count) {
  std::string text;
  for (int i = first; i < first + count; ++i)
    text += std::string(1, static_cast<char>('a' + i / 26 % 26)) + static_cast<char>('a' + i % 26) + " ";
  return text;
}

}  // namespace

TEST_CASE("near copies: half of the passages of eight words, from any of the known texts") {
  const std::string known = words(0, 12), more = words(100, 12);
  const auto copies = [&](const std::string& text) { return near_copies({text}, {known, more})[0] == 1; };
  EXPECT(copies(known));
  EXPECT(copies(words(0, 12) + words(300, 5)));   // 5 of 10 passages
  EXPECT(!copies(words(0, 12) + words(300, 6)));  // 5 of 11
  EXPECT(copies(words(0, 8)));                    // one passage, and it is there
  EXPECT(!copies(words(0, 7)));                   // too short to say
  EXPECT(!copies(words(5, 7) + words(105, 7)));   // no eight words in a row
  EXPECT(copies(words(0, 11) + words(100, 11)));  // 4 of 15 from the one text and 4 from the other
}

TEST_CASE("near copies: case, punctuation, digits and character references leave no trace") {
  const std::string known = "Oil prices rose sharply on Monday, analysts said in London";
  for (const char* text : {"OIL PRICES: rose -- sharply on monday; analysts said (in) london",
                           "Oil prices rose 3.5 sharply on #39;Monday,quot; analysts said &amp; in London",
                           "&lt;Oil&gt; prices rose #151; sharply on Monday analysts said in London"})
    EXPECT(near_copies({text}, {known})[0] == 1);
  EXPECT(near_copies({"Oil prices rose quot sharply on lt Monday analysts amp said in London"}, {known})[0] == 0);
  EXPECT(near_copies({"#; & ;"}, {known})[0] == 0);
  EXPECT(near_copies({""}, {known})[0] == 0);
  EXPECT(near_copies({}, {known}).empty());
}

TEST_CASE("near copies: of any script") {
  const std::string chinese = "新华社北京十一月二日电国家统计局公布数据";
  EXPECT(near_copies({chinese + "。"}, {"“" + chinese + "”"})[0] == 1);
  EXPECT(near_copies({"记者从有关部门获悉今年粮食产量再创新高"}, {chinese})[0] == 0);
  const std::string german = "Über dem Häuschen stand – wie früher – „der“ große Mond";
  EXPECT(near_copies({"ÜBER DEM HÄUSCHEN STAND wie früher \"der\" große MOND"}, {german})[0] == 1);
}

TEST_CASE("near copies: the last text column is compared, and the rows keep the mark through cache and cut") {
  const TemporaryFolder tmp("near-copies");
  const std::string& folder = tmp.path;
  std::string train = "label,title,text\n", test = train;
  for (int i = 0; i < 40; ++i) train += fmt::format("{},some title,{}\n", i % 2, words(20 * i, 12));
  for (int i = 0; i < 20; ++i) {
    const std::string text = i % 4 == 0 ? words(20 * i, 12) : words(20 * i + 333, 12) + "x y z";
    test += fmt::format("{},\"quite another title of more words than the text has, for all its length\",{}\n",
                        i % 2, text);
  }
  DatasetOptions o;
  o.dataset = "csv";
  o.csv_train = folder + "/train.csv", o.csv_test = folder + "/test.csv", o.csv_text = "title,text";
  o.cache = folder + "/cache";
  o.vocab_size = 200;
  write_file_atomic(o.csv_train, train);
  write_file_atomic(o.csv_test, test);
  for (const bool from_cache : {false, true}) {
    const Dataset data = load_dataset(o);
    EXPECT(data.from_cache == from_cache);
    REQUIRE(data.test.near_copies.size() == 20);
    for (size_t i = 0; i < 20; ++i) EXPECT(data.test.near_copies[i] == (i % 4 == 0));
    EXPECT(data.train.near_copies.empty());
  }
  const TokenSplit whole = load_dataset(o).test;
  o.max_test_rows = 10;
  const TokenSplit cut = load_dataset(o).test;
  REQUIRE(cut.near_copies.size() == 10);
  const auto ids = [](const TokenSplit& split, int64_t row) {
    return std::vector<int32_t>(split.ids.begin() + split.offsets[row], split.ids.begin() + split.offsets[row + 1]);
  };
  int64_t at = 0;
  for (int64_t row = 0; row < 10; ++row, ++at) {
    while (ids(whole, at) != ids(cut, row)) REQUIRE(++at < 20);
    EXPECT(cut.near_copies[size_t(row)] == whole.near_copies[size_t(at)]);
  }
}
