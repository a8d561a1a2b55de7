// Starting from pretrained weights (docs/science.md 2): embeddings, attention, norms and pooler are copied, every expert
// is that layer's dense FFN plus a little noise, routers and classifier are fresh. Weights of our own MoE models give
// their experts as they are.
#pragma once
#include "moe/model.h"
#include "nn/weights/weights.h"

namespace glia {

struct WarmStartOptions {
  uint64_t seed = 42;    // of the noise
  double noise = 1e-4;   // standard deviation, on the weights and biases of experts that are copies of a dense FFN
  bool copy_ffn = true;  // false: the FFN keeps its fresh numbers ("dense-random-ffn")
  bool drop_layers = false;   // layers of the file above the model's are left out; else they are an error
  bool copy_routers = false;  // and their state: for weights of a model with the same router
  bool copy_head = false;     // the classifier too: for weights of a model with the same classes
};

struct WarmStartReport {
  std::vector<std::string> copied, fresh;  // our names
  std::vector<std::string> unused;         // the file's
};

// The file has Hugging Face's BERT names or ours. A tensor that should be copied and is not there, or has another
// shape, is an error that names it; only a head may be missing, and is then fresh.
WarmStartReport warm_start(Model& model, const Weights& weights, const WarmStartOptions& options);

}  // namespace glia
