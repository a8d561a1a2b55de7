// Errors. CHECK is always on: it throws Error with what was expected and what came, and where the check stands.
// Bad input from outside (a file, a flag) is reported with fail_input: the same type, no source location.
#pragma once
#include <fmt/format.h>

#include <stdexcept>
#include <string>

namespace glia {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

[[noreturn]] void fail_check(const char* file, int line, const std::string& message);

template <class... Args> [[noreturn]] void fail_input(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace glia

#define CHECK(cond, ...)                                                  \
  do {                                                                    \
    if (!(cond)) [[unlikely]]                                             \
      ::glia::fail_check(__FILE__, __LINE__, ::fmt::format(__VA_ARGS__)); \
  } while (0)
