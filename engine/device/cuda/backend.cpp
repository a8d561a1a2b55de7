// The CUDA backend: one stream, cuBLAS and cuBLASLt handles, device and pinned memory.
#include <cublasLt.h>
#include <cublas_v2.h>
#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>

#include "engine/device/backend.h"
#include "engine/device/cuda/capture_lock.h"
#include "engine/device/cuda/check.h"
#include "engine/device/cuda/code.h"

namespace glia {

void fail_cuda(const char* what, const char* error, const char* file, int line) {
  throw Error(fmt::format("{}: {} ({}:{})", what, error, file, line));
}

void check_launch(const char* kernel, cudaStream_t stream) {
  cudaError_t status = cudaGetLastError();
  static const bool wait = std::getenv("GLIA_CUDA_SYNC") != nullptr;  // read once; never written again
  if (status == cudaSuccess && wait) status = cudaStreamSynchronize(stream);
  if (status != cudaSuccess) throw Error(fmt::format("kernel {}: {}", kernel, cudaGetErrorString(status)));
}

// Of the current device, now; for graph.cpp too, which holds the lock.
int64_t cuda_free_bytes() {
  const CaptureLock lock(capture_mutex());
  size_t available = 0, total = 0;
  CUDA_CHECK(cudaMemGetInfo(&available, &total));
  return static_cast<int64_t>(available);
}

// What fails here fails again in the call that it stands before.
void wait_for_other_ranks(const CudaHandles& cuda) noexcept {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  if (!cuda.beside || cudaStreamIsCapturing(cuda.stream, &status) != cudaSuccess ||
      status != cudaStreamCaptureStatusNone)
    return;
  cudaStreamSynchronize(cuda.stream);
  cudaStreamSynchronize(cuda.beside);
}

namespace {

constexpr int64_t kWorkspaceBytes = 64 << 20;
constexpr int64_t kPartBytes = 128 << 10;   // one a multiprocessor, and one for the flags
constexpr int64_t kStagedBytes = 64 << 10;  // what the driver takes at once from pageable memory
constexpr int64_t kPageBytes = 2 << 20;     // what the driver maps at a time; smaller blocks share a page

#define BLAS_CHECK(call)                                                                                        \
  do {                                                                                                          \
    const cublasStatus_t status_ = (call);                                                                      \
    if (status_ != CUBLAS_STATUS_SUCCESS) fail_cuda(#call, cublasGetStatusString(status_), __FILE__, __LINE__); \
  } while (0)

bool is_pinned(const void* p) {
  cudaPointerAttributes attributes{};
  if (cudaPointerGetAttributes(&attributes, p) == cudaSuccess) return attributes.type == cudaMemoryTypeHost;
  cudaGetLastError();
  return false;
}

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(int index) : index_(index) {
    const CaptureLock lock(capture_mutex());
    CUDA_CHECK(cudaSetDevice(index));
    CUDA_CHECK(cudaGetDeviceProperties(&properties_, index));
    CUDA_CHECK(cudaStreamCreateWithFlags(&handles_.stream, cudaStreamNonBlocking));
    CUDA_CHECK(cudaMalloc(&handles_.workspace, kWorkspaceBytes));
    handles_.workspace_bytes = kWorkspaceBytes;
    BLAS_CHECK(cublasCreate(&handles_.blas));
    BLAS_CHECK(cublasLtCreate(&handles_.blas_lt));
    BLAS_CHECK(cublasSetStream(handles_.blas, handles_.stream));
    // A workspace of our own keeps cuBLAS from allocating during graph capture and its results the same from run to
    // run.
    BLAS_CHECK(cublasSetWorkspace(handles_.blas, handles_.workspace, kWorkspaceBytes));
    handles_.multiprocessors = properties_.multiProcessorCount;
    handles_.capability = 10 * properties_.major + properties_.minor;
    int kilohertz = 0;  // of a clock at whose both edges a word moves
    CUDA_CHECK(cudaDeviceGetAttribute(&kilohertz, cudaDevAttrMemoryClockRate, index));
    handles_.memory_rate = 2e3 * kilohertz * properties_.memoryBusWidth / 8;
    if (handles_.capability == 90) {
      handles_.parts_bytes = kPartBytes * (handles_.multiprocessors + 1);
      CUDA_CHECK(cudaMalloc(&handles_.parts, handles_.parts_bytes));
      CUDA_CHECK(cudaMemsetAsync(handles_.parts, 0, handles_.parts_bytes, handles_.stream));
    }
  }
  ~CudaBackend() override {
    const CaptureLock lock(capture_mutex());
    // Destructors log, never throw: the driver may be gone already.
    const auto log = [](cudaError_t status) {
      if (status != cudaSuccess) std::fprintf(stderr, "glia: closing the GPU: %s\n", cudaGetErrorString(status));
    };
    log(cudaStreamSynchronize(handles_.stream));
    cublasLtDestroy(handles_.blas_lt);
    cublasDestroy(handles_.blas);
    log(cudaFree(handles_.workspace));
    log(cudaFree(handles_.parts));
    log(cudaStreamDestroy(handles_.stream));
  }

  Device device() const override { return Device::cuda(index_); }
  std::string description() const override { return properties_.name; }
  void* allocate(int64_t bytes) override {
    wait_for_other_ranks(handles_);
    const CaptureLock lock(capture_mutex());
    void* p = nullptr;
    const cudaError_t status = cudaMalloc(&p, bytes);
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();  // clears it: the allocator trims and asks again
      return nullptr;
    }
    CUDA_CHECK(status);
    return p;
  }
  void release(void* p) noexcept override {
    wait_for_other_ranks(handles_);
    const CaptureLock lock(capture_mutex());
    if (cudaFree(p) != cudaSuccess) std::fprintf(stderr, "glia: cudaFree failed\n");
  }
  void* allocate_pinned(int64_t bytes) override {
    const CaptureLock lock(capture_mutex());
    void* p = nullptr;
    CUDA_CHECK(cudaMallocHost(&p, bytes));
    return p;
  }
  void release_pinned(void* p) noexcept override {
    const CaptureLock lock(capture_mutex());
    if (cudaFreeHost(p) != cudaSuccess) std::fprintf(stderr, "glia: cudaFreeHost failed\n");
  }
  void copy(void* to, const void* from, int64_t bytes, CopyKind kind) override {
    if (bytes == 0) return;
    const cudaMemcpyKind cuda_kind = kind == CopyKind::kHostToDevice   ? cudaMemcpyHostToDevice
                                     : kind == CopyKind::kDeviceToHost ? cudaMemcpyDeviceToHost
                                                                       : cudaMemcpyDeviceToDevice;
    // A copy of pageable memory that waits for the stream holds a lock of the driver meanwhile. Another rank of this process may want
    // that lock before it launches what the stream waits for: so it is waited for before.
    if (kind == CopyKind::kDeviceToHost ||
        (kind == CopyKind::kHostToDevice && bytes > kStagedBytes && !is_pinned(from)))
      synchronize();
    CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cuda_kind, handles_.stream));
    if (kind == CopyKind::kDeviceToHost) synchronize();
  }
  void fill_zero(void* p, int64_t bytes) override { CUDA_CHECK(cudaMemsetAsync(p, 0, bytes, handles_.stream)); }
  void synchronize() override { CUDA_CHECK(cudaStreamSynchronize(handles_.stream)); }
  int64_t free_bytes() override { return cuda_free_bytes(); }
  int64_t total_bytes() override { return static_cast<int64_t>(properties_.totalGlobalMem); }
  int64_t reserved_bytes() override { return handles_.workspace_bytes + handles_.parts_bytes; }
  int64_t page_bytes() const override { return kPageBytes; }
  std::unique_lock<std::recursive_mutex> no_captures() override {
    wait_for_other_ranks(handles_);
    return std::unique_lock(capture_mutex());
  }
  CudaHandles* cuda() override { return &handles_; }

 private:
  int index_;
  cudaDeviceProp properties_{};
  CudaHandles handles_;
};

}  // namespace

