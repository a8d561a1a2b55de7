#include "engine/device/cuda/code.h"

#include <cuda_runtime.h>

namespace glia {
namespace {

__global__ void probe_kernel() {}

}  // namespace

const char* built_architectures() { return GLIA_CUDA_ARCHS; }

bool has_code_for_device() {
  cudaFuncAttributes attributes;
  const cudaError_t status = cudaFuncGetAttributes(&attributes, probe_kernel);
  if (status != cudaSuccess) cudaGetLastError();  // clears it
  return status != cudaErrorNoKernelImageForDevice && status != cudaErrorInvalidDeviceFunction &&
         status != cudaErrorUnsupportedPtxVersion;
}

}  // namespace glia
