#include "engine/device/cuda/side_stream.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <vector>

#include "engine/device/cuda/capture_lock.h"
#include "engine/device/cuda/captured.h"
#include "engine/device/cuda/check.h"

namespace glia {

struct SideStream::Handles {
  cudaStream_t main, side = nullptr;
  cudaEvent_t forked = nullptr, joined = nullptr;
  std::vector<cudaEvent_t> marks = {};
  bool open = false;
};

SideStream::SideStream(Stream main) : handles_(new Handles{main}) {
  const CaptureLock lock(capture_mutex());
  // Before the main stream: else what it launches at the same time takes all multiprocessors first, and the side stream's kernel begins
  // when that is nearly done, beside the next one. Kernels of a captured graph keep their stream's priority.
  int least = 0, greatest = 0;
  CUDA_CHECK(cudaDeviceGetStreamPriorityRange(&least, &greatest));
  CUDA_CHECK(cudaStreamCreateWithPriority(&handles_->side, cudaStreamNonBlocking, greatest));
  CUDA_CHECK(cudaEventCreateWithFlags(&handles_->forked, cudaEventDisableTiming));
  CUDA_CHECK(cudaEventCreateWithFlags(&handles_->joined, cudaEventDisableTiming));
}

SideStream::~SideStream() {
  const CaptureLock lock(capture_mutex());
  // The driver may be gone already: there is nobody to tell.
  cudaEventDestroy(handles_->forked);
  cudaEventDestroy(handles_->joined);
  for (const cudaEvent_t mark : handles_->marks) cudaEventDestroy(mark);
  cudaStreamDestroy(handles_->side);
  delete handles_;
}

Stream SideStream::stream() const { return handles_->side; }

bool SideStream::capturing() const {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  CUDA_CHECK(cudaStreamIsCapturing(handles_->main, &status));
  return status != cudaStreamCaptureStatusNone;
}

Stream SideStream::fork() {
  CUDA_CHECK(cudaEventRecord(handles_->forked, handles_->main));
  CUDA_CHECK(cudaStreamWaitEvent(handles_->side, handles_->forked, 0));
  handles_->open = true;
  return handles_->side;
}

void SideStream::join() {
  if (!handles_->open) return;
  handles_->open = false;
  CUDA_CHECK(cudaEventRecord(handles_->joined, handles_->side));
  CUDA_CHECK(cudaStreamWaitEvent(handles_->main, handles_->joined, 0));
}

void SideStream::mark(size_t number) {
  while (handles_->marks.size() <= number) {
    cudaEvent_t made = nullptr;
    CUDA_CHECK(cudaEventCreateWithFlags(&made, cudaEventDisableTiming));
    handles_->marks.push_back(made);
  }
  CUDA_CHECK(cudaEventRecord(handles_->marks[number], handles_->side));
}

void SideStream::join(size_t number) {
  CUDA_CHECK(cudaStreamWaitEvent(handles_->main, handles_->marks[number], 0));
}

void SideStream::wait() { CUDA_CHECK(cudaStreamSynchronize(handles_->side)); }

bool SideStream::launches_no_kernel(const std::function<void()>& work) {
  const CaptureLock lock(capture_mutex());
  cudaGraph_t graph = captured(handles_->side, work);
  size_t count = 0;
  cudaGraphGetNodes(graph, nullptr, &count);
  std::vector<cudaGraphNode_t> nodes(count);
  const cudaError_t status = cudaGraphGetNodes(graph, nodes.data(), &count);
  // The runtime has no name for a wait for memory and fails: no kernel. The driver's own call would, but then no program of ours began
  // where there is no driver.
  const bool none = std::ranges::none_of(nodes, [](cudaGraphNode_t node) {
    cudaGraphNodeType type{};
    return cudaGraphNodeGetType(node, &type) == cudaSuccess &&
           (type == cudaGraphNodeTypeKernel || type == cudaGraphNodeTypeGraph);
  });
  cudaGetLastError();
  cudaGraphDestroy(graph);  // before anything fails: NCCL counts the graphs that know of it
  CUDA_CHECK(status);
  return none;
}

}  // namespace glia
