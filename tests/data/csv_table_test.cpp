// A CSV as people have it: whatever separator, line end, header and blank lines; and what is said about it.
#include "data/text/csv_table.h"

#include <sys/stat.h>

#include "data/datasets/dataset.h"
#include "data/datasets/labelled_csv.h"
#include "engine/core/file.h"
#include "tests/temporary_folder.h"
#include "tests/test.h"

using namespace glia;
using glia::test::contains;
using glia::test::error_of;

namespace {

using Rows = std::vector<std::vector<std::string>>;

struct Read {
  Rows rows;
  std::vector<std::string> header;
  std::string notes, bad;
};

Read read(std::string_view text, std::vector<std::string> wanted = {"label", "text"}, char separator = 0,
          bool header = true) {
  BadRows bad(true);
  CsvTableFormat format;
  format.separator = separator;
  format.wanted = std::move(wanted);
  format.is_header = [header](const auto&) { return header; };
  CsvTable table("x.csv", text, format, bad);
  Read read{{}, table.header(), "", ""};
  CsvRow row;
  while (table.next(row)) read.rows.emplace_back(row.fields.begin(), row.fields.end());
  for (const std::string& note : table.notes()) read.notes += note + "\n";
  read.bad = bad.summary();
  return read;
}

}  // namespace

TEST_CASE("data csv table: the same rows with every separator, found out or named") {
  const Rows expected{{"a", "x, y; z|\tq"}, {"b", "two\nlines"}};
  for (const char* name : {"comma", "semicolon", "tab", "pipe"}) {
    INFO(std::string(name));
    const char s = separator_of(name);
    for (const std::string end : {"\n", "\r\n"}) {
      const std::string text = std::string("label") + s + "text" + end + "a" + s + "\"x, y; z|\tq\"" + end + end +
                               "b" + s + "\"two\nlines\"" + end;
      EXPECT(read("\xEF\xBB\xBF" + text).rows == expected);
      EXPECT(read(text, {"label", "text"}, s).rows == expected);
      EXPECT(contains(read(text).notes, "separator") == (s != ','));  // only what is not the usual is told
      EXPECT(contains(read(text).notes, "1 blank row skipped"));
    }
  }
  EXPECT(separator_of("auto") == 0);
  EXPECT(contains(error_of([] { separator_of("colon"); }), "expected comma, tab, semicolon, pipe or auto"));
}

TEST_CASE("data csv table: the wanted columns tell the separator, not the number of fields") {
  EXPECT(read("label,text; more; and more\na,b\n", {"label", "2"}).rows == Rows{{"a", "b"}});
  EXPECT(read("label\ttext, or words\na\tb\n", {"label", "text, or words"}).rows == Rows{{"a", "b"}});
  EXPECT(read("1,some; text; with; these\n", {"1", "2"}, 0, false).rows == Rows{{"1", "some; text; with; these"}});
  EXPECT(read("1;some text\n", {"1", "2"}, 0, false).rows == Rows{{"1", "some text"}});
  EXPECT(read("\"label;x\",text\na,b\n", {"label;x", "text"}).rows == Rows{{"a", "b"}});
  // None has a wanted column: the most fields, so that the message shows names.
  EXPECT(read("kind;words\na;b\n").header == std::vector<std::string>{"kind", "words"});
  EXPECT(read("sep=;\nlabel;text\na;b\n").rows == Rows{{"a", "b"}});
}

TEST_CASE("data csv table: lines that end in CR alone, blank lines of any kind") {
  EXPECT(read("label,text\ra,b\rc,\"d\ne\"\r").rows == Rows{{"a", "b"}, {"c", "d\ne"}});
  EXPECT(contains(read("label,text\ra,b\r").notes, "lines end in CR alone"));
  EXPECT(read("label,text\ra,b").rows == Rows{{"a", "b"}});
  const Read blank = read("\n  \nlabel,text\n\na,b\n \t \n,\nc,d\n\n\n");
  EXPECT(blank.rows == Rows{{"a", "b"}, {"c", "d"}});
  EXPECT(contains(blank.notes, "7 blank rows skipped"));
  EXPECT(blank.bad == "");
}

