// Processes as threads of one: what MPI does between real ones, for tests that must run without it.
#pragma once
#include <condition_variable>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <thread>

#include "engine/comm/transport.h"
#include "engine/core/check.h"
#include "tests/test.h"

namespace glia::test {

class Post {
 public:
  void send(int from, int to, const void* memory, int64_t bytes) {
    const std::lock_guard lock(mutex_);
    const char* begin = static_cast<const char*>(memory);
    letters_[{from, to}].emplace_back(begin, begin + bytes);
    changed_.notify_all();
  }
  // False after so many seconds without a letter.
  bool receive(int from, int to, void* memory, int64_t bytes, double seconds) {
    std::unique_lock lock(mutex_);
    std::deque<std::vector<char>>& box = letters_[{from, to}];
    if (!changed_.wait_for(lock, std::chrono::duration<double>(seconds), [&] { return !box.empty(); }))
      return false;
    CHECK(static_cast<int64_t>(box.front().size()) == bytes, "post: {} sends {} {} bytes, which wants {}", from, to,
          box.front().size(), bytes);
    if (bytes > 0) std::memcpy(memory, box.front().data(), static_cast<size_t>(bytes));
    box.pop_front();
    return true;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::pair<int, int>, std::deque<std::vector<char>>> letters_;
};

class MailTransport : public Transport {
 public:
  MailTransport(Post& post, int process, int processes)
      : post_(post), process_(process), processes_(processes), host_("here") {}
  int process() const override { return process_; }
  int processes() const override { return processes_; }
  int local() const override { return process_; }
  const std::string& host(int) const override { return host_; }
  void set_patience(double seconds) override { patience_ = seconds; }
  void exchange(std::span<const Outgoing> out, std::span<const Incoming> in, double) override {
    for (const Outgoing& o : out) post_.send(process_, o.to, o.memory, o.bytes);
    for (const Incoming& i : in)
      if (!post_.receive(i.from, process_, i.memory, i.bytes, patience_))
        fail_input("rank {} on {} has not answered", i.from, host_);
  }
  [[noreturn]] void abort(int status) noexcept override { std::_Exit(status); }

 private:
  Post& post_;
  int process_, processes_;
  double patience_ = 20;
  std::string host_;
};

// body(transport of process p) on a thread each; the first error is thrown.
inline void run_processes(int processes, const std::function<void(Transport&)>& body) {
  Post post;
  std::vector<std::thread> threads;
  std::mutex mutex;
  std::exception_ptr first;
  for (int p = 0; p < processes; ++p)
    threads.emplace_back([&, p] {
      MailTransport transport(post, p, processes);
      try {
        body(transport);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (!first) first = std::current_exception();
      }
    });
  for (std::thread& t : threads) t.join();
  if (first) std::rethrow_exception(first);
}

}  // namespace glia::test
