#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>

#include "data/datasets/dataset.h"
#include "data/datasets/synthetic.h"
#include "data/datasets/token_cache.h"
#include "engine/core/file.h"
#include "tests/temporary_folder.h"
#include "tests/test.h"

using namespace glia;
using glia::test::contains;
using glia::test::error_of;
namespace fs = std::filesystem;

namespace {

std::string ag_rows(int rows, const std::string& prefix) {
  std::string text;
  for (int i = 0; i < rows; ++i)
    text += fmt::format("\"{}\",\"{}\",\"Row {} said \"\"topic{}\"\" \\ again\"\n", i % 4 + 1, i % 3 ? prefix : "",
                        i, i % 4);
  return text;
}

DatasetOptions synthetic_options() {
  DatasetOptions o;
  o.dataset = "synthetic";
  o.cache = "";
  o.synthetic_rows = 400;
  o.synthetic_test_rows = 200;
  o.vocab_size = 600;
  return o;
}

void expect_sane(const Dataset& data) {
  for (const TokenSplit* split : {&data.train, &data.validation, &data.test}) {
    REQUIRE(split->size() > 0);
    REQUIRE(split->offsets.size() == split->labels.size() + 1);
    REQUIRE(split->offsets.back() == static_cast<int64_t>(split->ids.size()));
    for (int64_t r = 0; r < split->size(); ++r) {
      REQUIRE(split->length(r) >= 3);
      REQUIRE(split->length(r) <= data.max_length);
      REQUIRE(split->ids[split->offsets[r]] == data.vocabulary().cls());
      REQUIRE(split->ids[split->offsets[r + 1] - 1] == data.vocabulary().sep());
      REQUIRE(split->labels[r] >= 0);
      REQUIRE(split->labels[r] < data.classes());
    }
    for (const int32_t id : split->ids) REQUIRE((id >= 0 && id < data.vocabulary().size()));
  }
}

}  // namespace

TEST_CASE("data sets: every row of the registry loads, twice the same, and keys itself") {
  const test::TemporaryFolder dir("data-registry");
  dir.write("train.csv", ag_rows(80, "Title"));
  dir.write("test.csv", ag_rows(16, "Other"));
  DatasetOptions o = synthetic_options();
  o.data = dir.path;
  o.csv_train = dir / "train.csv";
  o.csv_header = false;
  o.csv_label = "1";
  o.csv_text = "2,3";
  for (const DatasetRow& row : dataset_rows()) {
    INFO(row.name);
    o.dataset = row.name;
    const Dataset data = load_dataset(o), again = load_dataset(o);
    expect_sane(data);
    EXPECT(data.name == row.name);
    EXPECT(data.is_synthetic == (data.name == "synthetic"));
    EXPECT(data.classes() == 4);
    EXPECT(data.train.ids == again.train.ids);
    EXPECT(data.validation.labels == again.validation.labels);
    EXPECT(data.test.ids == again.test.ids);
    EXPECT(row.content_key(o) == row.content_key(o));
  }
  EXPECT(contains(error_of([] { find_dataset("imdb"); }),
                  "unknown data set \"imdb\"; there are: auto, ag_news, csv, synthetic"));
}

TEST_CASE("data sets: ag_news joins title and description and trims; auto finds it") {
  const test::TemporaryFolder dir("data-ag");
  dir.write("train.csv",
            "\"3\",\"Wall St. Bears\",\" Short-sellers\"\n\"1\",\"\",\"only a "
            "description\"\n\"2\",\"a\",\"b\"\n\"4\",\"c\",\"\"\n");
  dir.write("test.csv", "\"4\",\"x\",\"y\"\n");
  DatasetOptions o;
  o.data = dir.path;
  BadRows bad;
  EXPECT(dataset_name(o) == "ag_news");
  const TextDataset data = find_dataset("ag_news").load(o, bad);
  EXPECT(data.train.texts ==
         std::vector<std::string>{"Wall St. Bears  Short-sellers", "only a description", "a b", "c"});
  EXPECT(data.train.labels == std::vector<int32_t>{2, 0, 1, 3});
  EXPECT(data.class_names == std::vector<std::string>{"World", "Sports", "Business", "Sci/Tech"});
}