TEST_CASE("data csv table: what is wrong is told in one line") {
  EXPECT(contains(read("label,text\na\na,b,c\na,b\n").bad, "x.csv:2:1: expected 2 fields, found 1"));
  EXPECT(contains(read(std::string_view("label,text\na,b\0c\n", 17)).bad,
                  "x.csv:2:4: expected text, found a NUL byte"));
  EXPECT(read("label,text\n").rows.empty());
  EXPECT(read("\xEF\xBB\xBF\xEF\xBB\xBFlabel,text\na,b\n").header == std::vector<std::string>{"label", "text"});
  EXPECT(read("").header.empty());
  for (const auto& [head, what] : {std::pair<std::string_view, const char*>{"\xFF\xFEl\0", "a UTF-16 file"},
                                   {"\xFE\xFF", "a UTF-16 file"},
                                   {std::string_view("l\0a\0", 4), "NUL bytes (UTF-16"},
                                   {"PK\x03\x04", "a zip archive"},
                                   {"\x1F\x8B\x08", "a gzip file"},
                                   {"BZh91AY", "a bzip2 file"},
                                   {"<!doctype html>", "a web page"}}) {
    const std::string message = error_of([head = head] { read(head); });
    EXPECT(contains(message, std::string("x.csv: expected CSV text, found ") + what));
    EXPECT(!contains(message, "\n"));
  }
  BadRows bad;
  CsvTable twice("x.csv", "text,label,text\na,b,c\n", {}, bad);
  EXPECT(contains(error_of([&] { twice.column("text"); }), "found it as columns 1 and 3; name it by its number"));
  EXPECT(twice.column("3") == 2);
  // A header that is a whole file stays one short line.
  std::string many = "a";
  for (int i = 0; i < 3000; ++i) many += fmt::format(",column {}", i);
  CsvTable wide("x.csv", many, {}, bad);
  const std::string message = error_of([&] { wide.column("label"); });
  EXPECT(message.size() < 300);
  EXPECT(contains(message, "… (3001 in all)"));
}

TEST_CASE("data csv: labels that look alike, classes of one row, and parts that lack a class are told") {
  const test::TemporaryFolder folder("csv-table");
  EXPECT(look_alikes({"Sport", "sport", "Ｓport", "money"}).size() == 2);
  EXPECT(look_alikes({"sci tech", "sci  tech"}).size() == 1);
  EXPECT(look_alikes({"tech", "\uFEFFtech", "te\u200Bch"}).size() ==
         2);  // joined files leave marks that nobody sees
  EXPECT(look_alikes({"a", "b", "1", "10"}).empty());
  EXPECT(look_alikes({"1", "01", "1.0", "2", "a1", "1e", "nan"}).size() == 2);
  EXPECT(contains(look_alikes({"1", "1.0"})[0], "\"1\" and \"1.0\" are one number, and are two classes"));
  std::string rows = "label;text\n";
  for (int i = 0; i < 40; ++i) rows += fmt::format("{};word {}\n\n", i % 2 ? "Sport" : "sport", i);
  rows += "\"odd, one\";all alone\n";
  DatasetOptions o;
  o.csv_train = folder.write("t.csv", rows);
  o.cache = folder.path + "/cache";
  o.vocab_size = 200;
  settle_data_options(o, {});
  for (int i = 0; i < 2; ++i) {  // the second time from the cache
    const Dataset data = load_dataset(o);
    EXPECT(data.from_cache == (i == 1));
    EXPECT(data.name == "csv");
    std::string notes;
    for (const std::string& note : data.notes) notes += note + "\n";
    INFO(notes);
    EXPECT(contains(notes, "t.csv: read with separator semicolon"));
    EXPECT(contains(notes, "t.csv: 40 blank rows skipped"));
    EXPECT(contains(notes, "\"Sport\" and \"sport\" differ in case, spaces or unseen marks only"));
    EXPECT(contains(notes, "the class \"odd, one\" has one row, " + o.csv_train + ":82"));
    EXPECT(contains(notes, "\"odd, one\" has 1 training row and none in validation and test"));
  }
}

