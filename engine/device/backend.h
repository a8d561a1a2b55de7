// What a device must be able to do for the allocator and for tensors. Two implementations: cpu_backend.cpp and
// cuda/backend.cpp. Everything is ordered on the backend's one stream; only synchronize() and copies to the
// host wait.
#pragma once

#include <cstdint>
#include <memory>
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
  virtual int64_t free_bytes() = 0;  // of the device's memory, now
  virtual CudaHandles* cuda() { return nullptr; }
};

std::unique_ptr<Backend> make_cpu_backend();
std::unique_ptr<Backend> make_cuda_backend(int index);  // defined in CUDA builds only
int cuda_device_count();                                // 0 without a driver or in a CPU build
std::string cuda_device_problem(int index);             // why this GPU cannot be used, one line, or empty

}  // namespace glia
