// What went wrong, for a person, in one line: our own errors say it; what the library throws where memory ends does not.
#pragma once
#include <exception>
#include <string>

namespace glia {

// What came from a file or a flag may hold line ends, a terminal's commands and marks that turn or hide text: they are
// shown as \n, \x1b and \u202e.
std::string one_line(const std::string& text);

// Without the names of C++: memory that ended, a path that cannot be looked at, JSON of another form than expected.
std::string message_of(const std::exception& error);

}  // namespace glia
