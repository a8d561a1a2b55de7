// What of NCCL is called, found at run time. The declarations are its binary interface, which is the same in all versions
// since 2.10 (bfloat16): https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/api.html
#pragma once

#include <cstddef>

#include "engine/device/stream.h"

namespace glia {

enum class NcclType : int { kBytes = 0, kInt32 = 2, kFloat32 = 7, kFloat64 = 8, kBFloat16 = 9 };
enum class NcclReduction : int { kSum = 0, kMax = 2, kMin = 3 };
struct NcclId {
  char bytes[128];
};
using NcclComm = struct NcclCommunicator*;
using NcclWindow = struct NcclWindowOfMemory*;

struct Nccl {
  using Type = NcclType;
  using Op = NcclReduction;
  int (*unique_id)(NcclId*);
  int (*init_rank)(NcclComm*, int ranks, NcclId, int rank);
  int (*abort)(NcclComm);
  int (*all_reduce)(const void*, void*, size_t, Type, Op, NcclComm, Stream);
  int (*reduce_scatter)(const void*, void*, size_t, Type, Op, NcclComm, Stream);
  int (*all_gather)(const void*, void*, size_t, Type, NcclComm, Stream);
  int (*broadcast)(const void*, void*, size_t, Type, int root, NcclComm, Stream);
  int (*send)(const void*, size_t, Type, int peer, NcclComm, Stream);
  int (*receive)(void*, size_t, Type, int peer, NcclComm, Stream);
  int (*group_start)();
  int (*group_end)();
  // Memory that all ranks register together; null in versions before 2.28, which do not do with copies what is asked of it.
  // flags 1: at the same place in each rank's.
  int (*memory_allocate)(void**, size_t);
  int (*memory_free)(void*);
  int (*window_register)(NcclComm, void*, size_t, NcclWindow*, int flags);
  int (*all_to_all)(const void*, void*, size_t, Type, NcclComm, Stream);
  bool has_windows() const { return memory_allocate && memory_free && window_register && all_to_all; }
  const char* (*error_text)(int);
  const char* (*last_error)(NcclComm);

  void check(int result, const char* call) const;
};

// Loaded at the first call, from where the loader looks or from the file that GLIA_NCCL names. None is an error of one line.
const Nccl& nccl();

}  // namespace glia
