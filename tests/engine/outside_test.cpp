// What comes from outside: files that are none, files of another kind, JSON that stops, and messages of one line.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <thread>

#include "engine/core/file_kind.h"
#include "engine/core/json.h"
#include "engine/core/message.h"
#include "tests/temporary_folder.h"

namespace glia::test {
namespace {

TEST_CASE("file: what has no end or may never begin is refused at once; the shell's pipes are read") {
  const TemporaryFolder folder("odd-files");
  const std::string pipe = folder.path + "/pipe", loop = folder.path + "/loop", name = folder.path + "/s";
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  REQUIRE(::symlink("loop", loop.c_str()) == 0);
  const int socket = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  name.copy(address.sun_path, sizeof address.sun_path - 1);
  REQUIRE(::bind(socket, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
  EXPECT(error_of([&] { read_file(pipe); }) == pipe + ": expected a file, found a named pipe");
  EXPECT(error_of([&] { read_file(name); }) == name + ": expected a file, found a socket");
  EXPECT(error_of([&] { read_file(folder.path); }) == folder.path + ": expected a file, found a directory");
  EXPECT(error_of([] { read_file("/dev/zero"); }) == "/dev/zero: expected a file, found a device");
  EXPECT(contains(error_of([&] { read_file(loop); }), loop + ": cannot open: "));
  EXPECT(read_file("/dev/null").empty());
  ::close(socket);

  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  std::thread writer([&] {
    ::usleep(20'000);  // the reader is there first, and waits
    EXPECT(::write(ends[1], "late", 4) == 4);
    ::close(ends[1]);
  });
  EXPECT(read_file(fmt::format("/dev/fd/{}", ends[0])) == "late");
  writer.join();
  ::close(ends[0]);
}

TEST_CASE("file: what is written keeps links, and takes no device's place") {
  const TemporaryFolder folder("written");
  write_file_atomic(folder.path + "/far/target", "old");
  REQUIRE(::symlink("far/target", (folder.path + "/link").c_str()) == 0);
  write_file_atomic(folder.path + "/link", "new");
  EXPECT(std::filesystem::is_symlink(folder.path + "/link"));
  EXPECT(read_file(folder.path + "/far/target") == "new");
  EXPECT(contains(error_of([&] { write_file_atomic(folder.path + "/far", "x"); }),
                  "expected a file to write, found a directory"));
  const std::string pipe = folder.path + "/pipe";
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  const int reader = ::open(pipe.c_str(), O_RDONLY | O_NONBLOCK);
  write_file_atomic(pipe, "through");
  char got[16];
  EXPECT(::read(reader, got, sizeof got) == 7);
  EXPECT(std::filesystem::is_fifo(pipe));
  ::close(reader);
}

TEST_CASE("file kinds: other files are known by their first bytes, text is not") {
  const std::pair<std::string, const char*> kinds[] = {
      {"\x1F\x8B\x08", "a gzip file"},
      {std::string("\xFD") + "7zXZ" + '\0', "an xz file"},
      {"BZh91AY", "a bzip2 file"},
      {"\x28\xB5\x2F\xFD", "a Zstandard file"},
      {"PAR1", "a Parquet table"},
      {"%PDF-1.7", "a PDF"},
      {std::string("\xFF\xFE\0\0", 4), "a UTF-32 file"},
      {"\xFF\xFEh", "a UTF-16 file"},
      {"\n <!DOCTYPE HTML>", "a web page"},
      {std::string(257, 'x') + "ustar", "a tar archive"},
      {"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer"}};
  for (const auto& [head, kind] : kinds) {
    INFO(kind);
    EXPECT(foreign_kind(head).starts_with(kind));
  }
  for (const char* text : {"", "label,text\n", "{\"a\": 1}", "PKG of goods", "\xEF\xBB\xBFlabel", "<a> is a tag"})
    EXPECT(foreign_kind(text) == "");
}

TEST_CASE("json: where it stops being JSON is named, and a key that stands twice is no choice of ours") {
  const auto error = [](const std::string& text) { return error_of([&] { json_object(text, "x.json"); }); };
  EXPECT(json_object("\xEF\xBB\xBF{\"a\": [1, {\"a\": 2}], \"b\": {\"a\": 3}}", "x.json")["b"]["a"] == 3);
  EXPECT(error("") == "x.json:1:1: expected JSON, found nothing");
  EXPECT(error("{\n \"a\": 1") == "x.json:2:8: expected JSON, found the end of the file");
  EXPECT(error("{\"a\": 1,\n\n  \"b\": NaN}") == "x.json:3:8: expected JSON, found 'NaN'");
  EXPECT(error("{\"a\": 1} trailing") == "x.json:1:10: expected JSON, found 'trailing'");
  EXPECT(error("// {}") == "x.json:1:1: expected JSON, found '//'");
  EXPECT(error("[1]") == "x.json: expected a JSON object, found array");
  EXPECT(error("{\"a\": 1, \"b\": {\"c\": 1, \"c\": 2}}") == "x.json: the key \"c\" stands twice in one object");
  EXPECT(error("{\"a\": 1e999}") == "x.json: a number in it is larger than any that JSON's readers hold");
  EXPECT(error("<html>") == "x.json: expected JSON, found a web page; download the file itself");
  EXPECT(error(std::string(3, '\0')) == "x.json:1:1: expected JSON, found '\\x00\\x00\\x00'");
  EXPECT(contains(error(std::string(100'000, '[')), "x.json:1:100001: expected JSON, found the end of the file"));
  std::string why;
  EXPECT(parse_json("{\"a\"}", why).is_discarded());
  EXPECT(why == "line 1, column 5: expected JSON, found '}'");
}

TEST_CASE("messages: one line of what can be seen, and no names of C++") {
  EXPECT(one_line("a\nb\x1b[31m\x7f") == "a\\nb\\x1b[31m\\x7f");
  EXPECT(one_line("a\u0085b\u2028c\u202Ed\u200Be\uFEFFf") == "a\\u0085b\\u2028c\\u202ed\\u200be\\ufefff");
  EXPECT(one_line("Größe → 東京 …") == "Größe → 東京 …");
  EXPECT(one_line("cut \xE2\x80") == "cut \xE2\x80");
  const TemporaryFolder folder("message");
  REQUIRE(::symlink("loop", (folder.path + "/loop").c_str()) == 0);
  std::string message;
  try {
    (void)std::filesystem::exists(folder.path + "/loop");
  } catch (const std::exception& error) {
    message = message_of(error);
  }
  EXPECT(message.starts_with(folder.path + "/loop: "));
  EXPECT(!contains(message, "filesystem error"));
  try {
    nlohmann::json(3).get<std::string>();
  } catch (const std::exception& error) {
    message = message_of(error);
  }
  EXPECT(message == "JSON: type must be string, but is number");
}

}  // namespace
}  // namespace glia::test
