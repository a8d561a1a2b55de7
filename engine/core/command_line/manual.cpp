#include "engine/core/command_line/manual.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>

#include "engine/core/build_info.h"
#include "engine/core/check.h"

namespace glia {
namespace {

// "TEXT:{auto,lines,csv}" → auto, lines, csv: how CLI11 describes a choice.
std::vector<std::string> choices_in(const std::string& type) {
  const size_t open = type.find('{'), close = type.find('}');
  std::vector<std::string> choices;
  if (open == std::string::npos || close == std::string::npos) return choices;
  for (size_t at = open + 1; at < close;) {
    const size_t end = std::min(type.find(',', at), close);
    choices.push_back(type.substr(at, end - at));
    at = end + 1;
  }
  return choices;
}

std::string joined(const std::vector<std::string>& parts, const char* between) {
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : between) + part;
  return text;
}

ManualEntry entry_of(const CLI::Option& option, const ChoicesOf& choices_of) {
  ManualEntry entry;
  entry.help = option.get_description();
  entry.section = option.get_group();
  entry.required = option.get_required();
  entry.positional = option.get_lnames().empty() && option.get_snames().empty();
  if (entry.positional) {
    entry.name = option.get_name(true);
    return entry;
  }
  for (const std::string& name : option.get_snames()) entry.name += "-" + name + ", ";
  entry.name += "--" + joined(option.get_lnames(), ", --");
  entry.choices = choices_in(option.get_type_name());
  if (entry.choices.empty() && choices_of) entry.choices = choices_of(option.get_lnames().front());
  if (option.get_expected_max() > 0) entry.argument = entry.choices.empty() ? "VALUE" : joined(entry.choices, "|");
  if (option.get_expected_max() > 0 && option.get_expected_min() == 0)
    entry.argument = "[" + (entry.choices.empty() ? "on|off" : entry.argument) + "]";
  return entry;
}

// groff takes a point or an apostrophe that begins a line for a request, and a bare - for a hyphen.
std::string groff(const std::string& text) {
  std::string out;
  bool begins = true;
  for (const char c : text) {
    if (begins && (c == '.' || c == '\'')) out += "\\&";
    if (c == '-') out += "\\-";
    else if (c == '\\') out += "\\e";
    else out += c;
    begins = c == '\n';
  }
  return out;
}

}  // namespace

Manual manual_of(const CLI::App& app, const std::string& name, const std::string& version,
                 const ChoicesOf& choices_of) {
  Manual manual{name, version, app.get_description(), {}};
  // By section, in the order in which sections come first.
  std::vector<std::string> sections;
  for (const CLI::Option* option : app.get_options())
    if (std::find(sections.begin(), sections.end(), option->get_group()) == sections.end())
      sections.push_back(option->get_group());
  for (const std::string& section : sections)
    for (const CLI::Option* option : app.get_options())
      if (option->get_group() == section && !section.empty())  // without a group: not listed
        manual.entries.push_back(entry_of(*option, choices_of));
  return manual;
}

std::string man_page(const Manual& m) {
  std::string first = m.description.substr(0, m.description.find_first_of(".:"));
  std::replace(first.begin(), first.end(), '\n', ' ');
  std::string page = fmt::format(
      ".TH GLIA\\-{0} 1 \"\" \"Glia {1}\" \"Glia\"\n.SH NAME\nglia\\-{2} \\- {3}\n.SH SYNOPSIS\n.B glia\\-{2}\n",
      groff(m.name), groff(m.version), groff(m.name), groff(first));
  std::string arguments, section;
  for (const ManualEntry& e : m.entries)
    if (e.positional) {
      page += groff(e.required ? e.name : "[" + e.name + "]") + "\n";
      arguments += fmt::format(".TP\n.I {}\n{}\n", groff(e.name), groff(e.help));
    }
  page += fmt::format("[\\fIflags\\fR]\n.SH DESCRIPTION\n{}\n", groff(m.description));
  if (!arguments.empty()) page += ".SH ARGUMENTS\n" + arguments;
  for (const ManualEntry& e : m.entries) {
    if (e.positional) continue;
    if (e.section != section) page += fmt::format(".SH \"{}\"\n", groff(section = e.section));
    page += fmt::format(".TP\n\\fB{}\\fR{}{}\n{}\n", groff(e.name), e.argument.empty() ? "" : " ",
                        e.argument.empty() ? "" : "\\fI" + groff(e.argument) + "\\fR", groff(e.help));
  }
  return page +
         ".SH \"EXIT STATUS\"\n0: all went well; 1: something failed and is named in one line; 2: wrong flags.\n";
}

