// The classifier that the experiments train: BERT with dense FFNs or experts, its losses and its weights, in one
// object.
#pragma once
#include <map>

#include "moe/mixture.h"
#include "nn/encoder.h"

namespace glia {

struct ModelConfig {
  BertConfig bert;
  MoeConfig moe;
  DType compute =
      DType::kFloat32;  // bfloat16: float32 masters with a bfloat16 copy; float64: everything, for tests
  bool bfloat16_gradients = false;  // with bfloat16: the gradients of the products' weights too (ParameterSet)
  bool last_layer_cls_only = true;  // exact (docs/science.md 6.2); false computes the rows that nobody reads
};

struct Batch {
  Tensor ids;     // int32 [T]; −1 or anything valid in the tail
  Tensor labels;  // int32 [B], or undefined: no loss
  Sequences sequences;
  RowOrder order;  // of the ids, where the host has made it; the gradient then needs no sort
};

class Model {
 public:
  // Weights are drawn from the seed, on the context's device.
  Model(Context& context, const ModelConfig& config, uint64_t seed);
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  struct Output {
    Var logits;    // [B, C] float32 (float64)
    Var loss;      // [] cross-entropy + weighted auxiliary losses averaged over layers; undefined without labels
    Tensor parts;  // [P], unweighted, auxiliary ones averaged over layers
    std::vector<std::string> part_names;  // [P]: "ce", then what the router has: "balance", "energy", …
    std::vector<Routing> routings;        // [L]; n_experts 0 for a dense layer
  };
  // Dropout and router noise in training, with the context's step as their key. Nothing waits for the device,
  // except that the first pass with a new B uploads the layout of B rows: run one before capturing a CUDA graph.
  Output forward(const Batch& batch, bool training) const;

  ParameterSet& parameters() { return parameters_; }
  const ParameterSet& parameters() const { return parameters_; }
  const ModelConfig& config() const { return config_; }
  Context& context() const { return context_; }
  const Bert& bert() const { return *bert_; }
  // To be called after the optimiser's update, with the routings of all forward passes of the step: routers that keep
  // state change it. Device work only; nothing for routers without state.
  void after_step(const StepRoutings& step) const;

  // State that is not trained, with its full name; the tensors are the model's own.
  std::vector<Statistic> router_state() const;
  // Gives every dense FFN new numbers from a stream of its own: "dense-random-ffn".
  void randomise_ffn(uint64_t seed);

 private:
  const Sequences& first_rows(int64_t count) const;

  Context& context_;
  ModelConfig config_;
  ParameterSet parameters_;
  std::unique_ptr<Bert> bert_;
  mutable std::map<int64_t, Sequences> first_rows_;  // by B: B sequences of one row each
};

}  // namespace glia
