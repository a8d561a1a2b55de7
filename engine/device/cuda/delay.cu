#include "engine/device/cuda/launch.cuh"

namespace glia {
namespace {

__global__ void delay_kernel(uint64_t nanoseconds) {
  uint64_t begin = 0, now = 0;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(begin));
  do {
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  } while (now - begin < nanoseconds);
}

}  // namespace

void delay_cuda_stream(Stream stream, double milliseconds) {
  cuda::launch("delay", delay_kernel, {1, 1}, stream, static_cast<uint64_t>(1e6 * milliseconds));
}

}  // namespace glia
