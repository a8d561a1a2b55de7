#include "engine/device/graph.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>

#include "engine/device/cuda/capture_lock.h"
#include "engine/device/cuda/captured.h"
#include "engine/device/cuda/check.h"

namespace glia {

int64_t cuda_free_bytes();  // backend.cpp

namespace {

class CudaGraph final : public Graph {
 public:
  CudaGraph(cudaGraphExec_t executable, cudaStream_t stream) : executable_(executable), stream_(stream) {}
  ~CudaGraph() override {
    const CaptureLock lock(capture_mutex());
    if (cudaGraphExecDestroy(executable_) != cudaSuccess)
      std::fprintf(stderr, "glia: cudaGraphExecDestroy failed\n");
  }
  void replay() override { CUDA_CHECK(cudaGraphLaunch(executable_, stream_)); }
  int64_t bytes() const override { return bytes_; }
  void count(int64_t bytes) { bytes_ = bytes; }

 private:
  cudaGraphExec_t executable_;
  cudaStream_t stream_;
  int64_t bytes_ = 0;
};

}  // namespace

std::unique_ptr<Graph> capture_cuda_graph(CudaHandles& cuda, const std::function<void()>& work) {
  wait_for_other_ranks(cuda);
  const CaptureLock lock(capture_mutex());
  cudaGraph_t graph = captured(cuda.stream, work);
  cudaGraphExec_t executable = nullptr;
  // The driver takes memory for nodes when a graph is made and when it is uploaded, which is done here and not by the first
  // replay: under the lock nobody else of this process allocates, so the difference is this graph's.
  const int64_t before = cuda_free_bytes();
  const cudaError_t status = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // clears it
    throw OutOfMemory("out of memory for a captured graph");
  }
  CUDA_CHECK(status);
  auto made = std::make_unique<CudaGraph>(executable, cuda.stream);
  CUDA_CHECK(cudaGraphUpload(executable, cuda.stream));
  made->count(std::max<int64_t>(0, before - cuda_free_bytes()));
  return made;
}

}  // namespace glia
