// A recorded sequence of launches that is replayed with one call: a whole training step without the host's work.
//
// What is captured must not wait for the device, and must read what changes from step to step (batch, step number)
// from device memory at fixed addresses. Memory allocated during a capture comes from the allocator's pool 1, which
// captures share among themselves and with nobody else; so a tensor made inside a capture may be read after
// replay() until the next replay of any graph of this context. The allocator counts graphs; they end before it does, and
// behind the work that they were replayed for.
#pragma once

#include <functional>
#include <memory>

#include "engine/device/context.h"

namespace glia {

class Graph {
 public:
  virtual ~Graph() = default;
  virtual void replay() = 0;                   // ordered on the context's stream; does not wait
  virtual int64_t bytes() const { return 0; }  // of the device's memory, for its nodes
};

// Runs `work` once, recording; nothing is executed. CUDA only: nullptr on a CPU, where the caller runs `work`
// itself. Run `work` once eagerly before, so that lazily made plans and handles exist.
std::unique_ptr<Graph> capture_graph(Context& context, const std::function<void()>& work);

}  // namespace glia
