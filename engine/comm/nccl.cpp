#include "engine/comm/nccl.h"

#include <dlfcn.h>

#include <cstdlib>

#include "engine/comm/devices.h"
#include "engine/core/check.h"

namespace glia {
namespace {

template <class F> void find(void* library, const char* name, F& function) {
  function = reinterpret_cast<F>(::dlsym(library, name));
  if (!function) fail_input("NCCL: expected a library of version 2.13 or later, this one has no {}", name);
}

template <class F> void find_if_there(void* library, const char* name, F& function) {
  function = reinterpret_cast<F>(::dlsym(library, name));
}

Nccl load() {
  // Where a collective can be done by copy engines alone it is: NCCL_CTA_POLICY_ZERO. Older versions take it for the default.
  ::setenv("NCCL_CTA_POLICY", "2", 0);
  // Graphs whose buffers NCCL registers must be captured by all ranks at once; a capture may fail on one and be tried again.
  ::setenv("NCCL_GRAPH_REGISTER", "0", 0);
  const char* named = std::getenv("GLIA_NCCL");
  void* library = ::dlopen(named ? named : "libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
  if (!library)
    fail_input(
        "several ranks on GPUs: expected NCCL, libnccl.so.2, where the loader looks (LD_LIBRARY_PATH) or where "
        "GLIA_NCCL says: {}",
        ::dlerror());
  Nccl n{};
  find(library, "ncclGetUniqueId", n.unique_id);
  find(library, "ncclCommInitRank", n.init_rank);
  find(library, "ncclCommAbort", n.abort);
  find(library, "ncclAllReduce", n.all_reduce);
  find(library, "ncclReduceScatter", n.reduce_scatter);
  find(library, "ncclAllGather", n.all_gather);
  find(library, "ncclBroadcast", n.broadcast);
  find(library, "ncclSend", n.send);
  find(library, "ncclRecv", n.receive);
  find(library, "ncclGroupStart", n.group_start);
  find(library, "ncclGroupEnd", n.group_end);
  find_if_there(library, "ncclMemAlloc", n.memory_allocate);
  find_if_there(library, "ncclMemFree", n.memory_free);
  find_if_there(library, "ncclCommWindowRegister", n.window_register);
  find_if_there(library, "ncclAlltoAll", n.all_to_all);
  find(library, "ncclGetErrorString", n.error_text);
  find(library, "ncclGetLastError", n.last_error);
  return n;
}

}  // namespace

void Nccl::check(int result, const char* call) const {
  if (result != 0) throw Error(fmt::format("{}: {}: {}", call, error_text(result), last_error(nullptr)));
}

const Nccl& nccl() {
  static const Nccl loaded = load();
  return loaded;
}

void require_nccl() { nccl(); }

}  // namespace glia
