// Utilisation U[c, e] of docs/science.md 4 for every layer, over all tokens and over CLS rows, summed up on the device.
// Where gates do not sum to 1 or a token may have no expert, two more tables of the same form say whose each token is: by
// gate mass, each token's divided by its sum, and by choices, each token's divided by their number.
#pragma once
#include "nn/feed_forward.h"

namespace glia {

class Utilisation {
 public:
  // `shares`: the two tables, over the E experts and, behind them, the `columns` of the routings outside E.
  Utilisation(Context& context, int64_t layers, int64_t classes, int64_t n_experts, bool shares = false,
              int64_t columns = 0);

  // routings [L] of one forward pass, labels int32 [B]. One launch a layer without shares; waits for nothing.
  void add(const std::vector<Routing>& routings, const Tensor& labels, const Sequences& sequences);
  void reset() {
    sums_.zero();
    if (shares_.defined()) shares_.zero();
  }
  void reduce(Communicator& communicator);  // over ranks that measure a batch each

  struct Table {
    int64_t classes = 0, n_experts = 0;  // experts with the columns outside E
    std::vector<double> mean;            // [C, E] row-major; rows sum to 1, rows of classes never seen are 0
    std::vector<double> rows;            // [C]: how many rows were averaged
    // Of shares [C]: how many rows were left out, having nothing, and how many experts all rows have.
    std::vector<double> unrouted = {}, pairs = {};
  };
  struct Views {
    Table all, cls;
  };
  struct Layer : Views {
    Views mass = {}, choices = {};  // empty without shares
  };
  std::vector<Layer> read() const;  // waits for the device

 private:
  void add_shares(const Routing& routing, const Tensor& labels, const Sequences& sequences,
                  const Tensor& sums) const;
  int64_t columns_;
  Tensor sums_;  // float64 [L, 2, C, E + 1]
  Tensor
      shares_;  // float64 [L, 2, 2, C, E + X + 3] by mass and by choices, behind the shares unrouted rows, pairs, rows; or undefined
};

}  // namespace glia
