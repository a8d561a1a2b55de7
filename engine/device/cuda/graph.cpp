#include "engine/device/graph.h"

#include <cuda_runtime.h>

#include <cstdio>

#include "engine/device/cuda/capture_lock.h"
#include "engine/device/cuda/check.h"

namespace glia {
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

 private:
  cudaGraphExec_t executable_;
  cudaStream_t stream_;
};

}  // namespace

std::unique_ptr<Graph> capture_cuda_graph(CudaHandles& cuda, const std::function<void()>& work) {
  const CaptureLock lock(capture_mutex());
  // Relaxed: the allocator may call cudaMalloc during a first capture.
  CUDA_CHECK(cudaStreamBeginCapture(cuda.stream, cudaStreamCaptureModeRelaxed));
  cudaGraph_t graph = nullptr;
  try {
    work();
  } catch (...) {
    cudaStreamEndCapture(cuda.stream, &graph);
    if (graph) cudaGraphDestroy(graph);
    cudaGetLastError();
    throw;
  }
  CUDA_CHECK(cudaStreamEndCapture(cuda.stream, &graph));
  cudaGraphExec_t executable = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  CUDA_CHECK(status);
  return std::make_unique<CudaGraph>(executable, cuda.stream);
}

}  // namespace glia
