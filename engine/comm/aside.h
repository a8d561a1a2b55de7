// Sums that may run beside what is launched next. On GPUs they have a stream of their own; elsewhere they are done at once.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/device/communicator.h"

namespace glia {

class AsideReducer {
 public:
  virtual ~AsideReducer() = default;
  // all_reduce() of a sum over data that nobody touches before join_aside().
  virtual void all_reduce_aside(void* data, int64_t n, DType dtype) = 0;
  // reduce_scatter() of a sum, each rank's part in its place in data [size · n]; the others' parts are then nothing.
  virtual void reduce_scatter_aside(void* data, int64_t n, DType dtype) = 0;
  // all_gather() in place: data [size · n], of which each rank has written its part.
  virtual void all_gather_aside(void* data, int64_t n, DType dtype) = 0;
  virtual void join_aside() = 0;
  // Numbers the place that the work aside has come to; and makes what is launched next wait for all up to there, and no more.
  virtual void mark_aside(size_t number) = 0;
  virtual void join_aside_up_to(size_t number) = 0;
  // Whether a sum of large data holds multiprocessors that what runs beside it would use.
  virtual bool takes_multiprocessors() const { return true; }
  // Whether the bfloat16 copies of n weights are gathered from all ranks, beside a forward pass, for less than it costs each rank to
  // update those of the others.
  virtual bool worth_sharing(int64_t n) const {
    static_cast<void>(n);
    return false;
  }
};

// The communicator's own, or nullptr where it has none.
AsideReducer* aside_of(Communicator& communicator);

}  // namespace glia
