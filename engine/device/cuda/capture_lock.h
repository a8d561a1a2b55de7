// One lock of the process, for runs side by side on one GPU: a capture in one thread is broken by driver calls of another
// that allocate, free or wait for the whole device, even in relaxed mode (seen as "operation failed due to a previous error
// during capture"). A capture holds it from begin to instantiate, those calls while they last. Recursive: a capture
// allocates too. Launches, copies and waits for one stream do not need it.
#pragma once

#include <mutex>

#include "engine/device/stream.h"

namespace glia {

inline std::recursive_mutex& capture_mutex() {
  static std::recursive_mutex mutex;  // guards the driver's state, which is the process's too
  return mutex;
}

using CaptureLock = std::lock_guard<std::recursive_mutex>;

// Before the lock is taken for what may wait for the device. Of several ranks a device waits for what the others launch, and one that
// is a thread of this process may want the lock before it launches that: so this rank waits first, without the lock. Nothing where
// there is one rank, and within a capture, which holds the lock and began on an idle device.
void wait_for_other_ranks(const CudaHandles& cuda) noexcept;  // backend.cpp

}  // namespace glia
