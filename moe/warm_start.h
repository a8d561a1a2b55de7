// Starting from pretrained weights (docs/science.md 2): embeddings, attention, norms and pooler are copied, every expert
// is that layer's dense FFN plus a little noise, routers and classifier are fresh.
#pragma once
#include "moe/model.h"
#include "nn/weights/safetensors.h"

namespace glia {

struct WarmStartOptions {
  uint64_t seed = 42;    // of the noise
  double noise = 1e-4;   // standard deviation, on the experts' weights and biases
  bool copy_ffn = true;  // false: the FFN keeps its fresh numbers ("dense-random-ffn")
};

struct WarmStartReport {
  std::vector<std::string> copied, fresh;  // our names
};

// The file has Hugging Face's BERT names or ours. A tensor that should be copied and is not there, or has another
// shape, is an error that names it.
WarmStartReport warm_start(Model& model, const SafetensorsFile& file, const WarmStartOptions& options);

}  // namespace glia
