// Copies of a few numbers each from different places, in one launch.
#pragma once
#include <cstdint>
#include <type_traits>

#include "engine/core/bfloat16.h"
#include "engine/core/host_device.h"
#include "engine/device/stream.h"

namespace glia {

constexpr int kMostPacked = 64;

// Passed to the kernel by value: no upload.
template <class T> struct Packed {
  struct Part {
    const T* from;  // or
    const int32_t* whole;
    int64_t size, room, at;  // elements; those behind `size` are 0
  } part[kMostPacked];
  int parts;
};

template <class T> GLIA_HD T packed_element(const typename Packed<T>::Part& p, int64_t i) {
  if (i < p.size && !p.whole) return p.from[i];
  const int32_t whole = i < p.size ? p.whole[i] : 0;
  if constexpr (std::is_same_v<T, bfloat16>) return bfloat16(static_cast<float>(whole));
  else return static_cast<T>(whole);
}

namespace cuda {
// to =; `longest`: the most room of a part
template <class T> void pack(const Packed<T>& p, int64_t longest, T* to, Stream stream);
}  // namespace cuda

}  // namespace glia
