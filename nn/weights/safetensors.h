// The safetensors format (huggingface.co/docs/safetensors): an 8-byte length, a JSON header, the elements. Ours
// carry a checksum over header and data in the metadata, so that an altered file is noticed; files of other
// programs need none.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "engine/tensor.h"

namespace glia {

struct NamedTensor {
  std::string name;
  Tensor tensor;
};

using Metadata = std::map<std::string, std::string>;

// Written to a temporary file and renamed. Metadata may not use the key "checksum".
void write_safetensors(const std::string& path, const std::vector<NamedTensor>& tensors, const Metadata& metadata);

class SafetensorsFile {
 public:
  // Reads and checks everything: a file that is cut, altered (where it has a checksum) or of another kind is an
  // error that names the path and what is wrong.
  explicit SafetensorsFile(const std::string& path);

  struct Entry {
    std::string dtype;  // "F32", "F64", "F16", "BF16", "I32"; others may be there but cannot be read
    Shape shape;
    size_t begin = 0, end = 0;  // in the data
  };
  const std::string& path() const { return path_; }
  const std::map<std::string, Entry>& entries() const { return entries_; }
  const Metadata& metadata() const { return metadata_; }
  bool has_checksum() const { return metadata_.contains("checksum"); }
  bool contains(const std::string& name) const { return entries_.contains(name); }
  const Entry& entry(const std::string& name) const;  // an error when there is none

  // The tensor in `to`'s shape, converted to its dtype and copied into it; another shape is an error.
  void read_into(const std::string& name, Tensor to) const;

 private:
  std::string path_, content_;
  size_t data_ = 0;  // where the data begins
  std::map<std::string, Entry> entries_;
  Metadata metadata_;
};

}  // namespace glia
