// What went wrong, for a person, in one line: our own errors say it; what the library throws where memory ends does not.
#pragma once
#include <exception>
#include <new>
#include <stdexcept>
#include <string>

namespace glia {

// What came from a file or a flag may hold line ends and a terminal's commands: they are shown as \n and \x1b.
inline std::string one_line(const std::string& text) {
  std::string line;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    constexpr const char* kDigits = "0123456789abcdef";
    if (c == '\n') line += "\\n";
    else if (byte < 0x20 || byte == 0x7f) line += std::string("\\x") + kDigits[byte >> 4] + kDigits[byte & 15];
    else line += c;
  }
  return line;
}

inline std::string message_of(const std::exception& error) {
  if (dynamic_cast<const std::bad_alloc*>(&error) || dynamic_cast<const std::length_error*>(&error))
    return "this machine's memory does not hold what was asked for";
  return one_line(error.what());
}

}  // namespace glia
