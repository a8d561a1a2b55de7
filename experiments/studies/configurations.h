// One row of a study: what is trained, what was published about it, how it is drawn.
#pragma once
#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "moe/mixture.h"

namespace glia {

struct Published {
  double value;
  std::optional<double> other;  // where the source's table disagrees with its figure
  std::string p;                // as printed ("<0.001"), against the study's first baseline; "": none
};

struct Look {
  std::array<uint8_t, 3> colour{};
  int marker = 0;              // of the plots' eight
  std::vector<double> dashes;  // of lines, in points; empty: solid
};

struct Configuration {
  std::string name;
  std::string router = "none";     // of the registry; "none": dense
  double balance = 0, energy = 0;  // α, β
  bool random_ffn =
      false;  // the dense FFN gets fresh numbers from a stream of its own, also where pretrained weights
              // are given
  std::vector<std::pair<std::string, std::string>>
      settings;                                // further flags of ./experiments/train and their values
  std::map<std::string, std::string> places;   // of its keys in the study's file, "zoo.study:12"
  std::string published_name;                  // its name in the published results; "": none
  std::map<std::string, Published> published;  // by the summary's names: "accuracy", "specialisation.4"
  std::optional<Look> look;

  MoeConfig moe(int64_t n_experts, int64_t top_k, bool second_residual) const {
    return {router, n_experts, top_k, balance, energy, second_residual};
  }
};

std::span<const Configuration> configurations();  // of the study ahr (docs/science.md 2)
// Of any built-in study, ahr's first. An unknown name is an error that lists the known ones.
const Configuration& configuration(std::string_view name);

}  // namespace glia