TEST_CASE("data sets: bad ag_news rows name file, line and column, or are skipped and listed") {
  const test::TemporaryFolder dir("data-bad");
  dir.write("test.csv", ag_rows(8, "t"));
  DatasetOptions o = synthetic_options();
  o.dataset = "ag_news";
  o.data = dir.path;
  const auto with_row = [&](const std::string& row) {
    dir.write("train.csv", ag_rows(8, "t") + row + "\n" + ag_rows(8, "u"));
    return error_of([&] { load_dataset(o); });
  };
  EXPECT(
      contains(with_row("\"5\",\"a\",\"b\""), "train.csv:9:2: expected a class out of 0, 1, 2, 3, 4, found \"5\""));
  EXPECT(contains(with_row("\"1\",\"a\""), "train.csv:9:2: expected 3 fields, found 2"));
  EXPECT(contains(with_row("\"1\",\"\",\" \""), "train.csv:9:6: expected text, found nothing"));
  EXPECT(contains(with_row("\"1\",\"a\"b,\"c\""), "train.csv:9:8: expected ','"));
  EXPECT(contains(with_row("\"1\",\"a\",\"\xFF\""), "train.csv:9:10: expected UTF-8, found byte 0xFF"));
  EXPECT(with_row("") == "");  // a blank line is no row
  o.skip_bad_rows = true;
  with_row("\"5\",\"a\",\"b\"");
  const Dataset data = load_dataset(o);
  EXPECT(data.bad_rows.count() == 1);
  EXPECT(contains(data.bad_rows.summary(), "train.csv:9:2"));
  EXPECT(data.train.size() + data.validation.size() == 16);
}

TEST_CASE("data sets: missing files and classes are clear errors") {
  const test::TemporaryFolder dir("data-missing");
  DatasetOptions o = synthetic_options();
  o.dataset = "auto";
  o.data = dir.path;
  EXPECT(contains(error_of([&] { load_dataset(o); }), "train.csv: no such file; type `./tools/fetch_data`"));
  dir.write("train.csv", "");
  dir.write("test.csv", ag_rows(8, "t"));
  EXPECT(contains(error_of([&] { load_dataset(o); }), "train.csv: expected rows, found an empty file"));
  dir.write("train.csv", "\"1\",\"a\",\"b\"\n\"2\",\"a\",\"b\"\n");
  EXPECT(contains(error_of([&] { load_dataset(o); }), "test.csv:3:2: expected a class that "));
  o.data = "";
  o.vocab = dir.path;
  o.dataset = "synthetic";
  EXPECT(contains(error_of([&] { load_dataset(o); }), "directory"));
}

TEST_CASE("data sets: csv with string labels; a label that only test has is an error") {
  const test::TemporaryFolder dir("data-csv");
  std::string train = "text,kind\n";
  for (int i = 0; i < 30; ++i) train += fmt::format("words {},{}\n", i, i % 3 == 0 ? "yes" : "no");
  DatasetOptions o = synthetic_options();
  o.dataset = "csv";
  o.csv_train = dir.write("train.csv", train);
  o.csv_label = "kind";
  const Dataset held = load_dataset(o);
  expect_sane(held);
  EXPECT(held.class_names == std::vector<std::string>{"no", "yes"});
  EXPECT(held.test.size() == 3);  // a tenth of each class
  EXPECT(std::count(held.test.labels.begin(), held.test.labels.end(), 1) == 1);
  o.csv_test = dir.write("test.csv", "text,kind\na,yes\nb,maybe\n");
  EXPECT(contains(error_of([&] { load_dataset(o); }),
                  "test.csv:3:3: expected a label that the train rows have (no, yes), found \"maybe\""));
  o.csv_label = "sort";
  EXPECT(
      contains(error_of([&] { load_dataset(o); }), "train.csv:1:1: expected a column \"sort\", found text, kind"));
  o.csv_train = "";
  EXPECT(contains(error_of([&] { load_dataset(o); }), "say --csv-train FILE"));
}

