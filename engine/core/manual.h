// What a program says of itself for other programs: a man page, and the words that a shell completes. Both are made from
// the flags that the program parses, so that none can be forgotten.
#pragma once
#include <functional>
#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace glia {

struct ManualEntry {
  std::string name;      // "--format", "-h, --help", or a positional argument's
  std::string argument;  // what stands behind a flag: "text|csv|json", "VALUE"; "": nothing
  std::string help, section;
  std::vector<std::string> choices;  // of the argument, where they are few; none: any
  bool positional = false, required = false;
};

struct Manual {
  std::string name, version, description;
  std::vector<ManualEntry> entries;
};

// Choices of a flag that the parser does not know of; may be empty.
using ChoicesOf = std::function<std::vector<std::string>(const std::string& flag)>;

Manual manual_of(const CLI::App& app, const std::string& name, const std::string& version,
                 const ChoicesOf& choices_of = {});

// groff -man, UTF-8, section 1: "glia-NAME".
std::string man_page(const Manual& manual);
// A line a flag: the flag and its choices. Read by tools/completion.bash.
std::string completion_words(const Manual& manual);

// --help-man and --help-completion, which --help does not list: printed as --version is, by throwing what CLI11 throws
// for it. `choices_of` outlives the parsing.
void add_manual_flags(CLI::App& app, const std::string& name, const std::string& version,
                      const ChoicesOf& choices_of = {});

}  // namespace glia
