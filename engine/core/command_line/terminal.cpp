#include "engine/core/command_line/terminal.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <utf8proc.h>

namespace glia {

bool is_terminal(std::FILE* file) { return ::isatty(::fileno(file)) != 0; }

TerminalSize terminal_size(std::FILE* file) {
  winsize size{};
  TerminalSize found;
  if (::ioctl(::fileno(file), TIOCGWINSZ, &size) != 0) return found;
  if (size.ws_col > 0) found.columns = size.ws_col;
  if (size.ws_row > 0) found.rows = size.ws_row;
  return found;
}

namespace {

// The code point (or the byte that is none) at the beginning of a text that is not empty.
struct Unit {
  size_t bytes;
  int columns;
};
Unit first_unit(std::string_view text) {
  utf8proc_int32_t code = 0;
  const utf8proc_ssize_t length = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                                   static_cast<utf8proc_ssize_t>(text.size()), &code);
  return length > 0 ? Unit{static_cast<size_t>(length), utf8proc_charwidth(code)} : Unit{1, 1};
}

}  // namespace

int columns_of(std::string_view text) {
  int columns = 0;
  while (!text.empty()) {
    const Unit unit = first_unit(text);
    columns += unit.columns;
    text.remove_prefix(unit.bytes);
  }
  return columns;
}

std::string fitted(std::string_view text, int columns) {
  size_t at = 0;
  while (at < text.size()) {
    const Unit unit = first_unit(text.substr(at));
    columns -= unit.columns;
    if (columns < 0) break;
    at += unit.bytes;
  }
  return std::string(text.substr(0, at));
}

void status_line(std::FILE* file, std::string_view text) {
  if (!is_terminal(file)) return;
  // Without the last column: a cursor behind it stands on the next line on some terminals.
  fmt::print(file, "\r\033[K{}", fitted(text, terminal_size(file).columns - 1));
  std::fflush(file);
}

}  // namespace glia