TEST_CASE("data sets: the validation split is stratified and depends on the split seed only") {
  std::vector<int32_t> labels;
  for (int i = 0; i < 1000; ++i) labels.push_back(i % 10 < 7 ? 0 : i % 10 < 9 ? 1 : 2);
  const SplitRows a = stratified_split(labels, 0.1, 5), b = stratified_split(labels, 0.1, 5),
                  c = stratified_split(labels, 0.1, 6);
  EXPECT(a.held_out == b.held_out);
  EXPECT(a.held_out != c.held_out);
  int64_t per_class[3] = {};
  for (const int64_t row : a.held_out) ++per_class[labels[static_cast<size_t>(row)]];
  EXPECT(per_class[0] == 70);
  EXPECT(per_class[1] == 20);
  EXPECT(per_class[2] == 10);
  std::set<int64_t> all(a.kept.begin(), a.kept.end());
  all.insert(a.held_out.begin(), a.held_out.end());
  EXPECT(all.size() == 1000);
  EXPECT(a.kept.size() + a.held_out.size() == 1000);
  EXPECT(std::is_sorted(a.kept.begin(), a.kept.end()));
  EXPECT(stratified_split(labels, 0, 5).held_out.empty());
}

TEST_CASE("data cache: believed only when it is whole and its own") {
  const test::TemporaryFolder dir("data-cache");
  DatasetOptions o = synthetic_options();
  o.cache = dir.path;
  const Dataset made = load_dataset(o);
  EXPECT(!made.from_cache);
  const Dataset cached = load_dataset(o);
  EXPECT(cached.from_cache);
  EXPECT(cached.train.ids == made.train.ids);
  EXPECT(cached.test.offsets == made.test.offsets);
  EXPECT(cached.class_names == made.class_names);
  EXPECT(cached.bayes_accuracy == made.bayes_accuracy);
  EXPECT(cached.vocabulary().hash() == made.vocabulary().hash());
  const fs::path file = fs::directory_iterator(dir.path)->path();
  const std::string whole = read_file(file);
  const auto rebuilt = [&](std::string content) {
    write_file_atomic(file, content);
    const Dataset again = load_dataset(o);
    return !again.from_cache && again.train.ids == made.train.ids && read_file(file) == whole;
  };
  std::string flipped = whole;
  flipped[whole.size() / 2] ^= 1;
  EXPECT(rebuilt(flipped));
  EXPECT(rebuilt(whole.substr(0, whole.size() / 2)));
  EXPECT(rebuilt(whole.substr(0, 10)));
  EXPECT(rebuilt(""));
  EXPECT(rebuilt(whole + "x"));
  // Every option that shapes the ids has an entry of its own.
  const auto changed = [&](auto&& change) {
    DatasetOptions other = o;
    change(other);
    return !load_dataset(other).from_cache;
  };
  EXPECT(changed([](DatasetOptions& x) { x.max_length = 32; }));
  EXPECT(changed([](DatasetOptions& x) { x.lowercase = "off"; }));
  EXPECT(changed([](DatasetOptions& x) { x.synthetic_seed = 2; }));
  EXPECT(changed([](DatasetOptions& x) { x.difficulty = 0.4; }));
  EXPECT(changed([](DatasetOptions& x) { x.vocab_size = 500; }));
  EXPECT(!changed([](DatasetOptions& x) { x.split_seed = 77; }));  // the split is made after the ids
  // A cache that cannot be written is a note, not an error.
  o.cache = file.string();
  o.synthetic_seed = 3;
  EXPECT(contains(load_dataset(o).cache_note, "token cache not written"));
}

