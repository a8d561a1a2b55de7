// The nine configurations of docs/science.md 2.
#pragma once
#include <span>
#include <string_view>

#include "moe/mixture.h"

namespace glia {

struct Configuration {
  const char* name;
  const char* router;      // of the registry; "none": dense
  double balance, energy;  // α, β
  bool random_ffn;  // the dense FFN gets fresh numbers from a stream of its own, also where pretrained weights are
                    // given
  const char* published;  // its name in the published results

  MoeConfig moe(int64_t n_experts, int64_t top_k, bool second_residual) const {
    return {router, n_experts, top_k, balance, energy, second_residual};
  }
};

std::span<const Configuration> configurations();
// An unknown name is an error that lists the known ones.
const Configuration& configuration(std::string_view name);

}  // namespace glia
