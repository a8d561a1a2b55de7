// The CUDA side's handles without CUDA's headers (and without fmt, which nvcc cannot compile): what kernel headers
// include.
#pragma once

#include <cstdint>
#include <memory>

struct CUstream_st;
struct cublasContext;
struct cublasLtContext;

namespace glia {

using Stream = CUstream_st*;  // cudaStream_t

struct CudaHandles {
  Stream stream = nullptr;
  cublasContext* blas = nullptr;
  cublasLtContext* blas_lt = nullptr;
  void* workspace = nullptr;  // cuBLAS's own; never shared with kernels
  int64_t workspace_bytes = 0;
  void* parts = nullptr;  // gemm_sm90.h's GemmWorkspace: zeros at first, and this stream's alone
  int64_t parts_bytes = 0;
  int multiprocessors = 0;
  int capability = 0;                // 90 for sm_90
  std::shared_ptr<void> gemm_plans;  // matmul.cu's cache of cuBLASLt algorithms by shape
};

}  // namespace glia
