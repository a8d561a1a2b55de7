#include <dlfcn.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "engine/comm/transport.h"
#include "engine/core/check.h"

namespace glia {
namespace {

// A number of the environment; −1 where there is none.
int number_of(const char* name) {
  const char* text = std::getenv(name);
  int number = -1;
  if (text) std::from_chars(text, text + std::strlen(text), number);
  return number;
}

// The library beside this one, or wherever the loader looks.
void* open_library(std::string& problem) {
  std::vector<std::string> places = {"libglia_mpi.so"};
  if (Dl_info here; ::dladdr(reinterpret_cast<void*>(&join_processes), &here) && here.dli_fname)
    places.insert(places.begin(), std::filesystem::path(here.dli_fname).replace_filename(places[0]).string());
  // Open MPI's own parts look for its symbols among the global ones.
  for (const std::string& place : places)
    if (void* library = ::dlopen(place.c_str(), RTLD_NOW | RTLD_GLOBAL)) return library;
    else if (const char* error = ::dlerror(); problem.empty()) problem = error;
  return nullptr;
}

// What is wrong with all processes of a launch the first one says.
template <class... Args>
[[noreturn]] void refuse(const LaunchPlace& place, fmt::format_string<Args...> format, Args&&... args) {
  if (place.process > 0) std::_Exit(2);
  fail_input("{} processes: {}", place.processes, fmt::format(format, std::forward<Args>(args)...));
}

// Integers and texts one after the other.
std::string packed(const std::vector<Agreed>& all) {
  std::string bytes;
  for (const Agreed& a : all) {
    const auto size = static_cast<int64_t>(a.value.size());
    bytes.append(reinterpret_cast<const char*>(&size), sizeof size).append(a.value);
  }
  return bytes;
}
std::vector<std::string> unpacked(const std::string& bytes) {
  std::vector<std::string> all;
  for (size_t at = 0; at + sizeof(int64_t) <= bytes.size();) {
    int64_t size = 0;
    std::memcpy(&size, bytes.data() + at, sizeof size);
    all.push_back(bytes.substr(at + sizeof size, static_cast<size_t>(size)));
    at += sizeof size + static_cast<size_t>(size);
  }
  return all;
}

// Long texts are told from where they begin to differ.
std::string around_difference(const std::string& text, const std::string& other) {
  constexpr size_t kBefore = 24, kMost = 72;
  size_t at = 0;
  while (at < text.size() && at < other.size() && text[at] == other[at]) ++at;
  if (text.size() <= kMost) return text;
  const size_t first = at > kBefore ? at - kBefore : 0;
  return (first > 0 ? "…" : "") + text.substr(first, kMost) + (first + kMost < text.size() ? "…" : "");
}

}  // namespace

LaunchPlace launch_place() {
  struct Names {
    const char *process, *processes, *local;
  };
  // Open MPI's mpirun; MPICH's and Intel's; Slurm's srun.
  constexpr Names kLaunchers[] = {{"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"},
                                  {"PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"},
                                  {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"}};
  for (const Names& names : kLaunchers) {
    const int process = number_of(names.process), processes = number_of(names.processes);
    if (processes > 1 && process >= 0 && process < processes)
      return {process, processes, std::max(0, number_of(names.local))};
  }
  return {};
}

std::unique_ptr<Transport> join_processes() {
  const LaunchPlace place = launch_place();
  if (place.processes == 1) return nullptr;
  // Open MPI would end itself with a page of text.
  if (!std::getenv("OMPI_COMM_WORLD_RANK") && !std::getenv("PMI_RANK") && !std::getenv("PMIX_RANK"))
    refuse(place, "expected srun --mpi=pmix, which tells them of one another, got srun without it");
  std::string problem;
  void* library = open_library(problem);
  if (!library)
    refuse(place, "expected libglia_mpi.so, which is built where libopenmpi-dev is installed: {}", problem);
  const auto open = reinterpret_cast<OpenTransport>(::dlsym(library, "glia_open_mpi"));
  if (!open) fail_input("libglia_mpi.so: expected a library of this build, found none of its symbols");
  std::unique_ptr<Transport> transport(open(kTransportVersion, problem));
  if (!transport) fail_input("MPI: {}", problem);
  if (transport->processes() != place.processes)
    fail_input(
        "MPI: expected {} processes, as the launcher says, got {}; srun wants --mpi=pmix, mpirun must be "
        "Open MPI's",
        place.processes, transport->processes());
  return transport;
}

void require_agreement(Transport& transport, const std::vector<Agreed>& mine) {
  const int processes = transport.processes(), me = transport.process();
  const std::string own = packed(mine);
  const auto own_size = static_cast<int64_t>(own.size());
  if (me > 0) {
    const Transport::Outgoing size{0, &own_size, sizeof own_size}, text{0, own.data(), own_size};
    transport.exchange({&size, 1}, {});
    transport.exchange({&text, 1}, {});
    char agreed = 0;  // where they do not agree, nothing comes but the end
    const Transport::Incoming in{0, &agreed, 1};
    transport.exchange({}, {&in, 1});
    return;
  }
  std::vector<int64_t> sizes(static_cast<size_t>(processes));
  std::vector<std::string> texts(static_cast<size_t>(processes));
  std::vector<Transport::Incoming> in;
  for (int q = 1; q < processes; ++q) in.push_back({q, &sizes[static_cast<size_t>(q)], sizeof(int64_t)});
  transport.exchange({}, in);
  in.clear();
  for (int q = 1; q < processes; ++q) {
    const auto i = static_cast<size_t>(q);
    texts[i].resize(static_cast<size_t>(sizes[i]));
    in.push_back({q, texts[i].data(), sizes[i]});
  }
  transport.exchange({}, in);
  for (int q = 1; q < processes; ++q) {
    const std::vector<std::string> theirs = unpacked(texts[static_cast<size_t>(q)]);
    for (size_t i = 0; i < mine.size(); ++i)
      if (i >= theirs.size() || theirs[i] != mine[i].value)
        fail_input("process {} on {}: expected {} of process 0 on {}, '{}', got '{}'", q, transport.host(q),
                   mine[i].what, transport.host(0),
                   around_difference(mine[i].value, i < theirs.size() ? theirs[i] : ""),
                   i < theirs.size() ? around_difference(theirs[i], mine[i].value) : "nothing");
  }
  const char agreed = 1;
  std::vector<Transport::Outgoing> out;
  for (int q = 1; q < processes; ++q) out.push_back({q, &agreed, 1});
  transport.exchange(out, {});
}

}  // namespace glia
