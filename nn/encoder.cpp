#include "nn/encoder.h"

#include "engine/ops/sequences/sequences.h"

namespace glia {

EncoderLayer::EncoderLayer(ParameterSet& set, const std::string& name, const BertConfig& c, int layer,
                           const MakeFeedForward& make)
    : attention(set, name + ".attention", c, layer),
      feed_forward(make(set, name, layer)),
      norm(set, name + ".norm", c.hidden, c.layer_norm_eps),
      layer_(layer),
      pre_norm_(c.pre_norm) {
  if (feed_forward->second_residual() && pre_norm_)
    fail_input("{}: expected post-norm layers with the second residual, got pre-norm ones", name);
  if (feed_forward->second_residual())
    second_norm = std::make_unique<LayerNorm>(set, name + ".second_norm", c.hidden, c.layer_norm_eps);
}

EncoderLayer::Result EncoderLayer::forward(const Var& input, const Pass& pass, bool read_rows_only) const {
  const bool early = read_rows_only && !feed_forward->reads_all_rows();
  const Var x = early ? pass.read_rows(input) : input;
  // Attention has a kernel for first rows alone; of other rows it is taken from all.
  Var mixed = pass.at(ModelPlace::kMixed, attention.mix(input, pass, early && !pass.read.defined()), layer_);
  if (early && pass.read.defined()) mixed = pass.read_rows(mixed);
  Var h = attention.finish(mixed, x, pass, early);
  if (second_norm) h = second_norm->residual(h, x, 0, {});
  h = pass.at(ModelPlace::kFeedForward, h, layer_);
  FeedForward::Result r = feed_forward->forward(before_feed_forward(h), pass, read_rows_only);
  if (pre_norm_ && read_rows_only && !early) h = pass.read_rows(h);
  Var y = behind_feed_forward(r, h, pass, read_rows_only);
  return {std::move(y), std::move(r.routing)};
}

Var EncoderLayer::behind_feed_forward(const FeedForward::Result& r, const Var& x, const Pass& pass,
                                      bool read_rows_only) const {
  const RandomKey key = pass.dropout_key(x.context(), dropout_site::feed_forward(layer_), read_rows_only);
  if (pre_norm_) return add_branch(r.y, r.bias, x, pass.dropout, key);
  return norm.residual(r.y, r.x, pass.dropout, key, r.bias);
}

Bert::Bert(ParameterSet& set, const BertConfig& c, const EncoderLayer::MakeFeedForward& make)
    : embeddings(set, "embeddings", c), layers([&] {
        std::vector<EncoderLayer> all;
        for (int l = 0; l < c.layers; ++l) all.emplace_back(set, fmt::format("encoder.layer.{}", l), c, l, make);
        return all;
      }()) {
  if (c.pre_norm) norm.emplace(set, "encoder.norm", c.hidden, c.layer_norm_eps);
}

Bert::Result Bert::forward(const Tensor& ids, const Pass& pass, bool last_layer_read_rows_only) const {
  Result result;
  Var x = pass.at(ModelPlace::kFirst, embeddings(ids, pass));
  Pass here = pass;
  here.ids = ids;
  for (const EncoderLayer& layer : layers) {
    const bool last = &layer == &layers.back();
    EncoderLayer::Result r = layer.forward(x, here, last && last_layer_read_rows_only);
    x = r.y;
    if (const Var& scores = scores_for_next(r.routing); scores.defined()) here.previous_scores = scores;
    result.routings.push_back(std::move(r.routing));
  }
  result.hidden = layers.empty() || !last_layer_read_rows_only ? pass.read_rows(x) : x;
  if (norm) result.hidden = (*norm)(result.hidden);
  return result;
}

std::unique_ptr<FeedForward> make_dense(ParameterSet& set, const std::string& layer_name,
                                        const BertConfig& config) {
  return std::make_unique<DenseFeedForward>(set, layer_name + ".ffn", config);
}

}  // namespace glia
