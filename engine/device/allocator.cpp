#include "engine/device/allocator.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <thread>

namespace glia {
namespace {

constexpr int64_t kMargin = 256;  // of a guarded block, at both ends; keeps the alignment

// How long a run that found no memory waits for others to end their step and answer, or to look.
constexpr std::chrono::milliseconds kPatience(2000), kPause(10);
constexpr int64_t kLookEvery = 64;  // steps; to look takes microseconds
constexpr int64_t kScarce = 32;     // of the device's memory less than a part of so many is free

// The allocators of this process. Whoever holds its lock may use them: none of them ends meanwhile. Taken behind
// Backend::no_captures() and before an allocator's own.
struct Peers {
  std::mutex mutex;
  std::vector<Allocator*> all;
};
Peers& peers() {
  static Peers instance;  // knows of a device what the process takes of it
  return instance;
}

}  // namespace

Allocator::Allocator(Backend& backend) : backend_(backend) {
  stats_.reserved = backend.reserved_bytes();
  const std::lock_guard lock(peers().mutex);
  peers().all.push_back(this);
}

Allocator::~Allocator() {
  {
    const std::lock_guard lock(peers().mutex);
    std::erase(peers().all, this);
  }
  try {
    trim();
  } catch (const Error&) {
    // The device is lost, and whoever found it has said so: another one ends while that error is under way.
  }
  for (auto& [bytes, list] : free_[1])
    for (void* p : list) backend_.release(p);
}

int64_t Allocator::size_class(int64_t bytes, int64_t page) {
  const uint64_t n = static_cast<uint64_t>(std::max<int64_t>(bytes, 512));
  const int shift = std::max(0, static_cast<int>(std::bit_width(n - 1)) - 4);
  uint64_t step = std::max<uint64_t>(uint64_t{1} << shift, 512);
  if (bytes > page) step = std::max(step, static_cast<uint64_t>(page));  // both are powers of two
  return static_cast<int64_t>((n + step - 1) / step * step);
}

void* Allocator::take_free(const Block& block) {
  const std::lock_guard lock(mutex_);
  auto& list = free_[block.pool][block.bytes];
  if (list.empty()) return nullptr;
  void* p = list.back();
  list.pop_back();
  stats_.cached -= block.bytes;
  return p;
}

Allocator::Block Allocator::allocate(int64_t bytes) {
  Block block{nullptr, size_class(guard_ ? bytes + 2 * kMargin : bytes, backend_.page_bytes()), pool_};
  block.data = take_free(block);
  const bool asked = !block.data;
  if (asked) block.data = obtain(block.bytes);
  if (!block.data)
    throw OutOfMemory(fmt::format(
        "out of memory on {}: {} bytes asked for; {}; lower the batch size, the model or the number of runs side by "
        "side",
        backend_.device().str(), bytes, report()));
  {
    const std::lock_guard lock(mutex_);
    stats_.system_allocations += asked;
    stats_.active += block.bytes;
    stats_.peak = std::max(stats_.peak, stats_.active);
  }
  if (guard_) fill_guarded(block, bytes);
  return block;
}

void* Allocator::obtain(int64_t bytes) {
  void* p = backend_.allocate(bytes);
  if (p || pool_ == 1) return p;
  trim_all();
  p = backend_.allocate(bytes);
  if (!p && reclaim_) {
    reclaim_();
    trim();
    p = backend_.allocate(bytes);
  }
  return p ? p : obtain_from_others(bytes);
}

// Graphs are their own threads' to drop: they answer between two steps.
void* Allocator::obtain_from_others(int64_t bytes) {
  const int64_t total = backend_.total_bytes();
  if (total > 0 && bytes > total) return nullptr;
  bool any = total > 0;  // other programs may use this device
  {
    const std::lock_guard lock(peers().mutex);
    for (Allocator* other : peers().all) {
      if (other == this || other->backend_.device() != backend_.device() || other->stats().graphs == 0) continue;
      other->asked_ = any = true;
    }
  }
  for (auto waited = kPause; any && waited < kPatience; waited += kPause) {
    std::this_thread::sleep_for(kPause);
    if (void* p = backend_.allocate(bytes)) return p;
  }
  return nullptr;
}

void Allocator::between_steps() {
  if (asked_.exchange(false)) {
    if (reclaim_) reclaim_();
    trim();
  } else if (++steps_ % kLookEvery == 0 && backend_.free_bytes() < backend_.total_bytes() / kScarce) {
    trim();
  }
}

// Without graphs nobody replays into pool 1: its blocks are everybody's. A capture that broke leaves some too.
void Allocator::share_pool() {
  if (stats_.graphs > 0) return;
  for (auto& [size, list] : free_[1]) {
    auto& to = free_[0][size];
    to.insert(to.end(), list.begin(), list.end());
    list.clear();
  }
}

void Allocator::use_pool(int pool) {
  const std::lock_guard lock(mutex_);
  pool_ = pool;
  if (pool_ == 0) share_pool();
}

void Allocator::graph_made(int64_t bytes) {
  const std::lock_guard lock(mutex_);
  ++stats_.graphs;
  stats_.graph_bytes += bytes;
}

void Allocator::graph_gone(int64_t bytes) noexcept {
  const std::lock_guard lock(mutex_);
  --stats_.graphs;
  stats_.graph_bytes -= bytes;
  if (pool_ == 0) share_pool();
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
  const std::lock_guard lock(mutex_);
  stats_.active -= block.bytes;
  stats_.cached += block.bytes;
  free_[block.pool][block.bytes].push_back(block.data);
}

// What is in `lists` no longer is in any: nobody else gets it while the work that may still use it ends.
void Allocator::give_back(FreeLists& lists) noexcept {
  for (auto& [bytes, list] : lists)
    for (void* p : list) backend_.release(p);
}

void Allocator::trim() {
  FreeLists lists;
  {
    const std::lock_guard lock(mutex_);
    lists.swap(free_[0]);  // pool 1 is in use by graphs until they are gone
    for (const auto& [bytes, list] : lists) stats_.cached -= bytes * static_cast<int64_t>(list.size());
  }
  backend_.synchronize();
  give_back(lists);
}

void Allocator::trim_all() {
  trim();  // without the locks: this stream's work may wait for another rank's, whose thread may wait for a lock
  const auto quiet = backend_.no_captures();
  const std::lock_guard lock(peers().mutex);
  for (Allocator* other : peers().all)
    if (other != this && other->backend_.device() == backend_.device()) other->trim();
}

void Allocator::reset_peak() {
  const std::lock_guard lock(mutex_);
  stats_.peak = stats_.active;
}

void Allocator::count_elsewhere(int64_t bytes) {
  const std::lock_guard lock(mutex_);
  stats_.active += bytes;
  stats_.peak = std::max(stats_.peak, stats_.active);
}

MemoryStats Allocator::stats() const {
  const std::lock_guard lock(mutex_);
  return stats_;
}

std::string Allocator::report() const {
  const MemoryStats own = stats();
  int64_t runs = 0, others = 0;
  {
    const std::lock_guard lock(peers().mutex);
    for (const Allocator* other : peers().all)
      if (other != this && other->backend_.device() == backend_.device()) ++runs, others += other->stats().held();
  }
  std::string text = fmt::format("active {}, peak {}, cached {}", own.active, own.peak, own.cached);
  if (own.graphs > 0) text += fmt::format(", {} graphs of {}", own.graphs, own.graph_bytes);
  if (own.reserved > 0) text += fmt::format(", workspaces {}", own.reserved);
  if (runs > 0) text += fmt::format("; {} more of this program {}", runs, others);
  const int64_t total = backend_.total_bytes(), free = backend_.free_bytes();
  if (total > 0) text += fmt::format("; driver, code and other programs {}", total - free - own.held() - others);
  return text + fmt::format("; free on the device {}", free);
}

}  // namespace glia