TEST_CASE("data cache: a changed file or vocabulary makes the old ids stale") {
  const test::TemporaryFolder dir("data-stale");
  DatasetOptions o;
  o.dataset = "ag_news";
  o.data = dir.path;
  o.cache = dir / "cache";
  dir.write("train.csv", ag_rows(40, "t"));
  dir.write("test.csv", ag_rows(8, "t"));
  dir.write("vocab.txt", "[UNK]\n[CLS]\n[SEP]\nrow\nsaid\n");
  load_dataset(o);
  EXPECT(load_dataset(o).from_cache);
  dir.write("test.csv", ag_rows(9, "t"));
  EXPECT(!load_dataset(o).from_cache);
  EXPECT(load_dataset(o).from_cache);
  dir.write("vocab.txt", "[UNK]\n[CLS]\n[SEP]\nsaid\nrow\n");
  EXPECT(!load_dataset(o).from_cache);
}

TEST_CASE("data synthetic: rows do not depend on anything but seed, stream and number") {
  const datasets::SyntheticCorpus a({}), b({});
  for (int64_t r = 0; r < 50; ++r) {
    EXPECT(a.row(0, r).text == b.row(0, r).text);
    EXPECT(a.row(0, r).text != a.row(1, r).text);
    EXPECT(a.row(0, r).topic == r % 4);
  }
  datasets::SyntheticOptions other;
  other.seed = 2;
  EXPECT(datasets::SyntheticCorpus(other).row(0, 0).text != a.row(0, 0).text);
}

// The stated best accuracy is checked against an outcome: the share of rows where the posterior's argmax is right.
TEST_CASE("data synthetic: the posterior is calibrated, and difficulty moves it from 1 to 1/C") {
  double last = 1.1;
  for (const double difficulty : {0.0, 0.3, 0.6, 0.9, 1.0}) {
    datasets::SyntheticOptions o;
    o.difficulty = difficulty;
    o.topics = 5;
    const datasets::SyntheticCorpus corpus(o);
    constexpr int64_t kRows = 2000;
    double expected = 0, right = 0;
    for (int64_t r = 0; r < kRows; ++r) {
      const auto row = corpus.row(1, r);
      const std::vector<double> p = corpus.posterior(row.text);
      const auto best = std::max_element(p.begin(), p.end());
      expected += *best, right += best - p.begin() == row.topic;
    }
    expected /= kRows, right /= kRows;
    EXPECT(std::abs(expected - right) < 4 * std::sqrt(0.25 / kRows));  // four standard errors at most
    EXPECT(expected < last);
    last = expected;
    if (difficulty == 0) EXPECT(right == 1);
    if (difficulty == 1) EXPECT(std::abs(expected - 0.2) < 1e-9);
  }
}

TEST_CASE("data synthetic: lengths are like news, the known accuracy is there, topics past the lists are made up") {
  DatasetOptions o = synthetic_options();
  o.synthetic_rows = 2000;
  o.difficulty = 0.4;
  o.vocab_size = 8000;
  const Dataset data = load_dataset(o);
  const double mean = static_cast<double>(data.train.tokens()) / static_cast<double>(data.train.size());
  EXPECT(mean > 46);
  EXPECT(mean < 60);
  int64_t longest = 0;
  for (int64_t r = 0; r < data.train.size(); ++r) longest = std::max(longest, data.train.length(r));
  EXPECT(longest == 128);
  REQUIRE(data.bayes_accuracy.has_value());
  EXPECT(*data.bayes_accuracy > 0.9);
  EXPECT(*data.bayes_accuracy < 0.98);
  datasets::SyntheticOptions many;
  many.topics = 30;
  const datasets::SyntheticCorpus corpus(many);
  EXPECT(corpus.class_names().size() == 30);
  EXPECT(corpus.row(0, 29).topic == 29);
  datasets::SyntheticOptions wrong;
  wrong.topics = 1;
  EXPECT(contains(error_of([&] { datasets::SyntheticCorpus c(wrong); }), "expected 2 to 1000 topics, got 1"));
  wrong.topics = 4, wrong.difficulty = 1.5;
  EXPECT(contains(error_of([&] { datasets::SyntheticCorpus c(wrong); }), "expected a difficulty from 0 to 1"));
}
