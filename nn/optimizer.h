// AdamW over a ParameterSet's flat buffers: decoupled weight decay on the parameters that ask for it, clipping by
// the global norm, linear warm-up and decay. Norm, rate and bias corrections are computed on the device from the
// context's step.
#pragma once
#include "engine/ops/optimiser/adamw.h"
#include "nn/parameters.h"

namespace glia {

class AdamW {
 public:
  // `rows_wait`: rows of the set's table that a step does not touch are updated later, with the same bits: before
  // somebody reads them through Embeddings, ParameterSet::values() or m() and v().
  AdamW(ParameterSet& parameters, const AdamWOptions& options, bool rows_wait = false);
  ~AdamW();
  AdamW(const AdamW&) = delete;
  AdamW& operator=(const AdamW&) = delete;

  // After backward(); completes the gradients. The step's number is Context::set_step's, 0 for the first one.
  void step();

  // Of the last step, read back (waits for the device): what the training loop logs now and then.
  struct Report {
    double gradient_norm = 0;  // before clipping
    double learning_rate = 0;
    int64_t skipped = 0;  // steps whose gradient was not finite, since the start
  };
  Report report() const;

  const AdamWOptions& options() const { return options_; }
  const Tensor& m() const { return settled(buffers_.m); }  // [trained_size], laid out like the values
  const Tensor& v() const { return settled(buffers_.v); }
  const Tensor& factors() const { return buffers_.factors; }  // float64 [adamw_factor::kCount], on the device

 private:
  const Tensor& settled(const Tensor& t) const {
    adamw_catch_up(buffers_, options_, {});
    return t;
  }

  ParameterSet& parameters_;
  AdamWOptions options_;
  AdamWBuffers buffers_;
};

}  // namespace glia
