// ReMoE's weight of its sparsity loss (Wang et al. 2024, arXiv 2412.14711): one number for all layers, a factor larger
// after a step in which more experts than wanted were active on the mean over the layers, else a factor smaller.
#pragma once
#include "engine/tensor.h"

namespace glia {

// One layer's part of a step; the layers of a step come one after the other, the one with `first` before the others. After
// each the weight is what the layers so far give, so it needs no count of layers.
//     weight [1]; progress [3]: the weight before the step, Σ shares, layers; counts [E] pairs of each expert; tokens [1];
//     all in one dtype, float32 or float64
void update_sparsity_weight(const Tensor& weight, const Tensor& progress, const Tensor& counts,
                            const Tensor& tokens, double wanted_share, double factor, bool first);

}  // namespace glia
