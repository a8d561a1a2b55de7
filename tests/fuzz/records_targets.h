// What the fuzzers check on any bytes as a file of a result folder, and as a command line; the test program replays the
// inputs that they found.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "engine/core/check.h"
#include "experiments/records/results.h"
#include "experiments/report/summary.h"
#include "experiments/training/options.h"

namespace glia::fuzz {

// Understood, or refused by an error that begins as `start` says.
template <class Read> void refused_or_read(const char* what, std::string_view start, Read&& read) {
  try {
    read();
  } catch (const Error& error) {
    const std::string message = error.what();
    CHECK(message.starts_with(start), "{}: {}", what, message);
  }
}

// What is written from what was read is read again as the same.
template <class From> void survives(const char* what, const results::Json& json, From&& from) {
  const results::Json once = to_json(from(json, "fuzz"));
  const results::Json twice = to_json(from(once, "fuzz"));
  CHECK(once.dump() == twice.dump(), "{}: {} became {}", what, once.dump(), twice.dump());
}

// The first byte says which file: c config.json, e eval.json, t and v a line of metrics.jsonl, m all of it,
// s summary.json, u a utilisation CSV, y a study.
inline void records(std::string_view input) {
  using namespace results;
  if (input.empty()) return;
  const std::string text(input.substr(1));
  const auto json = [&](auto&& from) {
    const Json parsed = Json::parse(text, nullptr, false);
    if (parsed.is_object()) survives("json", parsed, from);
  };
  refused_or_read("records", "fuzz", [&] {
    switch (input[0]) {
      case 'c': return json(run_config_from);
      case 'e': return json(evaluation_from);
      case 't': return json(train_point_from);
      case 'v': return json(eval_point_from);
      case 's': return json(summary_from);
      case 'm': {
        const Metrics all = metrics_from(text, "fuzz"), some = metrics_from(text, "fuzz", 2);
        CHECK(some.train.size() <= all.train.size(), "metrics: {} of {}", some.train.size(), all.train.size());
        return;
      }
      case 'u': {
        const UtilisationFile file = utilisation_from(text, "fuzz");
        const UtilisationFile again = utilisation_from(utilisation_csv(file.u, file.topics), "fuzz");
        CHECK(again.topics == file.topics && again.u.values == file.u.values, "utilisation: not the same again");
        return;
      }
      case 'y': {
        const Study study = parse_study(text, "fuzz");
        CHECK(study.text == text, "study: its text is kept");
        return;
      }
      default: return;
    }
  });
}

// Words separated by line ends, as run_all's and train's flags. What is accepted survives its own echo.
inline void flags(std::string_view input) {
  std::vector<std::string> words{"fuzz"};
  for (size_t at = 0; at < input.size() && words.size() < 40;) {
    const size_t end = std::min(input.find('\n', at), input.size());
    words.emplace_back(input.substr(at, end - at));
    at = end + 1;
  }
  std::vector<const char*> argv;
  for (const std::string& word : words) argv.push_back(word.c_str());
  for (const Flag::Programs program : {Flag::kRunAll, Flag::kTrainOnly}) {
    CommandLine line;
    line.done = true;
    refused_or_read("flags", "",
                    [&] { line = parse_command_line(static_cast<int>(argv.size()), argv.data(), program, ""); });
    if (line.done) continue;
    for (const std::string& name : line.given) {
      const Flag& flag = find_flag(name);
      Options again;
      set_value(again, flag, value_text(line.options, flag));
      CHECK(value_text(again, flag) == value_text(line.options, flag), "flags: --{} does not survive its echo",
            name);
    }
    refused_or_read("flags", "", [&] { check_options(line.options), parse_seeds(line.options.seeds); });
  }
}

}  // namespace glia::fuzz
