// What ranks do together: one process or thread a rank, each with a Context of its own, all calling the same functions in
// the same order. Raw pointers to the device's memory, and the work is ordered on the backend's stream like a kernel's:
// nothing but barrier() waits. Implementations lie in engine/comm/; of one rank alone every call is a copy or nothing.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "engine/core/dtype.h"
#include "engine/device/backend.h"

namespace glia {

enum class Reduction { kSum, kMax, kMin };

class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;  // 0 … size() − 1
  virtual int size() const = 0;
  virtual std::string description() const = 0;

  // data [n] := its reduction over the ranks, with the same bits on each of them and on every repeat.
  virtual void all_reduce(void* data, int64_t n, DType dtype, Reduction reduction) = 0;
  // to [n] := the rank-th part of the reduction of from [size · n]. `to` may be that part of `from`, and else must not
  // overlap it.
  virtual void reduce_scatter(const void* from, void* to, int64_t n, DType dtype, Reduction reduction) = 0;
  // to [size · n] := from [n] of rank 0, of rank 1, … `from` may be the rank-th part of `to`, and else must not overlap.
  virtual void all_gather(const void* from, void* to, int64_t n, DType dtype) = 0;
  // Rows of row_bytes: send[r] rows of `from` go to rank r, in order of the ranks; receive[r] rows of `to` come from it.
  // What rank a sends to b is what b receives from a. No overlap.
  virtual void all_to_all_rows(const void* from, std::span<const int64_t> send, void* to,
                               std::span<const int64_t> receive, int64_t row_bytes) = 0;
  // data [bytes] := root's.
  virtual void broadcast(void* data, int64_t bytes, int root) = 0;
  // Waits for this device and for all ranks.
  virtual void barrier() = 0;
  // Waits for those ranks alone that are threads of this process, on the host, not for any device. True where all of them say `mine`.
  virtual bool meet(bool mine) { return mine; }

  // Memory for sums over the ranks, which all of them ask for at once, equal in size; nullptr where none is better than any other. It
  // goes back to the communicator, which must outlive it.
  virtual std::shared_ptr<void> shared_memory(int64_t bytes) {
    static_cast<void>(bytes);
    return nullptr;
  }

  // Calls between the two may travel together; nobody reads what they give before end_group(). See together().
  virtual void begin_group() {}
  virtual void end_group() {}
  // Instead of end_group() where a call has failed: what was asked for is not done.
  virtual void abandon_group() noexcept {}
};

template <class F> void together(Communicator& ranks, F&& calls) {
  ranks.begin_group();
  try {
    calls();
  } catch (...) {  // a capture that breaks is tried again, eagerly
    ranks.abandon_group();
    throw;
  }
  ranks.end_group();
}

// One rank: what a Context has until it is given another. The backend must outlive it. engine/comm/local.cpp
std::unique_ptr<Communicator> make_local_communicator(Backend& backend);

}  // namespace glia
