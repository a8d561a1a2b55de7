// A caching, stream-ordered allocator: a released block goes to a free list and is handed out again for the next
// request of its size class without waiting, which is safe because one Context uses one stream. It counts what it
// does.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "engine/device/backend.h"

namespace glia {

struct MemoryStats {
  int64_t active = 0;              // bytes in live tensors
  int64_t peak = 0;                // the most `active` has been since reset_peak
  int64_t cached = 0;              // bytes in free lists
  int64_t system_allocations = 0;  // how often the device was asked (cudaMalloc)
};

class Allocator {
 public:
  explicit Allocator(Backend& backend) : backend_(backend) {}
  ~Allocator();
  Allocator(const Allocator&) = delete;
  Allocator& operator=(const Allocator&) = delete;

  struct Block {
    void* data = nullptr;
    int64_t bytes = 0;  // of the size class
    int pool = 0;
    int64_t guarded = -1;  // with guard(): the bytes asked for
  };
  // Out of memory is an error that names the request, the counters and what to lower.
  Block allocate(int64_t bytes);
  void release(Block block) noexcept;

  // Blocks allocated while a CUDA graph is captured belong to pool 1 for ever: a later replay writes to them, so no
  // tensor outside a capture may get them.
  void use_pool(int pool) { pool_ = pool; }

  // For tests: blocks are handed out full of ones (NaN in every floating type, so that what is read before it is
  // written shows), between two margins of ones that must still be there when the block comes back. Waits for the
  // device each time.
  void guard(bool on) { guard_ = on; }
  int64_t overwritten() const { return overwritten_; }  // blocks that came back with a broken margin

  void trim();  // gives the free lists back to the device
  void reset_peak() { stats_.peak = stats_.active; }
  const MemoryStats& stats() const { return stats_; }

  // Eight classes an octave: at most 12.5 % is lost, and batches of nearly equal size share blocks.
  static int64_t size_class(int64_t bytes);

 private:
  Backend& backend_;
  std::map<int64_t, std::vector<void*>> free_[2];
  MemoryStats stats_;
  int pool_ = 0;
  bool guard_ = false;
  int64_t overwritten_ = 0;

  void fill_guarded(Block& block, int64_t bytes);
  void check_guarded(Block& block) noexcept;
};

}  // namespace glia
