// What the fuzzers check on any bytes as a file of weights; the test program replays the inputs that they found.
#pragma once

#include <string>
#include <string_view>

#include "engine/core/check.h"
#include "nn/weights/pickle.h"
#include "nn/weights/safetensors_header.h"
#include "nn/weights/torch_file.h"

namespace glia::fuzz {

// Refused in one line that begins with the source, or understood: then every number can be read.
template <class Read> void weights(const char* what, Read&& read) {
  try {
    for (const auto& [name, tensor] : read()) {
      const int64_t bad = first_not_finite(tensor);
      CHECK(bad < tensor.shape.numel(), "{}: element {} of {}", what, bad, tensor.shape);
      if (!tensor.floating()) continue;
      size_t seen = 0;
      for_each_value(tensor, name, static_cast<size_t>(tensor.shape.numel()), [&](size_t, double) { ++seen; });
      CHECK(seen == static_cast<size_t>(tensor.shape.numel()), "{}: {} numbers of {}", what, seen, tensor.shape);
    }
  } catch (const Error& error) {
    const std::string message = error.what();
    CHECK(message.starts_with("fuzz:"), "{}: {}", what, message);
  }
}

inline void safetensors(std::string_view content) {
  weights("safetensors", [&] { return read_safetensors(content, "fuzz").tensors; });
}

inline void torch(std::string_view content) {
  RawTensors all;  // outlives the loop over its tensors
  weights(
      "torch", [&]() -> const auto& { return (all = read_torch(content, "fuzz")).tensors; });
}

inline void pickle(std::string_view content) {
  try {
    const Pickle read = read_pickle(content, "fuzz");
    CHECK(read.end <= content.size(), "pickle: {} bytes of {} were read", read.end, content.size());
    for (const PickledTensor& t : pickled_tensors(read, "fuzz"))
      CHECK(t.size.size() == t.stride.size(), "pickle: '{}' has {} extents", t.name, t.size.size());
  } catch (const Error& error) {
    const std::string message = error.what();
    CHECK(message.starts_with("fuzz:"), "pickle: {}", message);
  }
}

}  // namespace glia::fuzz
