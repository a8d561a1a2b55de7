// Flags whose text is one of a few: one table for the check and for the shell's completion.
#include <fmt/format.h>

#include <algorithm>

#include "data/datasets/dataset.h"
#include "engine/core/check.h"
#include "experiments/studies/study.h"
#include "experiments/tasks/task.h"
#include "experiments/training/options.h"
#include "moe/router.h"

namespace glia {
namespace {

struct Choices {
  const char* name;
  std::string Options::*member;
  std::vector<const char*> known;
  bool settled = false;  // "auto" may be typed, and is settled before the check
};

const std::vector<Choices>& all_choices() {
  static const std::vector<Choices> table = {
      {"protocol", &Options::protocol, {"clean", "paper"}},
      {"precision", &Options::precision, {"float32", "bfloat16"}, true},
      {"gradients", &Options::gradients, {"float32", "bfloat16"}, true},
      {"adam-state", &Options::adam_state, {"float32", "bfloat16"}},
      {"kernels", &Options::kernels, {"auto", "hopper", "portable"}},
      {"progress", &Options::progress, {"auto", "live", "lines", "off"}},
      {"tensorboard-times", &Options::tensorboard_times, {"steps", "real"}},
      {"reduction", &Options::reduction, {"fast", "exact"}},
      {"encoder", &Options::encoder, {"bert", "bag"}},
      {"norm", &Options::norm, {"post", "pre"}},
      {"position-encoding", &Options::position_encoding, {"learned", "rotary"}},
      {"padding", &Options::padding, {"packed", "padded"}},
      {"select", &Options::select, {"validation", "test", "last"}},
  };
  return table;
}

template <class Rows> std::vector<std::string> names_of(const Rows& rows, std::vector<std::string> first) {
  for (const auto& row : rows) first.emplace_back(row.name);
  return first;
}

}  // namespace

std::vector<std::string> flag_choices(const std::string& name) {
  for (const Choices& c : all_choices())
    if (name == c.name) {
      std::vector<std::string> known(c.known.begin(), c.known.end());
      if (c.settled) known.emplace_back("auto");
      return known;
    }
  if (name == "preset") return {"quick", "small", "paper", "auto"};
  if (name == "device") return {"cpu", "cuda", "auto"};
  if (name == "task") return names_of(task_registry(), {});
  if (name == "router") return names_of(router_registry(), {"none"});
  if (name == "dataset") return names_of(dataset_rows(), {"auto"});
  if (name == "study") return names_of(built_in_studies(), {});
  for (const DataOption& option : data_options())
    if (name == option.row.name) return {option.row.choices.begin(), option.row.choices.end()};
  for (const Flag& flag : flags())
    if (const auto* row = std::get_if<const OptionRow*>(&flag.member); row && name == flag.name)
      return {(*row)->choices.begin(), (*row)->choices.end()};
  return {};
}

void check_choices(const Options& o) {
  for (const Choices& c : all_choices()) {
    const std::string& got = o.*c.member;
    std::string list;
    for (const char* known : c.known) list += (list.empty() ? "" : ", ") + std::string(known);
    if (std::none_of(c.known.begin(), c.known.end(), [&](const char* known) { return got == known; }))
      fail_input("--{}: expected one of {}; got '{}'", c.name, list, got);
  }
}

}  // namespace glia
