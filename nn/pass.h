// What one forward pass needs to know beside its input. Made for each pass and handed down; nothing is kept in
// globals.
#pragma once
#include <functional>

#include "engine/ops/ranks/sum_over_ranks.h"
#include "engine/ops/rows/rows.h"

namespace glia {

class LaterLosses;
class RowCache;

// Where forward and backward come to (Pass::forward_at, backward_at): the input of a layer's feed-forward network, what its attention
// has mixed, and the input of the first layer.
enum class ModelPlace { kFeedForward, kMixed, kFirst };

struct Pass {
  const Sequences& sequences;       // the rows' layout
  const Sequences& first_rows;      // the same sequences reduced to their first rows: row b is sequence b
  bool training = false;            // dropout, router noise
  DType compute = DType::kFloat32;  // of activations: bfloat16, float32, or float64 in tests
  double dropout = 0;               // 0 when not training
  RowOrder order = {};              // of the ids, or undefined
  // int32 [R]: the rows of the last layer that the head reads (−1: none, a row of zeros); undefined: the first row of
  // each sequence
  Tensor read = {};
  Tensor ids = {};      // int32 [T] of the tokens, for routers that read them
  Tensor labels = {};   // int32 [B]; undefined unless a router's trait asks for them
  Tensor borders = {};  // int32 [B]: so many rows of each sequence are its prompt; undefined: there is no border
  // int32 [T] (−1 in the tail): each row is told another row's context of its sequence, for an ablation; undefined: its own
  Tensor context_rows = {};
  RowCache* cache = nullptr;  // what earlier passes keep of the one sequence's earlier rows (nn/row_cache.h)
  Var previous_scores = {};   // [T, E] of the MoE layer before, or [T, E + X] (Routing); undefined in the first

  // Those rows.     x [T, ..] → [R, ..], or [B, ..]
  Var read_rows(const Var& x) const {
    return read.defined() ? gather_rows(x, read) : glia::first_rows(x, sequences);
  }
  const Tensor& read_index() const { return read.defined() ? read : sequences.first_rows; }

  // Of a micro-batch or a rank's batch, int32 [2]: how many tokens, and how many rows that are read, precede it in the
  // whole batch; undefined: none. Its rows then drop what they would drop in the whole.
  Tensor rows_before = {};

  // Where losses on routing wait for all layers, over several ranks (moe/losses/losses.h); nullptr: they are formed at once.
  LaterLosses* later = nullptr;

  // Over several ranks the rows of the word table's gradient, where they are gathered with what else is sent at a step's end; nullptr:
  // at once.
  RowsLater* words_later = nullptr;

  // Called in backward with a layer's number when it comes to what the layer's feed-forward network reads, and again at what its
  // attention has mixed; last at the input of the first layer. The gradients of all parameters behind that are complete. Empty: nobody
  // asks.
  std::function<void(int layer, ModelPlace)> backward_at = {};

  // Called in forward at the same places, in their order, before what reads them is launched; empty: nobody asks.
  std::function<void(int layer, ModelPlace)> forward_at = {};

  // x, which is what lies at that place.
  Var at(ModelPlace place, const Var& x, int layer = -1) const {
    if (forward_at) forward_at(layer, place);
    return backward_at ? when_differentiated(x, [call = backward_at, layer, place] { call(layer, place); }) : x;
  }

  // Each place that drops elements has a number of its own, counted through the model. `read`: its rows are those of
  // read_rows(), not all.
  RandomKey dropout_key(Context& context, uint32_t site, bool read = false) const {
    RandomKey key = context.random_key(purpose::kDropout + site);
    if (rows_before.defined()) key.first_row = static_cast<const uint32_t*>(rows_before.raw()) + (read ? 1 : 0);
    return key;
  }
};

// Dropout sites: embeddings 0; layer l: attention probabilities 1 + 3l, attention output 2 + 3l, FFN output 3 + 3l;
// then pooler.
namespace dropout_site {
constexpr uint32_t kEmbedding = 0;
constexpr uint32_t attention(int layer) { return 1 + 3 * static_cast<uint32_t>(layer); }
constexpr uint32_t attention_output(int layer) { return 2 + 3 * static_cast<uint32_t>(layer); }
constexpr uint32_t feed_forward(int layer) { return 3 + 3 * static_cast<uint32_t>(layer); }
constexpr uint32_t pooler(int layers) { return 1 + 3 * static_cast<uint32_t>(layers); }
}  // namespace dropout_site

}  // namespace glia
