// A tensor as a file holds it: bytes, their type, shape and strides, not yet anybody's Tensor. Knows engine/core only,
// so that the readers of files can be fuzzed alone.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/shape.h"

namespace glia {

struct RawTensor {
  std::string dtype;  // "F32", "F64", "F16", "BF16", "I32", …, as safetensors spells it
  Shape shape;
  std::vector<int64_t> strides;  // in elements; empty: contiguous
  std::string_view bytes;        // from the first element on; every element that shape and strides reach is inside

  bool floating() const { return dtype == "F32" || dtype == "F64" || dtype == "F16" || dtype == "BF16"; }
};

// Bytes of one element; 0 for a type that no reader knows.
size_t element_size(const std::string& dtype);

// f(element, value) for the leading `count` elements in row-major order. Exact: every type fits in a double. `name`
// stands in the error for a type that holds no floating point numbers (int32 is taken too).
void for_each_value(const RawTensor& t, const std::string& name, size_t count,
                    const std::function<void(size_t, double)>& f);

// The first element that is NaN, infinite or too large for the float32 that parameters are, or −1. Integers have none.
int64_t first_not_finite(const RawTensor& t);

// Named tensors of one or more files, and the files' bytes, which they point into.
struct RawTensors {
  std::map<std::string, RawTensor> tensors;
  std::vector<std::shared_ptr<const std::string>> owners;
};

// Whether these are not the bytes of a file but the note that Git LFS leaves in its place.
bool is_lfs_pointer(std::string_view content);

}  // namespace glia
