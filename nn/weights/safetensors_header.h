// The safetensors format (huggingface.co/docs/safetensors) in memory: an 8-byte length, a JSON header, the elements.
#pragma once
#include <map>
#include <string>
#include <string_view>

#include "nn/weights/raw_tensor.h"

namespace glia {

using Metadata = std::map<std::string, std::string>;

struct SafetensorsHeader {
  std::map<std::string, RawTensor> tensors;  // their bytes point into the content that was read
  Metadata metadata;
};

// Checks everything: content that is cut, altered (where it has a checksum), of another kind or a Git LFS pointer is an
// error that begins with `source` and says what is wrong.
SafetensorsHeader read_safetensors(std::string_view content, const std::string& source);

// 16 hex digits, over the header as it is with an empty checksum, then over the data.
std::string safetensors_checksum(const std::string& header_without, std::string_view data);

}  // namespace glia
