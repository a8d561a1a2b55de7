// A transformer layer and a stack of them, without a head (nn/head.h): BERT's encoder with post-norm layers (Devlin et al.
// 2019), or a decoder where its rows see no later ones (BertConfig::causal), with pre-norm layers on request (Radford et al.
// 2019, GPT-2).
#pragma once
#include <functional>

#include "nn/attention.h"
#include "nn/embedding.h"
#include "nn/feed_forward.h"

namespace glia {

class EncoderLayer {
 public:
  using MakeFeedForward =
      std::function<std::unique_ptr<FeedForward>(ParameterSet&, const std::string& layer_name, int layer)>;

  EncoderLayer(ParameterSet& set, const std::string& name, const BertConfig& config, int layer,
               const MakeFeedForward& make);

  // x [T, H] → [T, H]; with read_rows_only → the rows that the pass reads: each sequence's first, [B, H], or [R, H].
  // That is exact, not an approximation: the other rows' outputs are read by nobody after the last layer, and
  // everything after attention works row by row.
  struct Result {
    Var y;
    Routing routing;
  };
  Result forward(const Var& x, const Pass& pass, bool read_rows_only) const;
  // Its two ends, for whoever changes what lies between. What the FFN's place reads, from what attention left; and the
  // layer's output, from what stands there made of it, where `x` are the rows of attention's that it belongs to.
  Var before_feed_forward(const Var& x) const { return pre_norm_ ? norm(x) : x; }
  Var behind_feed_forward(const FeedForward::Result& r, const Var& x, const Pass& pass, bool read_rows_only) const;

  SelfAttention attention;
  std::unique_ptr<FeedForward> feed_forward;
  std::unique_ptr<LayerNorm> second_norm;  // where feed_forward->second_residual()
  LayerNorm norm;

 private:
  int layer_;
  bool pre_norm_;
};

class Bert {
 public:
  Bert(ParameterSet& set, const BertConfig& config, const EncoderLayer::MakeFeedForward& make);

  struct Result {
    Var hidden;                     // the rows that the pass reads: [B, H] first rows, or [R, H]
    std::vector<Routing> routings;  // [L]
  };
  // ids int32 [T]; positions follow from the pass's sequences
  Result forward(const Tensor& ids, const Pass& pass, bool last_layer_read_rows_only) const;

  Embeddings embeddings;
  std::vector<EncoderLayer> layers;
  std::optional<LayerNorm> norm;  // behind the last of pre-norm layers, of the rows that are read
};

// Dense FFNs named "<layer>.ffn".
std::unique_ptr<FeedForward> make_dense(ParameterSet& set, const std::string& layer_name, const BertConfig& config);

}  // namespace glia
