// A second stream beside the backend's, for work that may run under what is launched next: sums between GPUs during backward.
// Within a capture it becomes a branch of the graph.
#pragma once
#include <functional>

#include "engine/device/stream.h"

namespace glia {

class SideStream {
 public:
  explicit SideStream(Stream main);
  ~SideStream();
  SideStream(const SideStream&) = delete;
  SideStream& operator=(const SideStream&) = delete;

  Stream stream() const;
  bool capturing() const;  // the main stream's work goes into a graph
  // What is launched on the stream that is given comes behind all that the main stream has so far.
  Stream fork();
  // What the main stream gets next comes behind all that the side stream has. Nothing without a fork since the last join.
  void join();
  void wait();  // on the host, for what the side stream has
  // The place that the side stream has come to, and what the main stream gets next comes behind it.
  void mark(size_t number);
  void join(size_t number);
  // Whether what `work` launches on this stream takes no multiprocessor: copies, and waits for them. Nothing of it is done.
  bool launches_no_kernel(const std::function<void()>& work);

 private:
  struct Handles;
  Handles* handles_;
};

}  // namespace glia