std::unique_ptr<Backend> make_cuda_backend(int index) { return std::make_unique<CudaBackend>(index); }

int cuda_device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return count;
}

std::string cuda_device_problem(int index) {
  const CaptureLock lock(capture_mutex());
  CUDA_CHECK(cudaSetDevice(index));
  if (has_code_for_device()) return "";
  cudaDeviceProp properties{};
  CUDA_CHECK(cudaGetDeviceProperties(&properties, index));
  return missing_code_text(properties.name, 10 * properties.major + properties.minor, built_architectures());
}

std::shared_ptr<void> mark_cuda_time(CudaHandles& cuda) {
  cudaEvent_t event = nullptr;
  CUDA_CHECK(cudaEventCreate(&event));
  CUDA_CHECK(cudaEventRecord(event, cuda.stream));
  return {event, [](void* e) { cudaEventDestroy(static_cast<cudaEvent_t>(e)); }};
}

double cuda_milliseconds_between(const void* begin, const void* end) {
  float milliseconds = 0;
  CUDA_CHECK(cudaEventElapsedTime(&milliseconds, static_cast<cudaEvent_t>(const_cast<void*>(begin)),
                                  static_cast<cudaEvent_t>(const_cast<void*>(end))));
  return milliseconds;
}

}  // namespace glia
