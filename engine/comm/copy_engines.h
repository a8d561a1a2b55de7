// Sums between the GPUs of one host by their copy engines, which leave the multiprocessors to whatever runs beside: a kernel of
// NCCL's holds 24 of 132 meanwhile, and products that fill all of them once take twice as long. It wants memory that all ranks have
// registered together (NCCL's windows, 2.28 or later) and GPUs that reach one another.
//
// A sum is three parts: each rank's n-th part goes to rank n, which adds what it has got, in the order of the ranks, rounded once, and
// sends the sum to all. So all ranks have the same bits.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "engine/comm/nccl.h"
#include "engine/device/communicator.h"
#include "engine/device/cuda/side_stream.h"

namespace glia {

class CopyEngines {
 public:
  // All ranks at once, here and in allocate(); `host` brings them together. The others must outlive it.
  CopyEngines(NcclComm comm, Communicator& host, SideStream& side);
  // Behind the communicator's end: nobody sends any more.
  ~CopyEngines();
  CopyEngines(const CopyEngines&) = delete;
  CopyEngines& operator=(const CopyEngines&) = delete;

  // Memory of all ranks, or nullptr where copies do not do it alone, or a rank has got none.
  std::shared_ptr<void> allocate(int64_t bytes);
  bool has_memory() const { return !blocks_.empty(); }
  // What gathering takes, beside nothing else: of the bytes that all have in the end. 0 before there is memory.
  double seconds_a_byte() const { return seconds_a_byte_; }
  int64_t room() const { return room_; }  // bytes of the longest data whose parts alone they sum
  // Whether a sum of data [n] is theirs: within one block, in equal parts, and not so short that a kernel is done before.
  bool take(const void* data, int64_t n, DType dtype) const;
  // On `stream`, data [n] that they take: its sum, or this rank's part of it in its place.
  void all_reduce(void* data, int64_t n, DType dtype, Stream stream);
  void reduce_scatter(void* data, int64_t n, DType dtype, Stream stream);

 private:
  struct Block {
    int64_t bytes;
    bool free;
  };
  void* registered(int64_t bytes);  // nullptr where a rank has got none
  bool agreed(bool mine);
  bool work();
  void measure();

  const Nccl& nccl_;
  NcclComm comm_;
  Communicator& host_;
  SideStream& side_;
  std::map<char*, Block> blocks_;
  std::vector<void*> memory_;  // all that was ever allocated
  void* received_ = nullptr;   // where the others' parts come to
  int64_t room_ = 0;
  bool tried_ = false, works_ = false;
  double seconds_a_byte_ = 0;
};

}  // namespace glia
