// What the tables of routers and losses must be, row by row.
#include <regex>
#include <set>

#include "tests/moe/bench.h"

namespace glia::test {
namespace {

TEST_CASE("registry: names of routers, options and losses are words of a command line and of JSON, each once") {
  const std::regex word("[a-z][a-z0-9]*(-[a-z0-9]+)*");
  std::set<std::string> routers, of_losses = {"ce", "loss"};
  for (const LossRow& loss : loss_registry())
    for (const std::string& name : loss.names) EXPECT(of_losses.insert(name).second);
  std::set<std::string> flags;
  for (const OptionRow& option : shared_options()) {
    INFO(option.name);
    EXPECT(std::regex_match(option.name, word));
    EXPECT(flags.insert(option.name).second);
    EXPECT(error_of([&] { check_option(option, option.standard); }).empty());
  }
  for (const RouterRow& row : router_registry()) {
    INFO(row.name);
    EXPECT(std::regex_match(row.name, word));
    EXPECT(routers.insert(row.name).second);
    std::set<std::string> options;
    for (const OptionRow& option : row.options) {
      INFO(option.name);
      EXPECT(std::regex_match(option.name, word));
      EXPECT(options.insert(option.name).second);
      EXPECT(error_of([&] { check_option(option, option.standard); }).empty());
    }
  }
}

// All that a router says of a batch and keeps after it; "" where it refuses these options.
std::string told(const RouterRow& row, const OptionValues& own) {
  std::string text;
  const auto tell = [&](const Tensor& t) {
    if (t.defined())
      for (const double v : values(t)) text += fmt::format("{} ", v);
    text += "|";
  };
  const std::string error = error_of([&] {
    Bench bench(row.name, 4, 2, {5, 1, 7}, 0, own);
    for (const bool training : {true, true, false}) {
      const FeedForward::Result r = bench.run(bench.input(), false, training);
      tell(r.y.value());
      for (const AuxiliaryLosses& losses : r.routing.losses) {
        tell(losses.values.value());
        for (const double weight : losses.weights) text += fmt::format("{} ", weight);
      }
      text += fmt::format("{} ", r.routing.policy_discount);
      if (!training) continue;
      StepStatistics step;
      step.add(r.routing.statistics);
      bench.layer->after_step(step);
      for (const State& s : bench.set.states()) tell(s.value);
    }
  });
  return error.empty() ? text : "";
}

// Other values than the option's usual one.
std::vector<OptionValue> others_of(const OptionRow& option) {
  std::vector<OptionValue> others;
  if (const auto* on = std::get_if<bool>(&option.standard)) others.emplace_back(!*on);
  if (std::holds_alternative<std::string>(option.standard))
    for (const char* choice : option.choices) others.emplace_back(std::string(choice));
  for (const double value : {0.0, 0.5, 1.0, 2.0, 3.0, 4.0}) {
    if (value < option.least || value > option.most) continue;
    if (std::holds_alternative<double>(option.standard)) others.emplace_back(value);
    if (std::holds_alternative<int64_t>(option.standard)) others.emplace_back(static_cast<int64_t>(value));
  }
  return others;
}

TEST_CASE("registry: each option of a router changes something of what it does, if need be beside another one") {
  for (const RouterRow& row : router_registry()) {
    std::vector<OptionValues> beside = {{}};
    for (const OptionRow& option : row.options)
      for (const OptionValue& value : others_of(option)) beside.emplace_back().set(option.name, value);
    for (const OptionRow& option : row.options) {
      INFO(row.name, " --", option.name);
      EXPECT(std::ranges::any_of(beside, [&](const OptionValues& usual) {
        const std::string before = told(row, usual);
        return !before.empty() && std::ranges::any_of(others_of(option), [&](const OptionValue& value) {
          OptionValues own = usual;
          own.set(option.name, value);
          const std::string after = told(row, own);
          return !after.empty() && after != before;
        });
      }));
    }
  }
}

}  // namespace
}  // namespace glia::test
