#include <filesystem>
#include <fstream>

#include "data/datasets/labelled_csv.h"
#include "data/text/csv.h"
#include "data/text/utf8.h"
#include "tests/test.h"

using namespace glia;
using glia::test::contains;
using glia::test::error_of;

namespace {

using Rows = std::vector<std::vector<std::string>>;

Rows read(std::string_view text, BadRows& bad) {
  CsvReader reader("x.csv", text, bad);
  CsvRow row;
  Rows rows;
  while (reader.next(row)) rows.emplace_back(row.fields.begin(), row.fields.end());
  return rows;
}

Rows read(std::string_view text) {
  BadRows bad;
  return read(text, bad);
}

struct TempFile {
  std::string path;
  explicit TempFile(std::string_view content) : path(glia::test::temporary_path("rows.csv")) {
    std::ofstream(path, std::ios::binary) << content;
  }
  ~TempFile() { std::filesystem::remove(path); }
};

}  // namespace

TEST_CASE("data csv: what RFC 4180 allows") {
  EXPECT(read("a,b\nc,d\n") == Rows{{"a", "b"}, {"c", "d"}});
  EXPECT(read("a,b\r\nc,d\r\n") == Rows{{"a", "b"}, {"c", "d"}});
  EXPECT(read("a,b\nc,d") == Rows{{"a", "b"}, {"c", "d"}});
  EXPECT(read("a,b\r\n\"c\",d\r") == Rows{{"a", "b"}, {"c", "d"}});
  EXPECT(read("\xEF\xBB\xBF\"a\",b\n") == Rows{{"a", "b"}});
  EXPECT(read("\"a\"\"b\",\"\"\"\"\n") == Rows{{"a\"b", "\""}});
  EXPECT(read("\"two\nlines\",\"x,y\"\n") == Rows{{"two\nlines", "x,y"}});
  EXPECT(read(",\n\"\",\n") == Rows{{"", ""}, {"", ""}});
  EXPECT(read("a,") == Rows{{"a", ""}});
  EXPECT(read("").empty());
  EXPECT(read("\xEF\xBB\xBF").empty());
  EXPECT(read("a\rb,c\n") == Rows{{"a\rb", "c"}});  // a lone CR is no line end
  EXPECT(read("\n") == Rows{{""}});
}

TEST_CASE("data csv: what is broken is reported with file, line and column") {
  EXPECT(contains(error_of([] { read("a,b\nc,\"d\"x\n"); }), "x.csv:2:6: expected ',' or the end of the line"));
  EXPECT(contains(error_of([] { read("a,b\nc,d\"e\"\n"); }), "x.csv:2:4: expected no quote inside"));
  EXPECT(contains(error_of([] { read("\"a\nb\",\"c\n"); }), "x.csv:2:4: expected a closing quote"));
  EXPECT(contains(error_of([] { read("a\n\"b\nc\xFF\"\n"); }), "x.csv:3:2: expected UTF-8, found byte 0xFF"));
  EXPECT(contains(error_of([] { read("a\xED\xA0\x80\n"); }), "x.csv:1:2: expected UTF-8"));  // a surrogate
  EXPECT(contains(error_of([] { read("a\xC0\xAF\n"); }), "x.csv:1:2: expected UTF-8"));      // overlong
  BadRows bad;
  EXPECT(
      contains(error_of([&] { CsvReader("/nowhere/x.csv", bad); }), "/nowhere/x.csv: cannot open: No such file"));
  EXPECT(contains(error_of([&] { CsvReader("/tmp", bad); }), "/tmp: expected a file, found a directory"));
}

TEST_CASE("data csv: bad rows can be skipped, and one open quote does not swallow the file") {
  BadRows bad(true);
  EXPECT(read("a,b\n\"c,d\ne,f\n\xFF,g\nh,i\n", bad) == Rows{{"a", "b"}, {"e", "f"}, {"h", "i"}});
  EXPECT(bad.count() == 2);
  EXPECT(contains(bad.summary(), "skipped 2 bad rows"));
  EXPECT(contains(bad.summary(), "x.csv:2:1: expected a closing quote"));
  EXPECT(contains(bad.summary(), "x.csv:4:1: expected UTF-8"));
}

