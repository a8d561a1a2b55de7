// What ranks sum together, side by side.
#pragma once
#include <span>
#include <vector>

#include "engine/tensor.h"

namespace glia {

// The parts one behind the other, each from a multiple of `align` elements on, zeros between: one launch for up to 64 of
// them. Of few elements each: a copy each costs more than what it moves.     parts in `dtype`, or int32 → [N] in `dtype`
Tensor pack(std::span<const Tensor> parts, DType dtype, int64_t align = 1);
int64_t packed_size(std::span<const Tensor> parts, int64_t align = 1);  // N
void pack_into(const Tensor& all, std::span<const Tensor> parts, int64_t align = 1);
// Their places in `all` [N], in the parts' shapes: views.
std::vector<Tensor> unpack(const Tensor& all, std::span<const Tensor> parts, int64_t align = 1);

}  // namespace glia
