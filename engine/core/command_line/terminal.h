// Lines that are drawn again and again on a terminal of any size: one that wraps could not be wiped.
#pragma once
#include <cstdio>
#include <string>
#include <string_view>

namespace glia {

struct TerminalSize {
  int columns = 120, rows = 40;  // what a terminal that does not tell its size is taken for
};

bool is_terminal(std::FILE* file);
TerminalSize terminal_size(std::FILE* file);

// Columns that the text takes: wide code points take two, combining ones none, bytes that are no UTF-8 one.
int columns_of(std::string_view text);

// The beginning of a line of text that takes at most so many columns; code points are not cut.
std::string fitted(std::string_view text, int columns);

// Writes the line over the last one; "" wipes it. Nothing where `file` is no terminal.
void status_line(std::FILE* file, std::string_view text);

}  // namespace glia
