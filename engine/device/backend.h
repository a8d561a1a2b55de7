// What a device must be able to do for the allocator and for tensors. Two implementations: cpu_backend.cpp and
// cuda/backend.cpp. Everything is ordered on the backend's one stream; only synchronize() and copies to the
// host wait.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "engine/device/device.h"
#include "engine/device/stream.h"

namespace glia {

enum class CopyKind { kHostToDevice, kDeviceToHost, kDeviceToDevice };

class Backend {
 public:
  virtual ~Backend() = default;
  virtual Device device() const = 0;
  virtual std::string description() const = 0;  // "NVIDIA H100 80GB HBM3", "AMD EPYC …, 2 threads"
  virtual void* allocate(int64_t bytes) = 0;    // nullptr when out of memory; at least 256-byte aligned
  virtual void release(void* p) noexcept = 0;
  virtual void* allocate_pinned(int64_t bytes) = 0;  // host memory that copies overlap from
  virtual void release_pinned(void* p) noexcept = 0;
  // kDeviceToHost has completed on return; the others are ordered on the stream.
  virtual void copy(void* to, const void* from, int64_t bytes, CopyKind kind) = 0;
  virtual void fill_zero(void* p, int64_t bytes) = 0;
  virtual void synchronize() = 0;
  virtual int64_t free_bytes() = 0;               // of the device's memory, now
  virtual int64_t total_bytes() { return 0; }     // of the device; 0: no figure that means something
  virtual int64_t reserved_bytes() { return 0; }  // workspaces that this backend took for itself, for good
  // A request is rounded up to this: a device hands memory out by pages, and what is left of one is nobody's.
  virtual int64_t page_bytes() const { return 1; }
  // While it is held, no stream of this process is being captured, so that a thread may wait for another one's work.
  virtual std::unique_lock<std::recursive_mutex> no_captures() { return {}; }
  virtual CudaHandles* cuda() { return nullptr; }
};

std::unique_ptr<Backend> make_cpu_backend();
std::unique_ptr<Backend> make_cuda_backend(int index);  // defined in CUDA builds only
int cuda_device_count();                                // 0 without a driver or in a CPU build
std::string cuda_device_problem(int index);             // why this GPU cannot be used, one line, or empty

}  // namespace glia
