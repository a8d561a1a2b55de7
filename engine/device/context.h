// Everything a computation needs and nothing global: device, stream, library handles, allocator, random state,
// communicator, autograd mode, profiler. `main` makes it and destroys it, after every tensor that was made from it. One thread
// uses it at a time.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/core/random/rng.h"
#include "engine/device/allocator.h"
#include "engine/device/backend.h"
#include "engine/device/communicator.h"
#include "engine/device/profiler.h"

namespace glia {

// Whether the environment says GLIA_CHECK_FINITE=1: then each new Context checks.
bool finite_check_wanted();

// "auto", "hopper" or "portable"; anything else is an error that says so.
Kernels parse_kernels(std::string_view text);

class Context {
 public:
  // Asking for CUDA where there is none is an error of one line; nothing falls back.
  explicit Context(Device device, uint64_t seed = 0);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  Device device() const { return backend_->device(); }
  Backend& backend() { return *backend_; }
  Allocator& allocator() { return *allocator_; }
  CudaHandles& cuda() { return *backend_->cuda(); }
  void synchronize() { backend_->synchronize(); }
  // Which products run on a GPU; at first what the environment says (GLIA_KERNELS=portable). A set that this device
  // has not is an error of one line.
  void set_kernels(Kernels kernels);

  // The ranks that compute together; this one alone, until whoever starts ranks gives another.
  Communicator& communicator() { return *communicator_; }
  void set_communicator(std::unique_ptr<Communicator> communicator);

  // Randomness is keyed by (seed, purpose, step, element). The step lies in device memory, where kernels and
  // replayed graphs read it; whoever trains sets it before each step.
  uint64_t seed() const { return seed_; }
  void set_seed(uint64_t seed) { seed_ = seed; }
  void set_step(uint32_t step);
  const uint32_t* step_pointer() const { return step_; }
  RandomKey random_key(uint32_t purpose) const { return {seed_, purpose, step_}; }

  bool grad_enabled = true;   // see NoGrad in autograd.h
  bool check_finite;          // finite_check_wanted(): every op's output is read back and must be finite; slow
  uint64_t next_node_id = 1;  // creation order of autograd nodes, a topological order
  Profiler profiler;

 private:
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Allocator> allocator_;
  std::unique_ptr<Communicator> communicator_;
  uint64_t seed_;
  uint32_t* step_ = nullptr;
};

// The only place that chooses a device. The CUDA lambda is generic (`[&](auto& cuda) {…}`), so a CPU build does not
// instantiate it and needs no stubs, and a CUDA build without the kernel fails at link time.
template <class Cpu, class Cuda>
void on_device(Context& context, const char* op, Cpu&& cpu, [[maybe_unused]] Cuda&& cuda) {
  ProfileScope scope(context.profiler, op, context.backend());
  if (context.device().is_cpu()) {
    cpu();
  } else {
#if GLIA_CUDA
    cuda(context.cuda());
#endif
  }
}

}  // namespace glia
