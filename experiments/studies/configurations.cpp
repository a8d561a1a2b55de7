#include "experiments/studies/configurations.h"

#include <string>

namespace glia {
namespace {

constexpr Configuration kConfigurations[] = {
    {"dense", "none", 0, 0, false, "dense"},
    {"dense-random-ffn", "none", 0, 0, true, "dense-random-ffn"},
    {"softmax-moe", "softmax", 0.01, 0, false, "softmax-E8-LB0.01-EN0.0"},
    {"softmax-moe-energy", "softmax", 0.01, 0.01, false, "softmax-E8-LB0.01-EN0.01"},
    {"astrocyte", "astrocyte", 0.01, 0.01, false, "astrocyte-E8-LB0.01-EN0.01"},
    {"astrocyte-no-energy", "astrocyte", 0.01, 0, false, "astrocyte-E8-LB0.01-EN0.0"},
    {"astrocyte-unleashed", "astrocyte", 0, 0.05, false, "astrocyte-E8-LB0.0-EN0.05"},
    {"astrocyte-hierarchical", "astrocyte-hierarchical", 0.01, 0.01, false,
     "astrocyte-hierarchical-E8-LB0.01-EN0.01"},
    {"astrocyte-meanpool", "astrocyte-meanpool", 0.01, 0.01, false, "astrocyte-meanpool-E8-LB0.01-EN0.01"},
};

}  // namespace

std::span<const Configuration> configurations() { return kConfigurations; }

const Configuration& configuration(std::string_view name) {
  std::string known;
  for (const Configuration& c : kConfigurations) {
    if (name == c.name) return c;
    known += (known.empty() ? "" : ", ") + std::string(c.name);
  }
  fail_input("configuration: expected one of {}; got '{}'", known, name);
}

}  // namespace glia
