// AdamW over a ParameterSet's flat buffers: decoupled weight decay on the parameters that ask for it, clipping by
// the global norm, linear warm-up and decay. Norm, rate and bias corrections are computed on the device from the
// context's step.
//
// Several ranks may share the moments out (the first stage of ZeRO, Rajbhandari et al. 2020, arXiv 1910.02054): each keeps and
// updates one equal part of the flat buffers, and gets the others' weights after every step: of products, whose gradients are
// bfloat16, the bfloat16 copies alone, which is all that anybody computes with, and the rest in gather_weights(). The few elements
// that do not divide are everybody's. AdamW is element-wise and the norm is taken of all gradients, so nobody can tell it by the
// bits. With `gradients` each rank has the sum of its own part of a product's gradient alone, which halves what is sent: then the
// norm is a sum of the ranks' sums, and differs by rounding.
//
// Experts that ranks divide (Parameter::owned) may be theirs too: each keeps the moments of its own, takes their gradient as it
// is and updates them alone; the others' weights are old here until gather_weights().
//
// AdamWOptions::bfloat16_moments halves the moments' memory and takes 8 of 28 bytes an element off an update, for moments that err
// at random, m by half a per cent and v by five, without bias (docs/science.md 13).
#pragma once
#include <functional>

#include "engine/comm/aside.h"
#include "engine/ops/optimiser/adamw.h"
#include "nn/parameters.h"

namespace glia {

// What the ranks of the context have parts of.
struct AdamWSharing {
  bool moments = false;    // all of them: then no row waits, but who computes the table's gradient stays the same
  bool experts = false;    // those that all ranks divide are each rank's own
  bool gradients = false;  // of products in bfloat16, where moments are shared out: summed part by part
  std::vector<int64_t> cuts = {};  // elements that no part of the moments reaches across: where a layer begins
  // If not `moments`: those of products in bfloat16, of the pieces between cuts of so many elements for which it says so; empty: of
  // none. All have the whole gradient, and rows may wait, so that nobody can tell it by the bits.
  std::function<bool(int64_t)> products = {};
  // The others' copies are gathered by send_copies() of the next step, and not behind each.
  bool copies_later = false;
};

class AdamW {
 public:
  // `rows_wait`: rows of the set's table that a step does not touch are updated later, with the same bits: before
  // somebody reads them through Embeddings, ParameterSet::values() or m() and v().
  AdamW(ParameterSet& parameters, const AdamWOptions& options, bool rows_wait = false,
        const AdamWSharing& sharing = {});
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
  // Whether each rank has a part of p to itself, gradient and all.
  bool own(const Parameter& p) const;
  // Elements [begin, end) of gradients that are to be summed part by part, one part a rank, before step(): all of them, or whether
  // these are such.
  std::vector<ElementRange> scattered() const;
  bool scatters(const ElementRange& range) const;
  // With copies_later, by all ranks before a step's forward pass: the others' copies are under way; and what is launched next waits for
  // those of elements that the range has some of.
  bool copies_later() const { return copies_later_; }
  void send_copies();
  void wait_for_copies(const ElementRange& range);
  // The others' weights, as they are now: to be called by all ranks before anybody reads them but to compute. Nothing where all
  // ranks have all.
  void gather_weights();
  int64_t gathered_bytes() const;  // of weights after every step, over all ranks
  DType moments() const { return buffers_.m.dtype(); }

 private:
  const Tensor& settled(const Tensor& t, const Tensor& whole) const {
    CHECK(!shared_out() || whole.defined(), "AdamW: moments that ranks share out are to be gathered before");
    adamw_catch_up(buffers_, options_, {});
    return shared_out() ? whole : t;
  }
  // Equal parts for all ranks, one behind the other from element `begin` on, and what others get of them after every step.
  enum class Shown { kWeights, kCopies, kNothing };  // kNothing: experts that are each rank's own
  struct Parts {
    int64_t begin, each;
    Shown shown;
    bool scattered;  // their gradients: each rank has its own part's sum alone
  };
  int64_t end_of(const Parts& parts) const {
    return parts.begin + parameters_.context().communicator().size() * parts.each;
  }
  void share_out(const AdamWSharing& sharing);
  void gather_parts(const Tensor& flat, const Parts& parts) const;
  void take_norm();

  ParameterSet& parameters_;
  AdamWOptions options_;
  AdamWBuffers buffers_;
  std::vector<Parts> parts_;
  bool rows_of_all_ = false, copies_later_ = false;
  Tensor whole_m_, whole_v_;
};

}  // namespace glia
