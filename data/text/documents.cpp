#include "data/text/documents.h"

#include <lzma.h>
#include <zlib.h>

#include <algorithm>

#include "data/text/utf8.h"
#include "engine/core/check.h"
#include "engine/core/file.h"
#include "engine/core/file_kind.h"
#include "engine/core/message.h"

namespace fs = std::filesystem;

namespace glia {
namespace {

constexpr size_t kPart = 1 << 20;  // bytes that a decoder writes at a time

std::string unpack_xz(std::string_view packed, const std::string& name) {
  lzma_stream s = LZMA_STREAM_INIT;
  CHECK(lzma_stream_decoder(&s, UINT64_MAX, LZMA_CONCATENATED) == LZMA_OK, "xz: no decoder for {}", name);
  s.next_in = reinterpret_cast<const uint8_t*>(packed.data());
  s.avail_in = packed.size();
  std::string text;
  lzma_ret result = LZMA_OK;
  while (result == LZMA_OK) {
    const size_t before = text.size();
    text.resize(before + kPart);
    s.next_out = reinterpret_cast<uint8_t*>(text.data() + before);
    s.avail_out = kPart;
    result = lzma_code(&s, LZMA_FINISH);
    text.resize(text.size() - s.avail_out);
  }
  lzma_end(&s);
  if (result == LZMA_STREAM_END) return text;
  if (result == LZMA_BUF_ERROR) fail_input("{}: the xz data end too early: the file is cut", name);
  fail_input("{}: expected whole xz data, got damaged ones, or other bytes behind them", name);
}

std::string unpack_gzip(std::string_view packed, const std::string& name) {
  z_stream s{};
  CHECK(inflateInit2(&s, 15 + 16) == Z_OK, "gzip: no decoder for {}", name);  // 16: a gzip header
  std::string text;
  int result = Z_OK;
  size_t at = 0;  // avail_in has 32 bits
  for (;;) {
    if (s.avail_in == 0 && at < packed.size()) {
      s.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(packed.data() + at));
      s.avail_in = static_cast<uInt>(std::min<size_t>(packed.size() - at, 1u << 30));
      at += s.avail_in;
    }
    const size_t before = text.size();
    text.resize(before + kPart);
    s.next_out = reinterpret_cast<Bytef*>(text.data() + before);
    s.avail_out = kPart;
    result = inflate(&s, Z_NO_FLUSH);
    text.resize(text.size() - s.avail_out);
    const bool more = s.avail_in > 0 || at < packed.size();
    // Another member follows, or zeros that fill a block: those are no text, as gzip itself has it.
    if (result == Z_STREAM_END && more && packed.find_first_not_of('\0', at - s.avail_in) != packed.npos) {
      inflateReset(&s);
      continue;
    }
    if (result != Z_OK) break;
  }
  inflateEnd(&s);
  if (result == Z_STREAM_END) return text;
  if (result == Z_BUF_ERROR) fail_input("{}: the gzip data end too early: the file is cut", name);
  fail_input("{}: expected whole gzip data, got damaged ones (zlib error {})", name, result);
}

bool is_text_file(const fs::path& path) {
  const std::string name = path.filename().string();
  return name.ends_with(".txt") || name.ends_with(".txt.xz") || name.ends_with(".txt.gz");
}

// "a, b, c and 5 more", in the order of their names.
std::string some_of(std::vector<std::string> names) {
  constexpr size_t kMost = 3;
  std::sort(names.begin(), names.end());
  std::string text;
  for (size_t i = 0; i < std::min(names.size(), kMost); ++i) text += (i ? ", " : "") + names[i];
  return names.size() > kMost ? fmt::format("{} and {} more", text, names.size() - kMost) : text;
}

}  // namespace

std::string read_text(const fs::path& path) {
  std::string bytes = read_file(path);
  if (bytes.starts_with(std::string_view("\xFD"
                                         "7zXZ\0",
                                         6)))
    return unpack_xz(bytes, path.string());
  if (bytes.starts_with("\x1F\x8B")) return unpack_gzip(bytes, path.string());
  return bytes;
}

void require_text(std::string_view text, const std::string& name) {
  refuse_foreign(text, name, "text");
  const size_t nul = text.find('\0'), invalid = utf8::find_invalid(text), at = std::min(nul, invalid);
  if (at == std::string_view::npos) return;
  const TextPlace place = place_in(text, at);
  fail_input("{}:{}:{}: expected {}, found byte 0x{:02X}", name, place.line, place.column,
             at == nul ? "text" : "UTF-8", static_cast<uint8_t>(text[at]));
}

std::vector<std::string_view> documents_of(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\v\f";
  text = utf8::without_mark(text);
  const char line_end =
      text.find('\n') == std::string_view::npos ? '\r' : '\n';  // old Macintoshes' text has CR alone
  std::vector<std::string_view> documents;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find(line_end, begin), text.size());
    const std::string_view line = text.substr(begin, end - begin);
    if (const size_t first = line.find_first_not_of(kSpace); first != std::string_view::npos)
      documents.push_back(line.substr(first, line.find_last_not_of(kSpace) + 1 - first));
    begin = end + 1;
  }
  return documents;
}

std::vector<std::string_view> blocks_of(std::string_view text, size_t size) {
  std::vector<std::string_view> blocks;
  for (size_t begin = 0; begin < text.size();) {
    const size_t line = text.find('\n', std::min(begin + size, text.size()));
    const size_t end = line == std::string_view::npos ? text.size() : line + 1;
    blocks.push_back(text.substr(begin, end - begin));
    begin = end;
  }
  return blocks;
}

std::vector<fs::path> text_files(const std::string& list, std::vector<std::string>* notes) {
  std::vector<fs::path> files;
  for (size_t begin = 0; begin <= list.size();) {
    const size_t end = std::min(list.find(',', begin), list.size());
    const fs::path path = list.substr(begin, end - begin);
    begin = end + 1;
    if (path.empty()) continue;
    if (!fs::is_directory(path)) {
      if (!fs::exists(path)) fail_input("--corpus {}: there is no such file or folder", path.string());
      files.push_back(path);
      continue;
    }
    const size_t before = files.size();
    std::vector<std::string> others;
    for (const auto& entry : fs::directory_iterator(path)) {
      const std::string name = entry.path().filename().string();
      if (entry.is_regular_file() && is_text_file(entry.path())) files.push_back(entry.path());
      else if (!name.starts_with('.')) others.push_back(entry.is_directory() ? name + "/" : name);
    }
    if (files.size() == before)
      fail_input("--corpus {}: expected *.txt, *.txt.xz or *.txt.gz in the folder, found {}", path.string(),
                 others.empty() ? "none" : "none of them, but " + some_of(others));
    if (notes && !others.empty())
      notes->push_back(fmt::format("{}: only its *.txt, *.txt.xz and *.txt.gz are read, not {}", path.string(),
                                   some_of(others)));
    std::sort(files.begin() + static_cast<std::ptrdiff_t>(before), files.end());
  }
  return files;
}

}  // namespace glia
