// Ranks as threads: of one process, or of several that a transport joins. What a rank's call gives depends on the number of
// ranks alone, not on which of them share a process: sums are formed along one tree over the ranks, so all ranks and all
// repeats have the same bits, and so has every number of processes.
#pragma once
#include <functional>

#include "engine/comm/transport.h"
#include "engine/device/communicator.h"

namespace glia {

// The ranks of process `process`: [first, end), as equal in number as they can be.
struct RankRange {
  int first, end;
};
RankRange ranks_of(int ranks, int processes, int process);

// Calls body(communicator of rank r) on a thread each, for this process's ranks (all without a transport), and waits for
// them. Each communicator is for one Context of the thread's own, of a CPU. An exception in one rank ends the waiting of
// this process's others, which throw as well; the first rank's that threw by itself is thrown here. More processes than
// ranks are an error.
void run_ranks(int ranks, const std::function<void(std::unique_ptr<Communicator>)>& body,
               Transport* transport = nullptr);

}  // namespace glia
