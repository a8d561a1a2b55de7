// A caching, stream-ordered allocator: a released block goes to a free list and is handed out again for the next
// request of its size class without waiting, which is safe because one Context uses one stream. It counts what it
// does.
//
// Runs side by side in one process have an allocator each on the same device. One that gets no memory takes the others'
// free lists, then asks them for their captured graphs, before it gives up. Another process cannot be asked: where the device
// is nearly full everybody gives back what lies idle.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "engine/core/check.h"
#include "engine/device/backend.h"

namespace glia {

struct MemoryStats {
  int64_t active = 0;              // bytes in live tensors
  int64_t peak = 0;                // the most `active` has been since reset_peak
  int64_t cached = 0;              // bytes in free lists
  int64_t system_allocations = 0;  // how often the device was asked (cudaMalloc)
  int64_t graphs = 0;              // captured graphs that are alive
  int64_t graph_bytes = 0;         // what they keep on the device for their nodes, blocks of pool 1 not among it
  int64_t reserved = 0;            // the backend's workspaces
  int64_t held() const { return active + cached + graph_bytes + reserved; }
};

// A request that nothing could make room for.
class OutOfMemory : public Error {
 public:
  using Error::Error;
};

class Allocator {
 public:
  explicit Allocator(Backend& backend);
  ~Allocator();
  Allocator(const Allocator&) = delete;
  Allocator& operator=(const Allocator&) = delete;

  struct Block {
    void* data = nullptr;
    int64_t bytes = 0;  // of the size class
    int pool = 0;
    int64_t guarded = -1;  // with guard(): the bytes asked for
  };
  // OutOfMemory names the request, who holds what, and what to lower.
  Block allocate(int64_t bytes);
  void release(Block block) noexcept;

  // Blocks allocated while a CUDA graph is captured belong to pool 1 as long as there are graphs: a later replay writes to
  // them, so no tensor outside a capture may get them. In pool 1 a request that fails makes no room: nothing may be freed
  // during a capture.
  void use_pool(int pool);
  void graph_made(int64_t bytes);
  void graph_gone(int64_t bytes) noexcept;  // the last one leaves pool 1's blocks to everybody

  // What drops things that this context could make again, its graphs: called by the context's own thread, where an
  // allocation fails, or in between_steps() where another run's does. Null: there is nothing.
  void set_reclaim(std::function<void()> reclaim) { reclaim_ = std::move(reclaim); }
  // Between steps: gives back what another run has asked for, and, looking now and then, the free lists where little of the
  // device is left, which another program may be waiting for.
  void between_steps();
  // Gives back the free lists of every allocator of this device, this one's too.
  void trim_all();

  // For tests: blocks are handed out full of ones (NaN in every floating type, so that what is read before it is
  // written shows), between two margins of ones that must still be there when the block comes back. Waits for the
  // device each time.
  void guard(bool on) { guard_ = on; }
  int64_t overwritten() const { return overwritten_; }  // blocks that came back with a broken margin

  // Memory of others that tensors hold is counted as theirs all the same; negative when they let go of it.
  void count_elsewhere(int64_t bytes);

  void trim();  // gives the free lists back to the device
  void reset_peak();
  MemoryStats stats() const;
  // Who holds what on this device: this allocator, the others of the process, and what neither knows of (the driver, loaded
  // code, other programs). One line, bytes.
  std::string report() const;

  // Eight classes an octave: at most 12.5 % is lost, and batches of nearly equal size share blocks. Above a page whole
  // pages, which is what the device takes for them anyway.
  static int64_t size_class(int64_t bytes, int64_t page = 1);

 private:
  using FreeLists = std::map<int64_t, std::vector<void*>>;
  Backend& backend_;
  mutable std::mutex
      mutex_;  // free lists and stats, which other threads trim and read; never held in a backend's call
  FreeLists free_[2];
  MemoryStats stats_;
  int pool_ = 0;
  bool guard_ = false;
  int64_t overwritten_ = 0;
  std::function<void()> reclaim_;
  std::atomic<bool> asked_ = false;
  int64_t steps_ = 0;

  void* take_free(const Block& block);
  void* obtain(int64_t bytes);
  void* obtain_from_others(int64_t bytes);
  void share_pool();
  void give_back(FreeLists& lists) noexcept;
  void fill_guarded(Block& block, int64_t bytes);
  void check_guarded(Block& block) noexcept;
};

}  // namespace glia
