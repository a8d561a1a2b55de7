// MPI as a library of its own, libglia_mpi.so: a program that runs alone needs no MPI, and one that mpirun started loads
// this. Only bytes are sent: what is added, and in which order, is the same code with every transport.
#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "engine/comm/transport.h"
#include "engine/core/check.h"

namespace glia {
namespace {

constexpr int kTag = 71;
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

  // Processes may be more than cores: whoever waits gives its core away, soon for longer.
  void wait(double seconds) {
    using Clock = std::chrono::steady_clock;
    const auto begin = Clock::now();
    for (int64_t turn = 0;; ++turn) {
      int done = 0;
      MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &done, MPI_STATUSES_IGNORE);
      if (done) return;
      if (turn < 1000) std::this_thread::yield();
      else std::this_thread::sleep_for(std::chrono::microseconds(50));
      if (std::chrono::duration<double>(Clock::now() - begin).count() > seconds) break;
    }
    for (size_t i = 0; i < requests_.size(); ++i)
      if (requests_[i] != MPI_REQUEST_NULL)
        fail_input("rank {} on {} has not answered rank {} on {} for {:.3g} s", from_[i], host(from_[i]), process_,
                   host(process_), seconds);
  }

  int process_ = 0, processes_ = 1, local_ = 0;
  double patience_ = 25;
  std::vector<std::string> hosts_;
  std::vector<MPI_Request> requests_;
  std::vector<int> from_;  // by request
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
