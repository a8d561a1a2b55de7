// gradcheck: every row of the table of ops, layers, routers and models, handwritten gradients against finite
// differences.
#include "tests/cases/gradcheck.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "engine/core/build_info.h"
#include "engine/core/file.h"
#include "tools/tool.h"

using namespace glia;

namespace {

const char* word(GradcheckResult::Verdict v) {
  switch (v) {
    case GradcheckResult::Verdict::kPass: return "pass";
    case GradcheckResult::Verdict::kFail: return "FAIL";
    default: return "declares no gradient";
  }
}

nlohmann::json as_json(const GradcheckResult& r) {
  return {{"case", r.name},
          {"inputs", r.inputs},
          {"checks", r.checks},
          {"max_relative_error", r.worst},
          {"worst_input", r.worst_input},
          {"verdict", word(r.verdict)},
          {"seconds", r.seconds},
          {"error", r.error}};
}

int check(const std::string& device, const std::string& filter, const std::string& json,
          const GradcheckOptions& options) {
  Context context(Device::parse(device));
  const std::vector<OpCase>& cases = op_cases();
  const auto asked = [&](const OpCase& c) { return c.name.find(filter) != std::string::npos; };
  if (std::none_of(cases.begin(), cases.end(), asked))
    fail_input("--filter: no case has '{}' in its name; --list shows them", filter);
  size_t width = 4;
  for (const OpCase& c : cases)
    if (asked(c)) width = std::max(width, c.name.size());
  nlohmann::json rows = nlohmann::json::array();
  int passed = 0, failed = 0, none = 0;
  fmt::print("gradients in float64 on {}, seed {}, bound {:g}\n", context.backend().description(), options.seed,
             options.bound);
  fmt::print("{:<{}} {:>6} {:>7} {:>10} {:>7}  verdict\n", "case", width, "inputs", "checks", "max error", "ms");
  for (const OpCase& c : cases) {
    if (!asked(c)) continue;
    const GradcheckResult r = gradcheck(context, c, options);
    const bool failure = r.verdict == GradcheckResult::Verdict::kFail;
    const std::string why = !failure          ? ""
                            : r.error.empty() ? fmt::format(": input {}", r.worst_input)
                                              : ": " + r.error;
    fmt::print("{:<{}} {:>6} {:>7} {:>10.1e} {:>7.1f}  {}{}\n", r.name, width, r.inputs, r.checks, r.worst,
               1e3 * r.seconds, word(r.verdict), why);
    ++(r.verdict == GradcheckResult::Verdict::kPass   ? passed
       : r.verdict == GradcheckResult::Verdict::kFail ? failed
                                                      : none);
    rows.push_back(as_json(r));
  }
  fmt::print("{} passed, {} failed, {} without a gradient\n", passed, failed, none);
  if (!json.empty())
    write_file_atomic(json, nlohmann::json{{"commit", build_commit()},
                                           {"device", context.backend().description()},
                                           {"seed", options.seed},
                                           {"bound", options.bound},
                                           {"cases", rows}}
                                    .dump(1) +
                                "\n");
  return failed ? 1 : 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Checks every handwritten gradient against finite differences, in float64.");
  std::string device = "cpu", filter, json;
  bool list = false;
  GradcheckOptions options;
  app.add_option("--device", device, "cpu, cuda or cuda:N")->capture_default_str();
  app.add_option("--filter", filter, "only cases whose name contains this");
  app.add_flag("--list", list, "print the cases and leave");
  app.add_option("--json", json, "write the results to this file too");
  app.add_option("--seed", options.seed, "of inputs, projections and directions")->capture_default_str();
  app.add_option("--plant-error", options.plant_error, "multiply one gradient of this case by 1.001: must fail")
      ->group("");
  return run_tool("gradcheck", app, argc, argv, [&] {
    if (!list) return check(device, filter, json, options);
    for (const OpCase& c : op_cases()) fmt::print("{}\n", c.name);
    return 0;
  });
}
