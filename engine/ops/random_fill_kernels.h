// x = N(0, std²), or x += N(0, std²) when add; element i is drawn at (seed, purpose, step, i), the same on both
// devices.
#pragma once
#include <cstdint>

#include "engine/device/stream.h"

namespace glia {

struct NormalFill {
  double std = 1;
  uint64_t seed = 0;
  uint32_t purpose = 0, step = 0;
  bool add = false;
};

namespace cpu {
template <class T>
void fill_normal(T* x, int64_t n, const NormalFill& f);
}
namespace cuda {
template <class T>
void fill_normal(T* x, int64_t n, const NormalFill& f, Stream stream);
}

}  // namespace glia
