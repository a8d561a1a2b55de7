// What the experiments train: BERT with dense FFNs or experts, a head for the task, its losses and its weights, in one
// object.
#pragma once
#include <map>

#include "moe/mixture.h"
#include "nn/bag.h"
#include "nn/encoder.h"
#include "nn/head.h"
#include "nn/trained_part.h"

namespace glia {

struct ModelConfig {
  BertConfig bert;
  MoeConfig moe;
  DType compute =
      DType::kFloat32;  // bfloat16: float32 masters with a bfloat16 copy; float64: everything, for tests
  bool bfloat16_gradients = false;  // with bfloat16: the gradients of the products' weights too (ParameterSet)
  double loss_scale = 1;            // times the weights of all losses but the task's
  bool last_layer_cls_only = true;  // exact (docs/science.md 6.2); false computes the rows that nobody reads
  MakeHead head = make_classification_head;
  BagConfig
      bag;  // used: a bag of n-grams in the encoder's place, with a linear head; layers and moe then have no part
  TrainedPart trained;
};

struct Batch {
  Tensor ids;     // int32 [T]; −1 or anything valid in the tail
  Tensor labels;  // int32 [B]: the topic of each sequence, or −1: none
  Sequences sequences;
  RowOrder order;  // of the ids, where the host has made it; the gradient then needs no sort
  // What the head is to predict, and from which rows. Undefined targets: the labels, from first rows (classification);
  // with neither there is no loss.
  Tensor targets = {};  // int32 [R], −1: none
  Tensor read = {};     // int32 [R], −1: none
  // Of a part of a larger batch, or undefined: rows_before as in nn/pass.h, and the part's share of the whole batch's loss,
  // written several times (experiments/training/step.h).
  Tensor rows_before = {}, share = {};
  std::function<void(int layer, ModelPlace)> forward_at = {}, backward_at = {};  // as in nn/pass.h
  RowsLater* words_later = nullptr;                                              // likewise
  Tensor borders = {};       // int32 [B], or undefined: so many rows of each sequence are its prompt
  Tensor context_rows = {};  // int32 [T], or undefined: as in nn/pass.h
};

// Of a causal model (BertConfig) a router or a mixture that looks ahead is an error that names it and says why.
void check_causal(const ModelConfig& config);
// The encoder with its FFNs or mixtures, declared; nothing is drawn yet.
std::unique_ptr<Bert> make_bert(ParameterSet& set, const ModelConfig& config);

class Model {
 public:
  // Weights are drawn from the seed, on the context's device.
  Model(Context& context, const ModelConfig& config, uint64_t seed);
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  struct Output {
    Var logits;  // [B, C] float32 (float64); undefined where the head does not hold them
    Var loss;    // [] the task's + weighted auxiliary losses averaged over layers; undefined without targets
    Tensor row_losses, sums;  // of the head (nn/head.h)
    Tensor parts;             // [P], unweighted, auxiliary ones averaged over layers
    std::vector<std::string>
        part_names;  // [P]: "ce" (the task's cross-entropy), then what the router has: "balance", "energy", …
    std::vector<Routing> routings;  // [L]; n_experts 0 for a dense layer
  };
  // Dropout and router noise in training, with the context's step as their key. Nothing waits for the device,
  // except that the first pass with a new B uploads the layout of B rows: run one before capturing a CUDA graph.
  Output forward(const Batch& batch, bool training) const;

  ParameterSet& parameters() { return parameters_; }
  const ParameterSet& parameters() const { return parameters_; }
  const ModelConfig& config() const { return config_; }
  Context& context() const { return context_; }
  const Bert& bert() const;  // an error for a bag of n-grams, which has none
  const Head& head() const { return *head_; }
  // To be called between the completed gradients, those of all ranks, and the optimiser's update, as after_step() is.
  void before_update(const StepRoutings& step);
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
  std::unique_ptr<Bert> bert_;  // this or the bag
  std::unique_ptr<Bag> bag_;
  std::unique_ptr<Head> head_;
  mutable std::map<int64_t, Sequences> first_rows_;  // by B: B sequences of one row each
};

}  // namespace glia
