// Safetensors files written and read. Ours carry a checksum over header and data in the metadata, so that an altered file
// is noticed; files of other programs need none.
#pragma once
#include <string>
#include <vector>

#include "engine/tensor.h"
#include "nn/weights/safetensors_header.h"

namespace glia {

struct NamedTensor {
  std::string name;
  Tensor tensor;
};

// Written to a temporary file and renamed. Metadata may not use the key "checksum".
void write_safetensors(const std::string& path, const std::vector<NamedTensor>& tensors, const Metadata& metadata);

// The leading rows of a file's tensor that `to` has, converted to its dtype and copied into it; `name` stands in errors.
// Other extents than the first must agree, and the first must suffice.
void copy_raw(const RawTensor& from, const std::string& name, Tensor to);

class SafetensorsFile {
 public:
  // Reads and checks everything: a file that is cut, altered (where it has a checksum) or of another kind is an
  // error that names the path and what is wrong.
  explicit SafetensorsFile(const std::string& path);

  const std::string& path() const { return path_; }
  // Floating point numbers of any size and int32 can be read; other types may be there.
  const std::map<std::string, RawTensor>& entries() const { return header_.tensors; }
  const Metadata& metadata() const { return header_.metadata; }
  bool has_checksum() const { return metadata().contains("checksum"); }
  bool contains(const std::string& name) const { return entries().contains(name); }
  const RawTensor& entry(const std::string& name) const;  // an error when there is none

  // The tensor in `to`'s shape, converted to its dtype and copied into it; another shape is an error.
  void read_into(const std::string& name, Tensor to) const;

 private:
  std::string path_;
  std::shared_ptr<const std::string> content_;  // which the entries point into
  SafetensorsHeader header_;
};

}  // namespace glia
