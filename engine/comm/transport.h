// Bytes between processes: what a library of message passing must be able to do for ranks. All that is computed of the
// bytes, and in which order, stands above it (engine/comm/threads.h), so that it is the same on each of them.
// Errors are of one line and name the process and its host.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace glia {

class Transport {
 public:
  virtual ~Transport() = default;
  virtual int process() const = 0;  // 0 … processes() − 1
  virtual int processes() const = 0;
  virtual int local() const = 0;  // among the processes of this host
  virtual const std::string& host(int process) const = 0;

  struct Outgoing {
    int to;
    const void* memory;
    int64_t bytes;
  };
  struct Incoming {
    int from;
    void* memory;
    int64_t bytes;
  };
  // Sends and receives all of them; several to or from one process go in order. Nothing goes to oneself. Throws where some
  // have not come within `seconds`; 0: the usual patience. Who is missed may be waiting too, and is asked for whom: the error
  // names the process that does not answer even that.
  virtual void exchange(std::span<const Outgoing> out, std::span<const Incoming> in, double seconds = 0) = 0;
  // The usual patience, in seconds.
  virtual void set_patience(double seconds) = 0;
  // Ends all processes, this one included.
  [[noreturn]] virtual void abort(int status) noexcept = 0;
};

// The processes that mpirun or srun started together; nullptr where this one was started alone, or where whoever started
// several meant programs that know nothing of one another (run_all). To be called once a program. A launcher without a
// library that speaks with it is an error.     engine/comm/launch.cpp
std::unique_ptr<Transport> join_processes();

// Which of how many, as the launcher's environment says; {0, 1, 0} without one. Needs no library.
struct LaunchPlace {
  int process = 0, processes = 1, local = 0;  // `local`: among those of this host
};
LaunchPlace launch_place();

// What all processes must have in common, to be called by all. Throws in process 0 one line that names the first process
// that differs, its host, and in what; the others wait for it to end them.
struct Agreed {
  const char* what;  // "the flags"
  std::string value;
};
void require_agreement(Transport& transport, const std::vector<Agreed>& mine);

// What libglia_mpi.so gives, and its symbol. The number changes with this header.
constexpr int kTransportVersion = 1;
using OpenTransport = Transport* (*)(int version, std::string& problem);

}  // namespace glia