TEST_CASE("data csv: a file is read by chunks, with the same rows and places") {
  std::string text;
  for (int i = 0; i < 30000; ++i) text += fmt::format("\"{}\",\"line \"\"{}\"\"\nand more\"\r\n", i % 7, i);
  text += "1,\"open";
  const TempFile file(text);
  BadRows bad;
  CsvReader reader(file.path, bad);
  CsvRow row;
  for (int i = 0; i < 30000; ++i) {
    REQUIRE(reader.next(row));
    REQUIRE(row.fields.size() == 2);
    REQUIRE(row.fields[1] == fmt::format("line \"{}\"\nand more", i));
    REQUIRE(row.places[1].line == 2 * i + 1);
    REQUIRE(row.places[1].column == 6);
  }
  EXPECT(contains(error_of([&] { reader.next(row); }), ":60001:3: expected a closing quote"));
}

TEST_CASE("data csv: a byte order mark before a file's first name is no part of it") {
  const TempFile file("\xEF\xBB\xBFlabel,text\n1,hello\n");
  BadRows bad;
  LabelledCsv format;
  format.header = LabelledCsv::Header::kYes;
  format.label = std::string("label");
  format.text = {"text"};
  const LabelledRows rows = read_labelled_csv(file.path, format, bad);
  EXPECT(rows.texts == std::vector<std::string>{"hello"});
  EXPECT(rows.places.at(0).line == 2);
}

TEST_CASE("data csv: a row without end is refused, not read into memory") {
  BadRows bad;
  const TempFile file("a,\"" + std::string(CsvReader::kMaxRow + 10, 'x'));
  CsvReader reader(file.path, bad);
  CsvRow row;
  EXPECT(contains(error_of([&] { reader.next(row); }), ":1:1: expected a row of at most"));
}

TEST_CASE("data csv: every prefix of every short text over a mean alphabet ends well") {
  const std::string alphabet = "a,\"\n\r\xC3";
  std::string text;
  int64_t rows = 0;
  for (int n = 0; n < 6 * 6 * 6 * 6 * 6 * 6; ++n) {
    text.clear();
    for (int i = 0, rest = n; i < 6; ++i, rest /= 6) text += alphabet[static_cast<size_t>(rest % 6)];
    BadRows bad(true);
    rows += static_cast<int64_t>(read(text, bad).size());
    rows += bad.count();
  }
  EXPECT(rows > 6 * 6 * 6 * 6 * 6 * 6);  // each text has at least one row, good or bad
}

TEST_CASE("data csv: labels and texts by column name or number") {
  const TempFile file("id,Topic,Title,Body\n1,b, x ,y\n2,a,,z\n3,b,\"q\",\n");
  BadRows bad;
  LabelledCsv format;
  format.header = LabelledCsv::Header::kYes;
  format.label = "Topic";
  format.text = {"Title", "4"};
  const LabelledRows rows = read_labelled_csv(file.path, format, bad);
  EXPECT(rows.texts == std::vector<std::string>{"x  y", "z", "q"});
  EXPECT(rows.labels == std::vector<std::string>{"b", "a", "b"});
  format.label = "Subject";
  EXPECT(contains(error_of([&] { read_labelled_csv(file.path, format, bad); }),
                  ":1:1: expected a column \"Subject\", found id, Topic, Title, Body"));
  format.header = LabelledCsv::Header::kNo;
  EXPECT(contains(error_of([&] { read_labelled_csv(file.path, format, bad); }),
                  "expected a column number from 1 to 4"));
}

TEST_CASE("data csv: labels are ordered as numbers when they are numbers") {
  EXPECT(distinct_labels({"10", "9", "-1", "9"}) == std::vector<std::string>{"-1", "9", "10"});
  EXPECT(distinct_labels({"10", "9", "x"}) == std::vector<std::string>{"10", "9", "x"});
}

TEST_CASE("data utf8: decode and encode are inverse, and nothing else decodes") {
  for (uint32_t code = 0; code < 0x110000; code += code < 0x3000 ? 1 : 37) {
    if (code >= 0xD800 && code < 0xE000) continue;
    std::string text;
    utf8::append(text, code);
    const char* p = text.data();
    REQUIRE(utf8::decode(p, text.data() + text.size()) == code);
    REQUIRE(p == text.data() + text.size());
    if (text.size() > 1) REQUIRE(utf8::find_invalid(text.substr(0, text.size() - 1)) == 0);
  }
  for (const char* bad :
       {"\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xED\xBF\xBF", "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5"})
    EXPECT(utf8::find_invalid(bad) == 0);
}
