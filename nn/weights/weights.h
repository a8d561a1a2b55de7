// Weights in somebody's file or files: safetensors, several of them under an index, or what torch.save writes; with our
// names or with those of Hugging Face's BERT under whatever prefix.
#pragma once
#include <set>
#include <string>
#include <vector>

#include "nn/weights/raw_tensor.h"

namespace glia {

class Weights {
 public:
  // A file of any of these kinds, told apart by their content; "….index.json" takes its shards from the same folder.
  // Errors are one line that names the file. No encoder in it, or two of them, is one.
  explicit Weights(const std::string& path);

  const std::string& path() const { return path_; }
  const std::map<std::string, RawTensor>& tensors() const { return raw_.tensors; }
  const RawTensor* find(const std::string& name) const;

  bool ours() const { return ours_; }                    // our names, not Hugging Face's
  const std::string& prefix() const { return prefix_; }  // of the encoder: "bert.", "module.bert.", ""
  std::string head_prefix() const;                       // of what lies beside the encoder: "module."
  int64_t layers() const { return layers_; }             // encoder layers in the file
  // Extent 0 of the position and token type tables.
  int64_t positions() const { return positions_; }
  int64_t types() const { return types_; }

  // A NaN or an infinity anywhere is an error that names the tensor and the element.
  void check_finite() const;

 private:
  void add(const std::string& file);
  void add_shards(const std::string& index);
  void find_encoder();

  std::string path_, prefix_;
  RawTensors raw_;
  bool ours_ = false;
  int64_t layers_ = 0, positions_ = 0, types_ = 0;
};

}  // namespace glia
