#include "engine/device/graph.h"

namespace glia {

#if GLIA_CUDA
std::unique_ptr<Graph> capture_cuda_graph(CudaHandles& cuda, const std::function<void()>& work);  // cuda/graph.cpp

namespace {

class CountedGraph final : public Graph {
 public:
  CountedGraph(std::unique_ptr<Graph> graph, Allocator& allocator)
      : graph_(std::move(graph)), bytes_(graph_->bytes()), allocator_(allocator) {
    allocator_.graph_made(bytes_);
  }
  ~CountedGraph() override {
    graph_.reset();
    allocator_.graph_gone(bytes_);
  }
  void replay() override { graph_->replay(); }
  int64_t bytes() const override { return bytes_; }

 private:
  std::unique_ptr<Graph> graph_;
  int64_t bytes_;
  Allocator& allocator_;
};

}  // namespace
#endif

std::unique_ptr<Graph> capture_graph(Context& context, [[maybe_unused]] const std::function<void()>& work) {
  if (context.device().is_cpu()) return nullptr;
#if GLIA_CUDA
  struct PoolScope {
    explicit PoolScope(Allocator& allocator) : allocator(allocator) { allocator.use_pool(1); }
    ~PoolScope() { allocator.use_pool(0); }
    Allocator& allocator;
  } scope(context.allocator());
  return std::make_unique<CountedGraph>(capture_cuda_graph(context.cuda(), work), context.allocator());
#else
  return nullptr;
#endif
}

}  // namespace glia
