// Ranks whose memory is a GPU's. What travels between GPUs is NCCL's affair, in the stream's order, so that a captured step
// holds it; what must have fixed bits goes through the host.
#pragma once

#include <memory>

#include "engine/device/communicator.h"

namespace glia {

// Memory of `backend`, calls of `host`: copied there and back, waiting for the device, so that no step that holds one can be
// captured. Of a CPU it is `host` itself.
std::unique_ptr<Communicator> on_host(Backend& backend, std::unique_ptr<Communicator> host);

// NCCL between GPUs, one a rank, to be called by all ranks at once on the thread that uses the backend. `host` brings them
// together, and is what barrier() waits with.
std::unique_ptr<Communicator> on_devices(Backend& backend, std::unique_ptr<Communicator> host);

// Loads NCCL, libnccl.so.2: an error of one line where there is none. A program of one rank needs none.
void require_nccl();

}  // namespace glia
