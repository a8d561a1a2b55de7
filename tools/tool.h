// What every tool's main() does around its work: flags in, one line for each error out.
#pragma once
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>

#include "engine/core/command_line/interrupt.h"
#include "engine/core/command_line/manual.h"
#include "engine/core/message.h"

namespace glia {

// CLI11 takes "[a, b]" for a list where an argument may have several values, but here it is text that somebody typed.
// So such an argument gets a byte behind its bracket, which every option takes off again.
class BracketsAsText {
 public:
  BracketsAsText(CLI::App& app, int argc, char** argv) : words_(argv, argv + argc) {
    for (std::string& word : words_)
      if (word.starts_with('[') && word.ends_with(']')) word += kMark;
    for (std::string& word : words_) argv_.push_back(word.data());
    for (CLI::Option* option : app.get_options())
      option->transform(CLI::Validator(
          [](std::string& text) {
            if (text.ends_with(std::string("]") + kMark)) text.pop_back();
            return std::string();
          },
          ""));
  }
  int argc() const { return static_cast<int>(argv_.size()); }
  char** argv() { return argv_.data(); }

 private:
  static constexpr char kMark = '\x1F';  // the unit separator, which no keyboard types
  std::vector<std::string> words_;
  std::vector<char*> argv_;
};

// What was printed has to have arrived: a full disk behind `> file` shows when the buffers are emptied, and not before.
inline int after_output(const char* name, int status) {
  std::cout.flush();
  if (std::cout && std::fflush(stdout) == 0 && !std::ferror(stdout)) return status;
  fmt::print(stderr, "{}: standard output: cannot write\n", name);
  return status ? status : 1;
}

// Parses the flags and runs int work(). Exit status: what work() returns; 1 when it throws, or when what it printed cannot be
// written; 2 for wrong flags.
template <class Work> int run_tool(const char* name, CLI::App& app, int argc, char** argv, Work&& work) {
  report_size_limits();
  BracketsAsText words(app, argc, argv);
  try {
    if (!parse_flags(app, name, words.argc(), words.argv())) return after_output(name, 0);
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}: {}\n", name, message_of(error));
    return 2;
  }
  try {
    return after_output(name, work());
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}: {}\n", name, message_of(error));
    return 1;
  }
}

}  // namespace glia
