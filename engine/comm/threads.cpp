#include "engine/comm/threads.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

#include "engine/core/bfloat16.h"
#include "engine/core/check.h"

namespace glia {
namespace {

// What the threads share: where each one's memory of the current call lies, and a barrier that a failure opens.
class Meeting {
 public:
  explicit Meeting(int ranks) : from(ranks), sends(ranks), ranks_(ranks) {}

  std::vector<const void*> from;
  std::vector<std::span<const int64_t>> sends;

  void wait() {
    std::unique_lock lock(mutex_);
    const int64_t turn = turn_;
    if (++arrived_ == ranks_) {
      arrived_ = 0, ++turn_;
      changed_.notify_all();
    }
    changed_.wait(lock, [&] { return turn_ != turn || failed_; });
    CHECK(turn_ != turn, "ranks: another rank has failed");
  }
  void fail() {
    const std::lock_guard lock(mutex_);
    failed_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int ranks_, arrived_ = 0;
  int64_t turn_ = 0;
  bool failed_ = false;
};

// Bfloat16 is added in float32 and rounded after each rank.
template <class T> T reduced(T a, T b, Reduction reduction) {
  using F = std::conditional_t<std::is_same_v<T, bfloat16>, float, T>;
  const F x = static_cast<F>(a), y = static_cast<F>(b);
  if (reduction == Reduction::kSum) return static_cast<T>(x + y);
  return (reduction == Reduction::kMax) == (y > x) ? b : a;
}

template <class F> void with_type(DType dtype, F f) {
  switch (dtype) {
    case DType::kFloat32: return f(float{});
    case DType::kFloat64: return f(double{});
    case DType::kBFloat16: return f(bfloat16{});
    case DType::kInt32: return f(int32_t{});
  }
  CHECK(false, "ranks: wants a type that can be added");
}

class ThreadCommunicator : public Communicator {
 public:
  ThreadCommunicator(Meeting& meeting, int rank, int size) : meeting_(meeting), rank_(rank), size_(size) {}
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  std::string description() const override { return fmt::format("{} threads", size_); }

  void all_reduce(void* data, int64_t n, DType dtype, Reduction reduction) override {
    std::vector<char> result(static_cast<size_t>(n * size_of(dtype)));
    meet(data);
    reduce(0, n, dtype, reduction, result.data());
    meeting_.wait();  // all have read
    std::memcpy(data, result.data(), result.size());
  }
  void reduce_scatter(const void* from, void* to, int64_t n, DType dtype, Reduction reduction) override {
    std::vector<char> result(static_cast<size_t>(n * size_of(dtype)));
    meet(from);
    reduce(rank_ * n, n, dtype, reduction, result.data());
    meeting_.wait();
    std::memcpy(to, result.data(), result.size());
  }
  void all_gather(const void* from, void* to, int64_t n, DType dtype) override {
    const int64_t bytes = n * size_of(dtype);
    std::vector<char> result(static_cast<size_t>(size_ * bytes));
    meet(from);
    for (int r = 0; r < size_; ++r) std::memcpy(result.data() + r * bytes, meeting_.from[r], bytes);
    meeting_.wait();
    std::memcpy(to, result.data(), result.size());
  }
  void all_to_all_rows(const void* from, std::span<const int64_t> send, void* to, std::span<const int64_t> receive,
                       int64_t row_bytes) override {
    CHECK(send.size() == static_cast<size_t>(size_) && receive.size() == send.size(),
          "all_to_all_rows: wants counts of {} ranks, got {} and {}", size_, send.size(), receive.size());
    meeting_.sends[rank_] = send;
    meet(from);
    auto* at = static_cast<char*>(to);
    for (int r = 0; r < size_; ++r) {
      CHECK(meeting_.sends[r][rank_] == receive[r],
            "all_to_all_rows: rank {} sends {} rows to rank {}, which wants {}", r, meeting_.sends[r][rank_], rank_,
            receive[r]);
      int64_t before = 0;
      for (int q = 0; q < rank_; ++q) before += meeting_.sends[r][q];
      std::memcpy(at, static_cast<const char*>(meeting_.from[r]) + before * row_bytes, receive[r] * row_bytes);
      at += receive[r] * row_bytes;
    }
    meeting_.wait();
  }
  void broadcast(void* data, int64_t bytes, int root) override {
    CHECK(root >= 0 && root < size_, "broadcast: wants a root below {}, got {}", size_, root);
    meet(data);
    if (rank_ != root) std::memcpy(data, meeting_.from[root], bytes);
    meeting_.wait();
  }
  void barrier() override { meeting_.wait(); }

 private:
  void meet(const void* memory) {
    meeting_.from[rank_] = memory;
    meeting_.wait();
  }
  void reduce(int64_t first, int64_t n, DType dtype, Reduction reduction, void* result) {
    with_type(dtype, [&]<class T>(T) {
      auto* to = static_cast<T*>(result);
      std::copy_n(static_cast<const T*>(meeting_.from[0]) + first, n, to);
      for (int r = 1; r < size_; ++r) {
        const T* x = static_cast<const T*>(meeting_.from[r]) + first;
        for (int64_t i = 0; i < n; ++i) to[i] = reduced(to[i], x[i], reduction);
      }
    });
  }

  Meeting& meeting_;
  int rank_, size_;
};

}  // namespace

void run_ranks(int ranks, const std::function<void(std::unique_ptr<Communicator>)>& body) {
  CHECK(ranks >= 1, "ranks: wants one at least, got {}", ranks);
  Meeting meeting(ranks);
  std::mutex mutex;
  std::exception_ptr first;
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; ++r)
    threads.emplace_back([&, r] {
      try {
        body(std::make_unique<ThreadCommunicator>(meeting, r, ranks));
      } catch (...) {
        {
          const std::lock_guard lock(mutex);
          if (!first) first = std::current_exception();
        }
        meeting.fail();
      }
    });
  for (std::thread& t : threads) t.join();
  if (first) std::rethrow_exception(first);
}

}  // namespace glia
