#include "moe/router_page.h"

#include <cmath>

namespace glia {
namespace {

std::string bounds_of(const OptionRow& o) {
  std::string text;
  for (const char* choice : o.choices) text += (text.empty() ? "one of " : ", ") + std::string(choice);
  if (!text.empty() || std::isinf(o.most)) return text;
  return fmt::format("{} … {}", o.least, o.most);
}

}  // namespace

std::string router_page(const RouterRow& row) {
  std::string page =
      fmt::format("# {}\n\nGenerated from the router's row by `./tools/router_pages`; do not edit.\n\n", row.name);
  page += fmt::format("    {}\n\nSource: {}.\n\n", row.formula, row.source);
  const RouterTraits& t = row.traits;
  page += fmt::format(
      "| trait | |\n|---|---|\n| a token's gates sum to 1 | {} |\n| every token has K experts | {} |\n"
      "| permuting experts permutes nothing else | {} |\n| reads later tokens (not causal) | {} |\n"
      "| scores are linear in the token, for losses on its matrix | {} |\n"
      "| its scores have no z-loss | {} |\n"
      "| wants labels in training | {} |\n| untrained by design | {} |\n| keeps state between steps | {} |\n\n",
      t.gates_sum_to_one ? "yes" : "no", t.fixed_k ? "yes" : "no", t.experts_permutable ? "yes" : "no",
      t.reads_future ? "yes" : "no", t.linear ? "yes" : "no", t.normalised ? "yes" : "no",
      t.needs_labels ? "yes" : "no", t.untrained ? "yes" : "no", t.stateful ? "yes" : "no");
  page +=
      "| option | default | range | meaning |\n|---|---|---|---|\n| `--top-k` | 2 | 1 … experts | experts a token |\n";
  for (const OptionRow& o : row.options)
    page += fmt::format("| `--{}` | {} | {} | {} |\n", o.name, option_text(o.standard), bounds_of(o), o.help);
  if (!row.losses.empty()) page += "\nLosses that come with it, each with a flag of its own:";
  for (const LossDefault& loss : row.losses) page += fmt::format(" `--{} {}`", loss.option, loss.weight);
  if (!row.losses.empty()) page += ".\n";
  page += fmt::format(
      "\nRun it: `./experiments/train --config softmax-moe --router {0} --name {0}`. Its oracle in float64, which the tests "
      "compare it with, stands beside it in `moe/routers/`.\n",
      row.name);
  return page;
}

}  // namespace glia
