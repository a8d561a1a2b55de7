// A model's forward pass layer by layer, in evaluation: what a router reads is known nowhere else, and what a layer says may
// be changed on the way. What would the model predict if other experts had been asked?
#pragma once
#include <functional>

#include "moe/model.h"
#include "moe/moe_layer.h"

namespace glia {

struct WalkedLayer {
  size_t number;  // from 0
  const EncoderLayer& layer;
  const Var& h;  // [T, H] what stands in the FFN's place reads
  const Pass& pass;
};

// Calls f(layer, result) behind each layer's FFN or mixture, which computes all rows; f may change the result. → what the
// head says of the rows that are read and of the batch's targets where it has any (a language model's: row losses, but no logits). Without
// a change it is the model's own up to rounding.
Head::Result walk(const Model& model, const Batch& batch,
                  const std::function<void(const WalkedLayer&, FeedForward::Result&)>& f);

// One layer's choices on the host.
struct Choices {
  std::vector<int32_t> experts;  // [T, S]; −1: nobody
  std::vector<double> gates;     // [T, S]
  int64_t slots = 0;
  explicit Choices(const Routing& routing);
};

// The routed experts of what stands in an FFN's place, shared ones beside them or not; nullptr where there are none.
const MoeLayer* find_routed(const FeedForward& layer);
// An error that names the first layer without.
void require_routed(const Model& model);
// The layer of routed experts, or an error that names the layer.
const MoeLayer& routed_layer(const WalkedLayer& layer);

// The result with other choices of the same shape in the place of its own; what stands beside the experts stays. An expert
// that was there may be −1, or another.
void replace_choices(const WalkedLayer& layer, FeedForward::Result& result, const Choices& choices);

// What every expert makes of the same rows.     h [T, H] → [E] of [T, H]
std::vector<Tensor> outputs_of_all(const MoeLayer& layer, const Var& h);

}  // namespace glia
