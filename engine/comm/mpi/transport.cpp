// MPI as a library of its own, libglia_mpi.so: a program that runs alone needs no MPI, and one that mpirun started loads
// this. Only bytes are sent: what is added, and in which order, is the same code with every transport.
#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <thread>
#include <vector>

#include "engine/comm/transport.h"
#include "engine/core/check.h"

namespace glia {
namespace {

constexpr int kTag = 71, kAsk = 72, kAnswer = 73;
constexpr int64_t kTurnsAwake = 1000;
constexpr double kPatienceOfAsking = 1;  // seconds
// MPI counts in int.
constexpr int64_t kMostBytes = int64_t{1} << 30;

class MpiTransport : public Transport {
 public:
  MpiTransport() {
    MPI_Comm_rank(MPI_COMM_WORLD, &process_);
    MPI_Comm_size(MPI_COMM_WORLD, &processes_);
    char name[MPI_MAX_PROCESSOR_NAME] = {};
    int length = 0;
    MPI_Get_processor_name(name, &length);
    std::vector<char> names(static_cast<size_t>(processes_) * sizeof name);
    MPI_Allgather(name, sizeof name, MPI_CHAR, names.data(), sizeof name, MPI_CHAR, MPI_COMM_WORLD);
    for (int q = 0; q < processes_; ++q) hosts_.emplace_back(names.data() + static_cast<size_t>(q) * sizeof name);
    local_ = static_cast<int>(std::count(hosts_.begin(), hosts_.begin() + process_, hosts_[size_t(process_)]));
  }
  ~MpiTransport() override { MPI_Finalize(); }

  int process() const override { return process_; }
  int processes() const override { return processes_; }
  int local() const override { return local_; }
  const std::string& host(int process) const override { return hosts_[static_cast<size_t>(process)]; }
  void set_patience(double seconds) override { patience_ = seconds; }

  void exchange(std::span<const Outgoing> out, std::span<const Incoming> in, double seconds) override {
    requests_.clear(), from_.clear();
    for (const Incoming& i : in)
      each_piece(i.bytes, [&](int64_t at, int count) {
        MPI_Irecv(static_cast<char*>(i.memory) + at, count, MPI_BYTE, i.from, kTag, MPI_COMM_WORLD, next(i.from));
      });
    for (const Outgoing& o : out)
      each_piece(o.bytes, [&](int64_t at, int count) {
        MPI_Isend(static_cast<const char*>(o.memory) + at, count, MPI_BYTE, o.to, kTag, MPI_COMM_WORLD, next(o.to));
      });
    wait(seconds > 0 ? seconds : patience_);
  }

  [[noreturn]] void abort(int status) noexcept override {
    MPI_Abort(MPI_COMM_WORLD, status);
    std::_Exit(status);
  }

 private:
  template <class F> static void each_piece(int64_t bytes, F f) {
    for (int64_t at = 0; at < bytes; at += kMostBytes) f(at, static_cast<int>(std::min(kMostBytes, bytes - at)));
  }
  MPI_Request* next(int peer) {
    requests_.push_back(MPI_REQUEST_NULL), from_.push_back(peer);
    return &requests_.back();
  }

  using Clock = std::chrono::steady_clock;
  static double since(Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
  }

  // Processes may be more than cores: whoever waits gives its core away, soon for longer.
  void wait(double seconds) {
    const auto begin = Clock::now();
    for (int64_t turn = 0; turn < kTurnsAwake || since(begin) <= seconds; ++turn) {
      int done = 0;
      MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &done, MPI_STATUSES_IGNORE);
      if (done) return;
      if (turn < kTurnsAwake) std::this_thread::yield();
      else std::this_thread::sleep_for(std::chrono::microseconds(50));
      if (turn % 64 == 63) answer();
    }
    // Who is missed may wait for another as we do, and so on: the one is named that does not even say so.
    std::vector<bool> asked(static_cast<size_t>(processes_));
    int by = process_, missed = first_missing();
    while (missed >= 0) {
      const int next = ask(missed);
      if (first_missing() < 0) return;  // late, but there
      if (next < 0 || next == process_ || asked[static_cast<size_t>(next)]) break;
      asked[static_cast<size_t>(missed)] = true;
      by = missed, missed = next;
    }
    if (missed >= 0)
      fail_input("rank {} on {} has not answered rank {} on {} for {:.3g} s", missed, host(missed), by, host(by),
                 seconds);
  }

  // A process that has not answered yet; −1: all have. MPI_Testall leaves all requests as they are until all have come.
  int first_missing() {
    int missing = -1;
    for (size_t i = 0; i < requests_.size(); ++i) {
      int came = 0;
      MPI_Test(&requests_[i], &came, MPI_STATUS_IGNORE);
      if (!came && missing < 0) missing = from_[i];
    }
    return missing;
  }

  // Two numbers, sent and forgotten.
  void send(int to, int tag, int first, int second) {
    MPI_Request request;
    MPI_Isend(said_.emplace_back(std::array{first, second}).data(), 2, MPI_INT, to, tag, MPI_COMM_WORLD, &request);
    MPI_Request_free(&request);
  }
  // Tells whoever asks for whom this process waits.
  void answer() {
    for (;;) {
      int there = 0, question[2];
      MPI_Status status;
      MPI_Iprobe(MPI_ANY_SOURCE, kAsk, MPI_COMM_WORLD, &there, &status);
      if (!there) return;
      MPI_Recv(question, 2, MPI_INT, status.MPI_SOURCE, kAsk, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
      if (const int missing = first_missing(); missing >= 0) send(status.MPI_SOURCE, kAnswer, question[0], missing);
    }
  }
  // For whom a process waits; −1: it does not say, or nobody is missed any more.
  int ask(int process) {
    send(process, kAsk, ++questions_, 0);
    for (const auto begin = Clock::now(); since(begin) < kPatienceOfAsking && first_missing() >= 0;) {
      answer();
      int there = 0, reply[2];
      MPI_Iprobe(process, kAnswer, MPI_COMM_WORLD, &there, MPI_STATUS_IGNORE);
      if (there) {
        MPI_Recv(reply, 2, MPI_INT, process, kAnswer, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        if (reply[0] == questions_) return reply[1];
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return -1;
  }

  int process_ = 0, processes_ = 1, local_ = 0;
  double patience_ = 25;
  std::vector<std::string> hosts_;
  std::vector<MPI_Request> requests_;
  std::vector<int> from_;  // by request
  int questions_ = 0;
  std::deque<std::array<int, 2>> said_;  // MPI reads it after send()
};

}  // namespace

// Whoever loads the library finds this by its name.
extern "C" __attribute__((visibility("default"))) Transport* glia_open_mpi(int version, std::string& problem) {
  if (version != kTransportVersion) {
    problem = fmt::format("libglia_mpi.so is of another build: expected version {}, it has {}", version,
                          kTransportVersion);
    return nullptr;
  }
  int provided = 0;
  if (MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided) != MPI_SUCCESS ||
      provided < MPI_THREAD_SERIALIZED) {
    problem = "this MPI cannot be called from a thread that is not the first";
    return nullptr;
  }
  return new MpiTransport();
}

}  // namespace glia
