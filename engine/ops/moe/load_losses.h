// What the load losses of several layers are made of, for all of them at once: where losses are formed behind the last layer.
#pragma once
#include "engine/ops/moe/moe.h"

namespace glia {

struct LayerPairs {
  Var gates;       // [T, K]
  Tensor experts;  // int32 [T, K]
};
// The importance of each as loads_of() has it, in two launches for up to 32 layers and one for their gradients.     → [E] each
std::vector<Var> importance_of_layers(const std::vector<LayerPairs>& layers, int64_t n_experts);

}  // namespace glia
