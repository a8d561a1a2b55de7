// What every program does with its flags: parse them, and say what they are, to a person (--help, --version), as a man page
// and to a shell that completes words. All of it is made from what is parsed, so that no flag can be forgotten.
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

// "name commit (variant)"
std::string version_text(const std::string& name);

// Parses with --version, and with --help-man and --help-completion, which --help does not list. False: what was asked for
// has been printed, and there is nothing to do. Wrong flags are an Error of one line.
bool parse_flags(CLI::App& app, const std::string& name, int argc, const char* const* argv,
                 const ChoicesOf& choices_of = {});

}  // namespace glia
