#include "engine/device/graph_cache.h"

#include <algorithm>

namespace glia {

GraphCache::GraphCache(Context& context, Capture capture) : context_(context), capture_(std::move(capture)) {
  context_.allocator().set_reclaim([this] { drop_all(); });
}

GraphCache::~GraphCache() { context_.allocator().set_reclaim(nullptr); }

void GraphCache::drop_all() {
  if (count_ == 0) return;
  context_.synchronize();  // the last replay may be under way
  for (auto& [shape, entry] : entries_) entry.graph.reset();
  count_ = 0;
  eager_until_ = uses_ + kEager;
}

bool GraphCache::make_room() {
  if (count_ < kMost) return true;
  Entry* oldest = nullptr;
  for (auto& [shape, entry] : entries_)
    if (entry.graph && (!oldest || entry.used < oldest->used)) oldest = &entry;
  if (uses_ - oldest->used < kIdle) return false;
  context_.synchronize();
  oldest->graph.reset();
  --count_;
  return true;
}

void GraphCache::capture(Entry& entry, const std::function<void()>& work) {
  constexpr int kAttempts = 3;
  if (entry.failed_captures == kAttempts || uses_ < eager_until_ || !make_room()) return;
  try {
    entry.graph = capture_(context_, work);
    count_ += entry.graph != nullptr;
  } catch (const OutOfMemory&) {
    // Nothing has run: it runs eagerly, with what an earlier eager one left in the free lists. There may be room the
    // next times; if not, this shape stays eager.
    ++entry.failed_captures;
  } catch (const Error&) {
    // Another thread's driver call can break a capture (engine/device/cuda/capture_lock.h): eagerly, and the next use
    // of this shape tries again.
    if (++entry.failed_captures == kAttempts) throw;
  }
}

void GraphCache::run(const Shape& shape, bool graphs, const std::function<void()>& work) {
  context_.allocator().between_steps();
  Entry& entry = entries_[shape];
  entry.used = ++uses_;
  if (graphs && entry.warm && !entry.graph) capture(entry, work);
  // Ranks of one process meet before and behind what they launch together (engine/comm/devices.cpp), call by call or graph by graph:
  // where one of them has no graph, none replays.
  Communicator& ranks = context_.communicator();
  if (ranks.meet(graphs && entry.graph)) {
    entry.graph->replay();
    ranks.meet(true);
  } else {
    work();
    // Of several ranks none runs ahead eagerly: once a thousand launches wait, the next one waits too, holding a lock of the driver
    // that another rank of this process may want before it launches what this one's device waits for.
    if (ranks.size() > 1) context_.synchronize();
  }
  entry.warm = true;
}

}  // namespace glia
