// doctest under names that do not collide with the engine's CHECK, and a skip that is printed and counted.
#pragma once
#define DOCTEST_CONFIG_NO_SHORT_MACRO_NAMES
#include <doctest/doctest.h>

#include <unistd.h>

#include <filesystem>
#include <string>

#include "engine/core/check.h"

#define TEST_CASE(name) DOCTEST_TEST_CASE(name)
#define SUBCASE(name) DOCTEST_SUBCASE(name)
#define EXPECT(...) DOCTEST_CHECK(__VA_ARGS__)
#define REQUIRE(...) DOCTEST_REQUIRE(__VA_ARGS__)
#define INFO(...) DOCTEST_INFO(::glia::test::told(__VA_ARGS__))
#define FAIL(...) DOCTEST_FAIL(__VA_ARGS__)

namespace glia::test {

void count_skip(const std::string& why);  // printed at once, counted in the last line

// One text of all: doctest would tell where a name in a `const char*` lies, not the name.
template <class T> doctest::String told_one(const T& x) {
  if constexpr (std::is_convertible_v<T, const char*>) return static_cast<const char*>(x);
  else return doctest::toString(x);
}
template <class... T> doctest::String told(const T&... parts) {
  return (doctest::String() + ... + told_one(parts));
}

// The message of the glia::Error that `f` throws; "" when it throws none.
template <class F> std::string error_of(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

// A path for this process alone: test programs run side by side on one machine.
inline std::filesystem::path temporary_path(const std::string& name) {
  return std::filesystem::temp_directory_path() / fmt::format("glia-{}-{}", name, ::getpid());
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace glia::test

// Leaves the test case: `SKIP("no GPU here");`
#define SKIP(why)                  \
  do {                             \
    ::glia::test::count_skip(why); \
    return;                        \
  } while (0)
