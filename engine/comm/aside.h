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
  virtual void join_aside() = 0;
};

// The communicator's own, or nullptr where it has none.
AsideReducer* aside_of(Communicator& communicator);

}  // namespace glia
