// The captured graphs of work that comes in several shapes, a run's steps: eagerly the first time, which makes plans and
// handles for the shape; captured the second; then replayed. The bits are the same either way.
//
// A graph takes device memory for its nodes, tens of KB each, and shapes can be many: no more than kMost graphs are kept. A
// new one takes the place of the one that has waited longest, if that is longer than kIdle uses of any: else shapes in turn
// would be captured over and over, which costs more than eager steps. Where memory ends all graphs go, here or for another
// run (Allocator::set_reclaim), and for kEager uses none is made.
#pragma once
#include <array>
#include <functional>
#include <map>

#include "engine/device/graph.h"

namespace glia {

class GraphCache {
 public:
  static constexpr int64_t kMost = 64, kIdle = 512, kEager = 512;
  using Shape = std::array<int64_t, 6>;  // whatever tells one shape of the work from another
  using Capture = std::function<std::unique_ptr<Graph>(Context&, const std::function<void()>&)>;

  // `capture`: for tests; what it gives is replayed instead of running the work.
  explicit GraphCache(Context& context, Capture capture = capture_graph);
  ~GraphCache();
  GraphCache(const GraphCache&) = delete;
  GraphCache& operator=(const GraphCache&) = delete;

  // Runs the work, whose launches are the same for every call with this shape. With graphs off it is eager.
  void run(const Shape& shape, bool graphs, const std::function<void()>& work);
  int64_t count() const { return count_; }

 private:
  struct Entry {
    bool warm = false;
    int failed_captures = 0;
    int64_t used = 0;
    std::unique_ptr<Graph> graph;
  };
  void drop_all();
  bool make_room();
  void capture(Entry& entry, const std::function<void()>& work);

  Context& context_;
  Capture capture_;
  std::map<Shape, Entry> entries_;
  int64_t count_ = 0, uses_ = 0, eager_until_ = 0;
};

}  // namespace glia
