#include "engine/core/message.h"

#include <filesystem>
#include <new>
#include <stdexcept>

#include "engine/core/check.h"

namespace glia {
namespace {

// The code point of two or three bytes that stands at `at`, or 0: all that is to be hidden is below U+10000.
unsigned code_point(std::string_view text, size_t at, size_t& bytes) {
  const auto byte = [&](size_t i) { return at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : 0u; };
  const auto follows = [&](size_t i) { return (byte(i) & 0xC0) == 0x80; };
  if ((byte(0) & 0xE0) == 0xC0 && follows(1)) return bytes = 2, (byte(0) & 0x1F) << 6 | (byte(1) & 0x3F);
  if ((byte(0) & 0xF0) == 0xE0 && follows(1) && follows(2))
    return bytes = 3, (byte(0) & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
  return 0;
}

// Controls of the second half, line and paragraph separators, marks of direction and of no width, byte order marks.
bool is_hidden(unsigned code) {
  return (code >= 0x80 && code < 0xA0) || (code >= 0x200B && code <= 0x200F) ||
         (code >= 0x2028 && code <= 0x202E) || (code >= 0x2060 && code <= 0x206F) || code == 0xFEFF;
}

}  // namespace

std::string one_line(const std::string& text) {
  std::string line;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    size_t bytes = 1;
    if (text[i] == '\n') {
      line += "\\n";
    } else if (byte < 0x20 || byte == 0x7f) {
      line += fmt::format("\\x{:02x}", byte);
    } else if (const unsigned code = code_point(text, i, bytes); is_hidden(code)) {
      line += fmt::format("\\u{:04x}", code);
      i += bytes - 1;
    } else {
      line += text[i];
    }
  }
  return line;
}

TextPlace place_in(std::string_view text, size_t at) {
  TextPlace place;
  for (const char c : text.substr(0, at)) {
    ++place.column;
    if (c == '\n') ++place.line, place.column = 1;
  }
  return place;
}

std::string message_of(const std::exception& error) {
  if (dynamic_cast<const std::bad_alloc*>(&error) || dynamic_cast<const std::length_error*>(&error))
    return "this machine's memory does not hold what was asked for";
  if (const auto* file = dynamic_cast<const std::filesystem::filesystem_error*>(&error)) {
    const std::string paths =
        file->path1().string() + (file->path2().empty() ? "" : " and " + file->path2().string());
    return one_line(paths + ": " + file->code().message());
  }
  const std::string text = one_line(error.what());
  // The JSON library begins with its own name for the error.
  const size_t end = text.starts_with("[json.exception.") ? text.find("] ") : std::string::npos;
  return end == std::string::npos ? text : "JSON: " + text.substr(end + 2);
}

}  // namespace glia
