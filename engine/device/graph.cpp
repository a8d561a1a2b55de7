#include "engine/device/graph.h"

namespace glia {

#if GLIA_CUDA
std::unique_ptr<Graph> capture_cuda_graph(CudaHandles& cuda, const std::function<void()>& work);  // cuda/graph.cpp
#endif

std::unique_ptr<Graph> capture_graph(Context& context, [[maybe_unused]] const std::function<void()>& work) {
  if (context.device().is_cpu()) return nullptr;
#if GLIA_CUDA
  struct PoolScope {
    explicit PoolScope(Allocator& allocator) : allocator(allocator) { allocator.use_pool(1); }
    ~PoolScope() { allocator.use_pool(0); }
    Allocator& allocator;
  } scope(context.allocator());
  return capture_cuda_graph(context.cuda(), work);
#else
  return nullptr;
#endif
}

}  // namespace glia
