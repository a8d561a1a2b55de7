// Sums that may run beside what is launched next. On GPUs they have a stream of their own; elsewhere they are done at once.
#pragma once

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
  // Whether a sum of large data holds multiprocessors that what runs beside it would use.
  virtual bool takes_multiprocessors() const { return true; }
  // What sharing out the update of products' weights costs and saves, in seconds: to update one, to gather the bfloat16 copy of one from
  // all ranks beside that, and what a gather takes besides.
  struct SharingCost {
    double update = 0, gather = 0, latency = 0;  // update 0: nothing is worth it
  };
  virtual SharingCost sharing_cost() const { return {}; }
};

// The communicator's own, or nullptr where it has none.
AsideReducer* aside_of(Communicator& communicator);

}  // namespace glia
