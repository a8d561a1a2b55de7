// Rules of an optimiser's own for the experts' weights: between the completed gradient and AdamW's update they change
// the gradient by what the experts' inputs were. To add one: a row in update_rule.cpp; its option, config.json and
// checkpoints follow.
#pragma once
#include <memory>
#include <span>

#include "engine/core/command_line/options.h"
#include "moe/experts.h"
#include "moe/step_statistics.h"

namespace glia {

class UpdateRule {
 public:
  virtual ~UpdateRule() = default;
  // What before_update() wants to know of a forward pass in training, reduced over micro-batches and ranks as each says.
  // Names begin with the rule's.     x [T, H]
  virtual std::vector<Statistic> observe(const Var& x, const Routing& routing) const = 0;
  // The gradients are complete and those of all ranks. Device ops only, so that a CUDA graph holds them.
  virtual void before_update(ParameterSet& set, const StepStatistics& step) const = 0;
};

using MakeUpdateRule = std::unique_ptr<UpdateRule>(ParameterSet& set, const std::string& layer_name,
                                                   const Experts& experts, const OptionValues& options);

struct UpdateRuleRow {
  const char* name;
  MakeUpdateRule* make;
  const char* formula;
  const char* source;
  const char* differs;  // from the source, and why
  std::span<const OptionRow> options = {};
};

std::span<const UpdateRuleRow> update_rule_registry();
// "update-rule", and the options of all rules.
std::vector<OptionRow> update_rule_options();
// The name of the rule that options ask for, or "none".
std::string update_rule_of(const OptionValues& options);
// nullptr where options say "none", which they do by default. Errors: a name that no row has.
std::unique_ptr<UpdateRule> make_update_rule(ParameterSet& set, const std::string& layer_name,
                                             const Experts& experts, const OptionValues& options);

}  // namespace glia
