// AdamW over a ParameterSet's flat buffers: decoupled weight decay on the parameters that ask for it, clipping by
// the global norm, linear warm-up and decay. Norm, rate and bias corrections are computed on the device from the
// context's step.
//
// Several ranks may share the moments out (the first stage of ZeRO, Rajbhandari et al. 2020, arXiv 1910.02054): each keeps and
// updates one equal part of the flat buffers, and gets the others' weights after every step. The few elements that do not divide
// are everybody's. AdamW is element-wise and the norm is taken of all gradients, so nobody can tell it by the bits.
//
// AdamWOptions::bfloat16_moments halves the moments' memory and takes 8 of 28 bytes an element off an update, for moments that err
// at random, m by half a per cent and v by five, without bias (docs/science.md 13).
#pragma once
#include "engine/ops/optimiser/adamw.h"
#include "nn/parameters.h"

namespace glia {

class AdamW {
 public:
  // `rows_wait`: rows of the set's table that a step does not touch are updated later, with the same bits: before
  // somebody reads them through Embeddings, ParameterSet::values() or m() and v().
  // `shared_out`: over the ranks of the context; then no row waits, but who computes the table's gradient stays the same.
  AdamW(ParameterSet& parameters, const AdamWOptions& options, bool rows_wait = false, bool shared_out = false);
  ~AdamW();
  AdamW(const AdamW&) = delete;
  AdamW& operator=(const AdamW&) = delete;

  // After backward(); completes the gradients. The step's number is Context::set_step's, 0 for the first one.
  void step();

  // Whether the step wants the gradients of the table's rows from all ranks at once (engine/ops/rows: input_embedding).
  bool rows_of_all_ranks() const { return rows_of_all_; }

  // Of the last step, read back (waits for the device): what the training loop logs now and then.
  struct Report {
    double gradient_norm = 0;  // before clipping
    double learning_rate = 0;
    int64_t skipped = 0;  // steps whose gradient was not finite, since the start
  };
  Report report() const;

  const AdamWOptions& options() const { return options_; }
  const Tensor& m() const { return settled(buffers_.m, whole_m_); }  // [trained_size], laid out like the values
  const Tensor& v() const { return settled(buffers_.v, whole_v_); }
  const Tensor& factors() const { return buffers_.factors; }  // float64 [adamw_factor::kCount], on the device

  // Moments that are shared out are whole on every rank, for m() and v(), between gather(), which all ranks call, or
  // make_room(), whose moments are 0, and release(). keep_part() takes this rank's part of them. Else all four do nothing.
  bool shared_out() const { return !buffers_.spans.empty(); }
  void gather();
  void make_room();
  void keep_part();
  void release() { whole_m_ = whole_v_ = {}; }
  int64_t moment_bytes() const;  // on this rank
  DType moments() const { return buffers_.m.dtype(); }

 private:
  const Tensor& settled(const Tensor& t, const Tensor& whole) const {
    CHECK(!shared_out() || whole.defined(), "AdamW: moments that ranks share out are to be gathered before");
    adamw_catch_up(buffers_, options_, {});
    return shared_out() ? whole : t;
  }
  void share_out();

  ParameterSet& parameters_;
  AdamWOptions options_;
  AdamWBuffers buffers_;
  bool rows_of_all_ = false;
  Tensor whole_m_, whole_v_;
};

}  // namespace glia
