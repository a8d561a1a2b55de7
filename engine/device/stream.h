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

// Which kernels the products of bfloat16 run in: the fastest that this GPU has, or one of the sets by name.
enum class Kernels { kAuto, kHopper, kPortable };

struct CudaHandles {
  Stream stream = nullptr;
  Stream beside = nullptr;  // of sums over ranks, where there are several: its work waits for other ranks'
  cublasContext* blas = nullptr;
  cublasLtContext* blas_lt = nullptr;
  void* workspace = nullptr;  // cuBLAS's own; never shared with kernels
  int64_t workspace_bytes = 0;
  void* parts = nullptr;  // grouped_products.h's GemmWorkspace: zeros at first, and this stream's alone
  int64_t parts_bytes = 0;
  int multiprocessors = 0;
  int capability = 0;      // 90 for sm_90
  double memory_rate = 0;  // bytes a second, the most there can be
  Kernels kernels = Kernels::kAuto;
  std::shared_ptr<void> gemm_plans;  // matmul.cu's cache of cuBLASLt algorithms by shape

  // What Hopper's own products want: they cut a weight gradient for multiples of 4 multiprocessors.
  bool is_hopper() const { return capability == 90 && multiprocessors % 4 == 0; }
  bool hopper() const { return is_hopper() && kernels != Kernels::kPortable; }
};

}  // namespace glia
