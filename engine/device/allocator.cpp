#include "engine/device/allocator.h"

#include <algorithm>
#include <bit>

namespace glia {

constexpr int64_t kMargin = 256;  // of a guarded block, at both ends; keeps the alignment

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
  Block block{nullptr, size_class(guard_ ? bytes + 2 * kMargin : bytes), pool_};
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
    CHECK(
        block.data,
        "out of memory on {}: {} bytes asked for; active {}, peak {}, cached {}, free on the device {}; lower the "
        "batch size, the model or the number of runs side by side",
        backend_.device().str(), bytes, stats_.active, stats_.peak, stats_.cached, backend_.free_bytes());
  }
  stats_.active += block.bytes;
  stats_.peak = std::max(stats_.peak, stats_.active);
  if (guard_) fill_guarded(block, bytes);
  return block;
}

void Allocator::fill_guarded(Block& block, int64_t bytes) {
  const std::vector<char> ones(static_cast<size_t>(block.bytes), static_cast<char>(0xff));
  backend_.copy(block.data, ones.data(), block.bytes, CopyKind::kHostToDevice);
  backend_.synchronize();
  block.data = static_cast<char*>(block.data) + kMargin;
  block.guarded = bytes;
}

void Allocator::check_guarded(Block& block) noexcept {
  block.data = static_cast<char*>(block.data) - kMargin;
  std::vector<char> now(static_cast<size_t>(block.bytes));
  backend_.copy(now.data(), block.data, block.bytes, CopyKind::kDeviceToHost);
  const auto intact = [](char c) { return c == static_cast<char>(0xff); };
  if (!std::all_of(now.begin(), now.begin() + kMargin, intact) ||
      !std::all_of(now.begin() + kMargin + block.guarded, now.end(), intact))
    ++overwritten_;
  block.guarded = -1;
}

void Allocator::release(Block block) noexcept {
  if (block.guarded >= 0) check_guarded(block);
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
