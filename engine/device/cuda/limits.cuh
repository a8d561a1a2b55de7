// What the current GPU allows a kernel.
#pragma once
#include <cuda_runtime.h>

#include "engine/device/cuda/check.h"

namespace glia::cuda {

// Dynamic shared memory that a block may ask for, in bytes.
inline int shared_limit() {
  int device = 0, bytes = 0;
  CUDA_CHECK(cudaGetDevice(&device));
  CUDA_CHECK(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return bytes - 1024;  // the kernels' static arrays
}

}  // namespace glia::cuda
