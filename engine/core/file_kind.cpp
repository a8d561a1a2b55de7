#include "engine/core/file_kind.h"

#include <algorithm>
#include <cctype>

#include "engine/core/check.h"

namespace glia {
namespace {

using namespace std::string_view_literals;  // marks with NUL bytes

struct Kind {
  std::string_view mark;  // in the order in which they are tried: UTF-32's begins with UTF-16's
  size_t at;
  const char* what;
};
constexpr Kind kKinds[] = {
    {"\xFF\xFE\0\0"sv, 0, "a UTF-32 file; save it as UTF-8"},
    {"\0\0\xFE\xFF"sv, 0, "a UTF-32 file; save it as UTF-8"},
    {"\xFF\xFE"sv, 0, "a UTF-16 file; save it as UTF-8"},
    {"\xFE\xFF"sv, 0, "a UTF-16 file; save it as UTF-8"},
    {"PK\x03\x04"sv, 0, "a zip archive (a workbook?); take out what is in it"},
    {"\x1F\x8B"sv, 0, "a gzip file; unpack it"},
    {"\xFD"
     "7zXZ\0"sv,
     0, "an xz file; unpack it"},
    {"BZh"sv, 0, "a bzip2 file; unpack it"},
    {"\x28\xB5\x2F\xFD"sv, 0, "a Zstandard file; unpack it"},
    {"7z\xBC\xAF\x27\x1C"sv, 0, "a 7z archive; unpack it"},
    {"Rar!\x1A\x07"sv, 0, "a RAR archive; unpack it"},
    {"ustar"sv, 257, "a tar archive; unpack it"},
    {"PAR1"sv, 0, "a Parquet table; save it as text"},
    {"ARROW1"sv, 0, "an Arrow table; save it as text"},
    {"\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1"sv, 0, "an old Office document; save it as text"},
    {"%PDF-"sv, 0, "a PDF; save it as text"},
    {"{\\rtf"sv, 0, "an RTF document; save it as text"},
    {"SQLite format 3\0"sv, 0, "an SQLite database; export its table"},
    {"\x89HDF\r\n"sv, 0, "an HDF5 file"},
    {"\x93NUMPY"sv, 0, "a NumPy array"},
    {"GGUF"sv, 0, "a GGUF file"},
    {"\x7F"
     "ELF"sv,
     0, "a program"},
    {"\x89PNG"sv, 0, "a picture"},
    {"version https://git-lfs"sv, 0, "a Git LFS pointer: fetch the file itself (git lfs pull)"},
};

// What a download leaves where its address was wrong or wanted a login.
bool is_web_page(std::string_view head) {
  const size_t first = head.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos) return false;
  std::string start(head.substr(first, 14));
  std::ranges::transform(start, start.begin(), [](unsigned char c) { return std::tolower(c); });
  return start.starts_with("<!doctype html") || start.starts_with("<html");
}

}  // namespace

std::string foreign_kind(std::string_view head) {
  for (const Kind& kind : kKinds)
    if (head.size() >= kind.at && head.substr(kind.at).starts_with(kind.mark)) return kind.what;
  return is_web_page(head) ? "a web page; download the file itself" : "";
}

void refuse_foreign(std::string_view content, const std::string& source, const char* expected) {
  if (const std::string kind = foreign_kind(content.substr(0, 512)); !kind.empty())
    fail_input("{}: expected {}, found {}", source, expected, kind);
}

}  // namespace glia
