// The flags of a DatasetOptions, for every tool that reads a data set: the rows of data_options().
#pragma once

#include <CLI/CLI.hpp>

#include "data/datasets/dataset.h"
#include "data/datasets/options.h"

namespace glia {

// What of the table a tool has a use for; it offers no other flags.
enum class DataFlags {
  kCsv,     // how a CSV file is read
  kTexts,   // which texts: the data set, its files and how they are read
  kTokens,  // and how they become ids
  kAll      // and how they are split and cut
};

// `given` collects the names of the flags that were typed; settle_data_options(o, given) follows the parsing.
inline void add_dataset_flags(CLI::App& app, DatasetOptions& o, std::set<std::string>& given, DataFlags which) {
  const auto has_use = [which](const std::string& name) {
    if (which == DataFlags::kAll) return true;
    if (which == DataFlags::kCsv)
      return name == "csv-text" || name == "csv-header" || name == "csv-separator" || name == "skip-bad-rows";
    for (const char* of_rows :
         {"max-rows", "max-test-rows", "validation-fraction", "cache", "only-topics", "prompt"})
      if (name == of_rows) return false;
    return which == DataFlags::kTokens || (name != "max-length" && name != "vocab");
  };
  for (const DataOption& option : data_options()) {
    if (!has_use(option.row.name)) continue;
    const bool is_switch = std::holds_alternative<bool>(option.row.standard);
    const std::string standard = option_text(option.row.standard);
    app.add_option_function<std::string>(
           std::string("--") + option.row.name,
           [&o, &given, &option, is_switch](const std::string& text) {
             set_data_option(o, option, is_switch && text.empty() ? "on" : text);
             given.insert(option.row.name);
           },
           standard.empty() ? option.row.help : fmt::format("{} [{}]", option.row.help, standard))
        ->expected(is_switch ? 0 : 1, 1)  // a bare switch is on
        ->take_last()
        ->type_name("")
        ->group("Data");
  }
}

}  // namespace glia
