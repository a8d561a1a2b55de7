#include "engine/comm/copy_engines.h"

#if GLIA_CUDA

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "engine/comm/sum_parts_kernels.h"
#include "engine/core/check.h"

namespace glia {
namespace {

constexpr int64_t kPack = 16;                  // bytes that the sum's kernel takes at once
constexpr int64_t kLeast = int64_t{4} << 20;   // below, a kernel of NCCL's is done before the copies have begun
constexpr int64_t kMost = int64_t{128} << 20;  // room for what is received; what is longer goes in pieces of it
constexpr int kSymmetric = 1;                  // NCCL_WIN_COLL_SYMMETRIC

}  // namespace

CopyEngines::CopyEngines(NcclComm comm, Communicator& host, SideStream& side)
    : nccl_(nccl()), comm_(comm), host_(host), side_(side) {}

CopyEngines::~CopyEngines() {
  for (void* p : memory_)
    if (nccl_.memory_free(p) != 0) std::fprintf(stderr, "glia: ncclMemFree failed\n");
}

bool CopyEngines::agreed(bool mine) {
  int32_t all = mine;
  host_.all_reduce(&all, 1, DType::kInt32, Reduction::kMin);
  return all != 0;
}

void* CopyEngines::registered(int64_t bytes) {
  agreed(true);  // nobody's device waits for what another rank has yet to launch: memory may be asked for
  void* p = nullptr;
  NcclWindow window = nullptr;
  if (nccl_.memory_allocate(&p, static_cast<size_t>(bytes)) == 0) memory_.push_back(p);
  else p = nullptr;
  if (!agreed(p)) return nullptr;
  const bool done = nccl_.window_register(comm_, p, static_cast<size_t>(bytes), &window, kSymmetric) == 0 && window;
  return agreed(done) ? p : nullptr;
}

// Tried on a little memory, since no version of NCCL says beforehand whether it takes copies: what it would launch is looked at.
bool CopyEngines::work() {
  if (tried_) return works_;
  tried_ = true;
  const char* policy = std::getenv("NCCL_CTA_POLICY");
  if (!agreed(nccl_.has_windows() && policy && std::string_view(policy) == "2")) return false;
  constexpr int64_t kTried = int64_t{2} << 20;
  char* data = static_cast<char*>(registered(kTried));
  if (!data) return false;
  const auto n = static_cast<size_t>(kTried / 4 / host_.size());
  const auto both = [&] {
    nccl_.check(nccl_.all_to_all(data, data + kTried / 2, n, NcclType::kBytes, comm_, side_.stream()),
                "ncclAlltoAll");
    nccl_.check(nccl_.all_gather(data + host_.rank() * n, data, n, NcclType::kBytes, comm_, side_.stream()),
                "ncclAllGather");
  };
  // Twice before the first capture: what NCCL makes at the first call must not be made within one, and its ranks tell calls of graphs
  // apart by a number that no other call may have left behind.
  agreed(true);
  both(), both();
  agreed(true);
  side_.wait();
  return works_ = agreed(side_.launches_no_kernel(both));
}

// By the difference of a long and a short gather, the slowest rank's.
void CopyEngines::measure() {
  constexpr int kTimes = 8;
  const auto seconds = [&](int64_t bytes) {
    const int64_t own = bytes / host_.size();
    auto* all = static_cast<char*>(received_);
    agreed(true);
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < kTimes; ++i)
      nccl_.check(nccl_.all_gather(all + host_.rank() * own, all, static_cast<size_t>(own), NcclType::kBytes, comm_,
                                   side_.stream()),
                  "ncclAllGather");
    agreed(true);
    side_.wait();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() / kTimes;
  };
  constexpr int64_t kShort = int64_t{1} << 20;
  seconds(kShort);
  const double difference = seconds(room_) - seconds(kShort);
  seconds_a_byte_ = std::max(1e-13, difference / static_cast<double>(room_ - kShort));
  host_.all_reduce(&seconds_a_byte_, 1, DType::kFloat64, Reduction::kMax);
}

std::shared_ptr<void> CopyEngines::allocate(int64_t bytes) {
  if (host_.size() == 1 || bytes < kLeast || !work()) return nullptr;
  const auto lend = [this](char* p) {
    blocks_[p].free = false;
    return std::shared_ptr<void>(p, [this](void* given) { blocks_[static_cast<char*>(given)].free = true; });
  };
  for (auto& [p, block] : blocks_)
    if (block.free && block.bytes == bytes) return lend(p);
  if (const int64_t room = std::min(bytes, kMost); room > room_) {
    void* received = registered(room);
    if (!received) return nullptr;
    received_ = received, room_ = room;  // graphs may still know the one before
  }
  if (seconds_a_byte_ == 0) measure();
  char* p = static_cast<char*>(registered(bytes));
  if (!p) return nullptr;
  blocks_[p] = {bytes, true};
  return lend(p);
}

bool CopyEngines::take(const void* data, int64_t n, DType dtype) const {
  const int64_t bytes = n * size_of(dtype);
  if (blocks_.empty() || bytes < kLeast || (dtype != DType::kBFloat16 && dtype != DType::kFloat32)) return false;
  const auto* at = static_cast<const char*>(data);
  auto block = blocks_.upper_bound(const_cast<char*>(at));
  if (block == blocks_.begin()) return false;
  --block;
  return at + bytes <= block->first + block->second.bytes && bytes % (kPack * host_.size()) == 0;
}

void CopyEngines::reduce_scatter(void* data, int64_t n, DType dtype, Stream stream) {
  const int64_t each = n / host_.size();
  nccl_.check(nccl_.all_to_all(data, received_, static_cast<size_t>(each * size_of(dtype)), NcclType::kBytes, comm_,
                               stream),
              "ncclAlltoAll");
  const auto add = [&]<class T>(T* own) {
    cuda::sum_parts(static_cast<const T*>(received_), host_.size(), each, own + host_.rank() * each, stream);
  };
  if (dtype == DType::kBFloat16) add(static_cast<bfloat16*>(data));
  else add(static_cast<float*>(data));
}

void CopyEngines::all_reduce(void* data, int64_t n, DType dtype, Stream stream) {
  const int64_t ranks = host_.size(), most = room_ / (kPack * ranks) * (kPack * ranks) / size_of(dtype);
  for (int64_t at = 0; at < n; at += most) {
    char* piece = static_cast<char*>(data) + at * size_of(dtype);
    const int64_t length = std::min(most, n - at);
    const auto own = static_cast<size_t>(length / ranks * size_of(dtype));
    reduce_scatter(piece, length, dtype, stream);
    nccl_.check(nccl_.all_gather(piece + host_.rank() * own, piece, own, NcclType::kBytes, comm_, stream),
                "ncclAllGather");
  }
}

}  // namespace glia

#endif