TEST_CASE("data csv: what cannot be a label or a class is told with its row, before anything is trained") {
  const test::TemporaryFolder folder("csv-labels");
  DatasetOptions o;
  o.dataset = "csv", o.cache = "", o.vocab_size = 200;
  const auto error = [&](const std::string& rows) {
    o.csv_train = folder.write("t.csv", "label,text\n" + rows);
    return error_of([&] { load_dataset(o); });
  };
  EXPECT(contains(error("a,b\n" + std::string(300, 'x') + ",text\n"),
                  "t.csv:3:1: expected a label, found 300 bytes, more than 200: is the column right?"));
  EXPECT(contains(error("a,b\n\x1b[31mred,text\n"), "expected a label, found a control character, byte 0x1B"));
  EXPECT(contains(error("a,b\n\"two\nlines\",text\n"), "expected a label, found a control character, byte 0x0A"));
  std::string distinct;
  for (int i = 0; i < 30; ++i) distinct += fmt::format("{},text\n", 0.5 + i);
  EXPECT(contains(error(distinct),
                  "expected classes of several rows in column \"label\", found 30 labels in 30 rows"));
  const std::string pipe = folder.path + "/pipe";
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  o.csv_train = pipe;
  EXPECT(contains(error_of([&] { load_dataset(o); }), pipe + ": expected a file, found a pipe"));
}

TEST_CASE("data csv: a first row that is taken for a header in spite of its label is told") {
  const test::TemporaryFolder folder("csv-header");
  DatasetOptions o;
  o.dataset = "csv", o.cache = "", o.vocab_size = 200, o.csv_label = "1", o.csv_text = "2";
  const auto warnings = [&](const std::string& first_line) {
    std::string rows = first_line;
    for (int i = 0; i < 40; ++i) rows += fmt::format("{},word {}\n", i % 2 ? "sport" : "world", i);
    o.csv_train = folder.write("t.csv", rows);
    const Dataset data = load_dataset(o);
    return std::count_if(data.notes.begin(), data.notes.end(), [](const std::string& note) {
      return contains(
          note,
          "t.csv: its first line is taken for names, but \"sport\" in it is a label of other rows; --csv-header off");
    });
  };
  EXPECT(warnings("sport,first row\n") == 1);
  EXPECT(warnings("label,text\n") == 0);
  o.csv_header = false;
  EXPECT(warnings("sport,first row\n") == 0);
}

TEST_CASE("data csv: AG News with a header, counted from 0, under names") {
  const test::TemporaryFolder folder("csv-table");
  DatasetOptions o;
  o.data = folder.path;
  const auto load = [&](const std::string& train, const std::string& test) {
    folder.write("train.csv", train), folder.write("test.csv", test);
    BadRows bad;
    return find_dataset("ag_news").load(o, bad);
  };
  const std::string official = "1,a,b\n2,a,b\n3,a,b\n4,a,b\n";
  const TextDataset plain = load(official, official);
  EXPECT(plain.notes.empty());
  const TextDataset header = load("Class Index,Title,Description\n" + official, official);
  EXPECT(header.train.texts == plain.train.texts);
  EXPECT(header.train.labels == plain.train.labels);
  REQUIRE(header.notes.size() == 1);
  EXPECT(
      contains(header.notes[0], "train.csv: its first line is a header (Class Index, Title, Description), no row"));
  const TextDataset zero = load("text,label\na b,3\na b,0\na b,1\na b,2\n", "text,label\na b,1\n");
  EXPECT(zero.train.labels == std::vector<int32_t>{3, 0, 1, 2});
  EXPECT(zero.test.labels == std::vector<int32_t>{1});
  EXPECT(zero.train.texts[0] == "a b");
  EXPECT(contains(zero.notes.at(1), "counted from 0"));
  EXPECT(contains(error_of([&] { load(official + "0,a,b\n", official); }),
                  "train.csv:5:1: expected a class out of 1, 2, 3, 4, found \"0\""));
}
