// docs/results/<study>.md and the list of what was run; everything from a summary.
#include <fmt/format.h>

#include "engine/core/file.h"
#include "experiments/report/answer.h"
#include "experiments/report/tables.h"

namespace glia::results {
namespace {

std::string flat(const Json& object) {  // {"lr": 2e-4, "batch": 192} → "lr 0.0002, batch 192"
  std::string text;
  for (const auto& [key, value] : object.items())
    if (value != "")
      text += fmt::format("{}{} {}", text.empty() ? "" : ", ", key,
                          value.is_string() ? value.get<std::string>() : value.dump());
  return text;
}

}  // namespace

std::vector<std::pair<std::string, std::string>> provenance(const Summary& s) {
  const RunConfig& c = s.common;
  std::string classes;
  for (const auto& name : c.data.class_names) classes += (classes.empty() ? "" : ", ") + name;
  Json model = c.model;
  for (const char* key : {"experts", "top_k"})  // of the first run, which is dense as a rule
    model.erase(key);
  const std::string told = c.data.options.value("prompt", "none"),
                    prompt = told == "none" ? "" : fmt::format("; prompts: {}", told);
  size_t done = 0;
  for (const RunLine& run : s.runs) done += run.state == RunState::done;
  return {{"Study", fmt::format("{}: {}", s.study.name, s.study.title)},
          {"Protocol", fmt::format("{}{}{}", c.protocol, c.options.empty() ? "" : ": ", flat(c.options))},
          {"Data", fmt::format("{}{}: {} training, {} validation, {} test rows; {}{}", c.data.name,
                               c.data.synthetic ? " (synthetic)" : "", c.data.train_rows, c.data.validation_rows,
                               c.data.test_rows, classes, prompt)},
          {"Model", fmt::format("preset {}: {}", c.preset, flat(model))},
          {"Training", fmt::format("{}, {}", c.precision, flat(c.train))},
          {"Runs", fmt::format("{} finished of {}, {} seed{}", done, s.runs.size(), s.seeds.size(),
                               s.seeds.size() == 1 ? "" : "s")},
          {"Device", c.device},
          {"Commit", c.commit},
          {"Command", c.command}};
}

std::string results_markdown(const Summary& s, const std::vector<Table>& further) {
  std::string text = "# Results\n\nGenerated from `summary.json` by `./tools/report`; do not edit.\n\n";
  for (const auto& [label, value] : provenance(s))
    text +=
        fmt::format("- **{}**: {}\n", label,
                    label == "Command" || label == "Commit" ? fmt::format("`{}`", value) : markdown_text(value));
  if (s.seconds > 0) text += fmt::format("- **Duration**: {} over all runs\n", format_duration(s.seconds));
  for (const std::string& answer : answers(s)) text += "\n" + answer + "\n";
  if (!s.warnings.empty()) text += "\n### Warnings\n\n";
  for (const std::string& warning : s.warnings) text += "- " + markdown_text(warning) + "\n";
  text += "\n";
  for (const std::vector<Table>& tables : {all_tables(s), further})
    for (const Table& table : tables) text += as_markdown(table) + "\n";
  text.pop_back();
  return text;
}

void write_results_md(const std::string& path, const Summary& s, const std::vector<Table>& further) {
  write_file_atomic(path, results_markdown(s, further));
}

}  // namespace glia::results
