// What one token costs in a forward pass, so that routers are compared at the same cost or the difference is seen.
#pragma once
#include "moe/model.h"

namespace glia {

struct TokenCost {
  double parameters = 0;  // that its row meets: all but embedding tables and the experts it is not sent to
  double flops = 0;       // 2 a weight of every product that its row passes; attention's own products aside
};

// Experts of a token where loads are even: K, or what the router's row says. Where their number is learned: the most.
double expected_experts(const MoeConfig& config);
// The same in words: "2 experts", "up to 8 experts", or what a mixture makes of all; "": dense.
std::string experts_in_words(const MoeConfig& config);
// `experts`: of a token, on the mean; `length`: of a sequence, on the mean. A dense model has no experts. Last layers that
// only compute rows which are read, and heads, which read one row a sequence, are counted for every row.
TokenCost token_cost(const ModelConfig& config, double experts, double length);

}  // namespace glia
