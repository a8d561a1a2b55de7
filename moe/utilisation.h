// Utilisation U[c, e] of docs/science.md 4 for every layer, over all tokens and over CLS rows, summed up on the device.
#pragma once
#include "nn/feed_forward.h"

namespace glia {

class Utilisation {
 public:
  Utilisation(Context& context, int64_t layers, int64_t classes, int64_t n_experts);

  // routings [L] of one forward pass, labels int32 [B]. One launch a layer; waits for nothing.
  void add(const std::vector<Routing>& routings, const Tensor& labels, const Sequences& sequences);
  void reset() { sums_.zero(); }
  void reduce(Communicator& communicator);  // over ranks that measure a batch each

  struct Table {
    int64_t classes = 0, n_experts = 0;
    std::vector<double> mean;  // [C, E] row-major; rows sum to 1, rows of classes never seen are 0
    std::vector<double> rows;  // [C]: how many rows were averaged
  };
  struct Layer {
    Table all, cls;
  };
  std::vector<Layer> read() const;  // waits for the device

 private:
  Tensor sums_;  // float64 [L, 2, C, E + 1]
};

}  // namespace glia
