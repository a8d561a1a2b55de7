// Which of the chosen experts are a rank's own.
#pragma once
#include <cstdint>

#include "engine/core/host_device.h"
#include "engine/device/stream.h"

namespace glia {

struct OwnExperts {
  int64_t n;           // choices
  int32_t begin, end;  // the rank's experts
  GLIA_HD int32_t of(int32_t expert) const { return expert >= begin && expert < end ? expert - begin : -1; }
};

namespace cpu {
void own_choices(const OwnExperts& k, const int32_t* experts, int32_t* own);  // [n] =
}
namespace cuda {
void own_choices(const OwnExperts& k, const int32_t* experts, int32_t* own, Stream stream);
}

}  // namespace glia
