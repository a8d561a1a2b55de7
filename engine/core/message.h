// What went wrong, for a person, in one line: our own errors say it; what the library throws where memory ends does not.
#pragma once
#include <cstdint>
#include <exception>
#include <string>
#include <string_view>

namespace glia {

// What came from a file or a flag may hold line ends, a terminal's commands and marks that turn or hide text: they are
// shown as \n, \x1b and \u202e.
std::string one_line(const std::string& text);

// Where a byte of a text stands, both counted from 1, the column in bytes.
struct TextPlace {
  int64_t line = 1, column = 1;
};
TextPlace place_in(std::string_view text, size_t at);

// Without the names of C++: memory that ended, a path that cannot be looked at, JSON of another form than expected.
std::string message_of(const std::exception& error);

}  // namespace glia