std::string completion_words(const Manual& m) {
  std::string words;
  for (const ManualEntry& e : m.entries) {
    if (e.positional) continue;
    const size_t at = e.name.find("--");
    const bool is_switch = e.argument.starts_with("[on");
    words += e.name.substr(at) +
             (is_switch           ? " on off"
              : e.choices.empty() ? ""
                                  : " " + joined(e.choices, " ")) +
             "\n";
  }
  return words;
}

std::string version_text(const std::string& name) {
  return fmt::format("{} {} ({})", name, build_commit(), build_variant());
}

namespace {

// "--flag=" is an empty value: CLI11 would take the next word for it. What follows "--" is text.
std::vector<std::string> with_empty_values(int argc, const char* const* argv) {
  std::vector<std::string> words;
  bool flags = true;
  for (int i = 0; i < argc; ++i) {
    std::string word = argv[i];
    flags = flags && word != "--";
    const bool empty = flags && i > 0 && word.starts_with("--") && word.find('=') == word.size() - 1;
    if (empty) word.pop_back();
    words.push_back(word);
    if (empty) words.emplace_back();
  }
  return words;
}

// CLI11 lists what it could not place from behind, values among the flags.
std::string extras_text(const std::vector<std::string>& extras) {
  std::vector<std::string> flags;
  for (const std::string& word : extras)
    if (word.size() > 1 && word[0] == '-' && word != "--") flags.push_back(word.substr(0, word.find('=')));
  return flags.empty() ? fmt::format("expected no further argument, got \"{}\"", joined(extras, " "))
                       : fmt::format("unknown flag{} {}", flags.size() == 1 ? "" : "s", joined(flags, ", "));
}

// What the library reads as numbers although nobody can mean it: "nan" lies in every range, and "-1" and what is too long
// for the machine become other whole numbers.
void refuse_odd_numbers(CLI::App& app) {
  for (CLI::Option* option : app.get_options()) {
    const std::string type = option->get_type_name();
    if (type.starts_with("FLOAT"))
      option->check(CLI::Validator(
          [](std::string& text) {
            char* end = nullptr;
            const double value = std::strtod(text.c_str(), &end);
            return *end == '\0' && !std::isfinite(value) ? "expected a finite number, got " + text : std::string();
          },
          ""));
    if (type.starts_with("UINT"))
      option->check(CLI::Validator(
          [](std::string& text) {
            uint64_t value = 0;
            const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
            return error == std::errc() && end == text.data() + text.size()
                       ? std::string()
                       : "expected a whole number from 0 to 18446744073709551615, got " + text;
          },
          ""));
  }
}

}  // namespace

bool parse_flags(CLI::App& app, const std::string& name, int argc, const char* const* argv,
                 const ChoicesOf& choices_of) {
  refuse_odd_numbers(app);
  app.set_version_flag("--version", version_text(name), "the commit and variant it was built from");
  // Printed as --version is: by throwing what CLI11 throws for it.
  const auto add = [&](const char* flag, std::string (*text_of)(const Manual&)) {
    app.add_flag_callback(flag,
                          [&, text_of] {
                            std::string text = text_of(manual_of(app, name, build_commit(), choices_of));
                            text.pop_back();  // the printer ends the line
                            throw CLI::CallForVersion(text, 0);
                          })
        ->trigger_on_parse()
        ->group("");
  };
  add("--help-man", man_page);
  add("--help-completion", completion_words);
  try {
    const std::vector<std::string> words = with_empty_values(argc, argv);
    std::vector<const char*> pointers;
    for (const std::string& word : words) pointers.push_back(word.c_str());
    app.parse(static_cast<int>(pointers.size()), pointers.data());
    return true;
  } catch (const CLI::CallForHelp&) {
    fmt::print("{}", app.help());
  } catch (const CLI::CallForVersion& version) {
    fmt::print("{}\n", version.what());
  } catch (const CLI::ExtrasError&) {
    fail_input("{} (--help lists all flags)", extras_text(app.remaining(true)));
  } catch (const CLI::ParseError& error) {
    fail_input("{} (--help lists all flags)", error.what());
  }
  return false;
}

}  // namespace glia
