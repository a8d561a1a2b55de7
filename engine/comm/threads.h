// Ranks as threads of one process, on CPUs: what proves that a step over ranks is right needs no launcher and no
// library. Sums are formed rank by rank, so all ranks and all repeats have the same bits.
#pragma once
#include <functional>

#include "engine/device/communicator.h"

namespace glia {

// Calls body(communicator of rank r) on a thread each, for r in 0 … ranks − 1, and waits for all. The communicator is
// for one Context of the thread's own. An exception in one rank ends the waiting of the others, which throw as well;
// the first rank's that threw by itself is thrown here.
void run_ranks(int ranks, const std::function<void(std::unique_ptr<Communicator>)>& body);

}  // namespace glia
