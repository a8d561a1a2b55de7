#include <cstdlib>
#include <filesystem>

#include "data/datasets/fetch.h"
#include "data/datasets/md5.h"
#include "engine/core/file.h"
#include "tests/test.h"

using namespace glia;
using glia::test::contains;
using glia::test::error_of;
namespace fs = std::filesystem;

namespace {

// Stands in for curl: the address is a file, --output is appended to (a resumed download), $dir/calls counts.
struct FakeCurl {
  fs::path dir = glia::test::temporary_path("fetch");
  std::string program = (dir / "curl").string();
  FakeCurl() {
    fs::remove_all(dir);
    fs::create_directories(dir);
    write_file_atomic(program, "#!/bin/sh\necho x >> '" + (dir / "calls").string() + R"('
while [ $# -gt 1 ]; do [ "$1" = --output ] && out=$2; shift; done
[ -f "$1" ] || exit 6
have=0; [ -f "$out" ] && have=$(wc -c < "$out")
tail -c +$((have + 1)) "$1" >> "$out"
)");
    fs::permissions(program, fs::perms::owner_all);
  }
  ~FakeCurl() { fs::remove_all(dir); }
  std::string source(const std::string& name, const std::string& content) const {
    write_file_atomic(dir / name, content);
    return (dir / name).string();
  }
  size_t calls() const { return fs::exists(dir / "calls") ? read_file(dir / "calls").size() / 2 : 0; }
};

}  // namespace

TEST_CASE("data md5: the test suite of RFC 1321, and every length around a block") {
  EXPECT(md5("") == "d41d8cd98f00b204e9800998ecf8427e");
  EXPECT(md5("abc") == "900150983cd24fb0d6963f7d28e17f72");
  EXPECT(md5("message digest") == "f96b697d7cb7938d525a2f31aaf161d0");
  EXPECT(md5("12345678901234567890123456789012345678901234567890123456789012345678901234567890") ==
         "57edf4a22be3c955ac49da2e2107b67a");
  // The sums of 0 … 130 times 'a', chained: one sum for all lengths (from md5sum).
  std::string chain;
  for (size_t n = 0; n <= 130; ++n) chain += md5(std::string(n, 'a'));
  EXPECT(md5(chain) == "dc15a7096e621b7f0679b8ac9d383e7f");
}

TEST_CASE("data fetch: downloads, resumes, checks, and leaves what is right alone") {
  const FakeCurl curl;
  const std::string content = "class,text\n1,hello\n", dir = (curl.dir / "out").string();
  RemoteFile file{"x.csv", md5(content), {curl.source("good", content)}};
  EXPECT(fetch(file, dir, {curl.program}) == Fetched::kDownloaded);
  EXPECT(read_file(dir + "/x.csv") == content);
  EXPECT(!fs::exists(dir + "/x.csv.part"));
  EXPECT(fetch(file, dir, {curl.program}) == Fetched::kWasThere);
  EXPECT(curl.calls() == 1);
  // A file with other bytes is replaced; the first half of a download is not asked for again.
  write_file_atomic(dir + "/x.csv", "truncated");
  write_file_atomic(dir + "/x.csv.part", content.substr(0, 8));
  EXPECT(fetch(file, dir, {curl.program}) == Fetched::kDownloaded);
  EXPECT(read_file(dir + "/x.csv") == content);
  // A whole part needs no network at all.
  fs::rename(dir + "/x.csv", dir + "/x.csv.part");
  EXPECT(fetch(file, dir, {"no_such_program", "nor_this"}) == Fetched::kDownloaded);
}

TEST_CASE("data fetch: the second address helps; without one that works, one line says what to put where") {
  const FakeCurl curl;
  const std::string content = "right", dir = (curl.dir / "out").string();
  const std::string wrong = curl.source("wrong", "wrong bytes"), good = curl.source("good", content);
  EXPECT(fetch({"a", md5(content), {"/nowhere", wrong, good}}, dir, {curl.program}) == Fetched::kDownloaded);
  EXPECT(read_file(dir + "/a") == content);
  const RemoteFile broken{"b", md5(content), {wrong}};
  const std::string message = error_of([&] { fetch(broken, dir, {curl.program}); });
  EXPECT(contains(
      message, "out/b: not downloaded (the file from " + wrong + " has another md5 sum); put the file with md5 "));
  EXPECT(!contains(message, "\n"));
  EXPECT(!fs::exists(dir + "/b"));
  EXPECT(!fs::exists(dir + "/b.part"));
  EXPECT(contains(error_of([&] {
                    fetch({"c", "0", {"/nowhere"}}, dir, {curl.program});
                  }),
                  "curl ended with status 6"));
  EXPECT(
      contains(error_of([&] {
                 fetch(broken, dir, {"no_such_program", "nor_this"});
               }),
               "neither no_such_program nor nor_this is here: no such program; type: sudo apt-get install curl"));
  for (const RemoteFile& file : ag_news_files()) EXPECT(file.md5.size() == 32);
}

TEST_CASE("data fetch: without curl wget is asked; what fails leaves nothing behind") {
  FakeCurl wget;
  const std::string content = "right", dir = (wget.dir / "out").string();
  // The stand-in looks for --output; wget's flag is another.
  std::string script = read_file(wget.program);
  script.replace(script.find("--output"), 8, "--output-document");
  write_file_atomic(wget.program, script);
  fs::permissions(wget.program, fs::perms::owner_all);
  const FetchPrograms only_wget{"no_such_program", wget.program};
  EXPECT(contains(error_of([&] {
                    fetch({"a", md5(content), {"/nowhere"}}, dir, only_wget);
                  }),
                  "wget ended with status 6"));
  EXPECT(!fs::exists(dir));
  EXPECT(fetch({"a", md5(content), {wget.source("good", content)}}, dir, only_wget) == Fetched::kDownloaded);
  EXPECT(read_file(dir + "/a") == content);
  fs::create_directories(dir + "/kept");
  error_of([&] { fetch({"a", "0", {"/nowhere"}}, dir + "/kept", only_wget); });
  EXPECT(fs::exists(dir + "/kept"));  // it was not ours
}

TEST_CASE("data fetch: a file whose sum nobody published is taken as it comes, but not half of it") {
  const FakeCurl curl;
  const std::string content = "{}", dir = (curl.dir / "out").string();
  const RemoteFile file{"config.json", "", {"/nowhere", curl.source("config", content)}};
  make_folder(dir);
  write_file_atomic(dir + "/config.json.part", "{");
  EXPECT(fetch(file, dir, {curl.program}) == Fetched::kDownloaded);
  EXPECT(read_file(dir + "/config.json") == content);
  EXPECT(fetch(file, dir, {curl.program}) == Fetched::kWasThere);
  const std::string message = error_of([&] { fetch({"b", "", {curl.source("empty", "")}}, dir, {curl.program}); });
  EXPECT(contains(message, "is empty); put the file there by hand, from "));
  for (const RemoteFile& f : bert_small_files("file:///x/")) EXPECT(f.addresses[0] == "file:///x/" + f.name);
}

TEST_CASE("data fetch: the real curl takes our arguments") {
  if (std::system("curl --version > /dev/null 2>&1") != 0) SKIP("no curl here");
  const FakeCurl files;
  const std::string content(100000, 'x'), dir = (files.dir / "out").string();
  const RemoteFile file{"x", md5(content), {"file://" + files.source("good", content)}};
  write_file_atomic(dir + "/x.part", content.substr(0, 1234));
  EXPECT(fetch(file, dir) == Fetched::kDownloaded);
  EXPECT(read_file(dir + "/x") == content);
}
