// CUDA_CHECK(call) throws with the call's text. check_launch runs after every launch (launch.cuh); with
// GLIA_CUDA_SYNC=1 each launch is waited for, so that the error names the kernel that made it.
#pragma once
#include <cuda_runtime.h>

namespace glia {

[[noreturn]] void fail_cuda(const char* what, const char* error, const char* file, int line);
void check_launch(const char* kernel, cudaStream_t stream);

}  // namespace glia

#define CUDA_CHECK(call)                                                                                   \
  do {                                                                                                     \
    const cudaError_t status_ = (call);                                                                    \
    if (status_ != cudaSuccess) ::glia::fail_cuda(#call, cudaGetErrorString(status_), __FILE__, __LINE__); \
  } while (0)
