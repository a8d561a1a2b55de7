// Who computes a run together: the processes that mpirun or srun started, threads of one program, or both. Each rank takes its
// part of every batch (feed/batch_part.h); rank 0 alone writes.
//
//   fast   a rank a process, or --ranks threads where no launcher is; on GPUs one each, joined by NCCL. Sums have another order
//          with another number of ranks.
//   exact  always --chunks ranks, however many processes share them: the batch's parts, and the tree that all sums follow, are
//          the same, and so are the bits. On GPUs the sums are made by the host.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "engine/comm/transport.h"
#include "engine/device/context.h"
#include "engine/tensor.h"
#include "experiments/training/options.h"

namespace glia {

class Ranks {
 public:
  Ranks() = default;  // this program alone
  // Whose processes a launcher started; of all but the first nothing is printed. A launcher that cannot be joined is an error.
  static Ranks join(const Options& options);
  static const Ranks& alone();

  Transport* transport() const { return transport_.get(); }
  bool first_process() const { return !transport_ || transport_->process() == 0; }
  int processes() const { return transport_ ? transport_->processes() : 1; }
  int count(const Options& options) const;
  // Several ranks, or an order of sums that is theirs.
  bool divides(const Options& options) const { return count(options) > 1; }
  std::string described(const Options& options) const;  // "4 in 2 processes, reduction fast"
  // "rank 2 on host"; with one process "rank 2".
  std::string name_of(int rank, int ranks) const;

  // Errors of one line, in the first process: options that these ranks cannot have; processes that differ. To be called by all,
  // before anything is computed.
  void check(const Options& options) const;
  void agree(const std::vector<Agreed>& mine) const;

  // Calls body(context of rank r) for this process's ranks, each on a thread of its own with a device of its own, or for one
  // rank alone right here. `threads`: of OpenMP, for each.
  void run(const Options& options, Device device, uint64_t seed, const std::function<void(Context&)>& body) const;

  // What the first process does the others follow: it tells them which run comes next, −1 for the end.
  void lead(int64_t run) const;
  int64_t follow() const;
  // Waits until the first process has come here too, however long it takes.
  void after_first(const std::function<void()>& body) const;
  // Ends all processes after an error of this one; returns where there is only one. The first process is let speak before.
  void end_all(const char* program, const std::string& message) const;

 private:
  std::shared_ptr<Transport> transport_;
};

// Whether all ranks are at the same step with the same weights: to be called by all; an error that names the first that is not.
void require_same_start(const Ranks& ranks, Context& context, const Tensor& weights, int64_t step);

}  // namespace glia
