#include "engine/device/allocator.h"

#include <algorithm>
#include <bit>

namespace glia {

Allocator::~Allocator() {
  trim();
  for (auto& [bytes, list] : free_[1])
    for (void* p : list) backend_.release(p);
}

int64_t Allocator::size_class(int64_t bytes) {
  const uint64_t n = static_cast<uint64_t>(std::max<int64_t>(bytes, 512));
  const int shift = std::max(0, static_cast<int>(std::bit_width(n - 1)) - 4);
  const uint64_t step = std::max<uint64_t>(uint64_t{1} << shift, 512);
  return static_cast<int64_t>((n + step - 1) / step * step);
}

Allocator::Block Allocator::allocate(int64_t bytes) {
  Block block{nullptr, size_class(bytes), pool_};
  auto& list = free_[pool_][block.bytes];
  if (!list.empty()) {
    block.data = list.back();
    list.pop_back();
    stats_.cached -= block.bytes;
  } else {
    block.data = backend_.allocate(block.bytes);
    if (!block.data && pool_ == 0) {
      trim();
      block.data = backend_.allocate(block.bytes);
    }
    ++stats_.system_allocations;
    CHECK(block.data,
          "out of memory on {}: {} bytes asked for; active {}, peak {}, cached {}, free on the device {}; lower the batch "
          "size, the model or the number of runs side by side",
          backend_.device().str(), bytes, stats_.active, stats_.peak, stats_.cached, backend_.free_bytes());
  }
  stats_.active += block.bytes;
  stats_.peak = std::max(stats_.peak, stats_.active);
  return block;
}

void Allocator::release(Block block) noexcept {
  stats_.active -= block.bytes;
  stats_.cached += block.bytes;
  free_[block.pool][block.bytes].push_back(block.data);
}

void Allocator::trim() {
  backend_.synchronize();
  for (auto& [bytes, list] : free_[0]) {  // pool 1 is in use by graphs until they are gone, with the Context
    for (void* p : list) {
      backend_.release(p);
      stats_.cached -= bytes;
    }
    list.clear();
  }
}

}  // namespace glia
