// Programs as a person starts them.
#pragma once
#include <sys/wait.h>

#include <cstdio>
#include <string>

#include "tests/test.h"

namespace glia::test {

struct CommandResult {
  int status;       // as waitpid gives it; 0: all went well
  std::string out;  // standard output, or with 2>&1 both
};

inline CommandResult run_command(const std::string& command) {
  std::FILE* pipe = ::popen(command.c_str(), "r");
  REQUIRE(pipe != nullptr);
  CommandResult result{0, ""};
  char bytes[4096];
  for (size_t n; (n = std::fread(bytes, 1, sizeof bytes, pipe)) > 0;) result.out.append(bytes, n);
  result.status = ::pclose(pipe);
  return result;
}

}  // namespace glia::test
