// What work launches on a stream, as a graph that nobody has run. For whoever holds the capture lock (capture_lock.h).
#pragma once
#include <cuda_runtime.h>

#include <functional>

#include "engine/device/cuda/check.h"

namespace glia {

// The caller destroys it. Work that throws, or breaks the capture, leaves none behind.
inline cudaGraph_t captured(cudaStream_t stream, const std::function<void()>& work) {
  // Relaxed: the allocator may call cudaMalloc during a first capture.
  CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
  cudaGraph_t graph = nullptr;
  try {
    work();
  } catch (...) {
    cudaStreamEndCapture(stream, &graph);
    if (graph) cudaGraphDestroy(graph);
    cudaGetLastError();
    throw;
  }
  CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
  return graph;
}

}  // namespace glia
