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
  // What the tensors say about the shape; 0 where they do not. The number of heads is nowhere among them.
  struct Extents {
    int64_t words = 0, positions = 0, types = 0, hidden = 0, ffn = 0;
  };
  const Extents& extents() const { return extents_; }

  // A NaN or an infinity anywhere is an error that names the tensor and the element.
  void check_finite() const;
  // Hugging Face's masked-LM head may have a table (and a bias under another name) of its own; ours is the word table. One
  // with other numbers is an error.
  void require_shared_table() const;
  // Of all tensors' names, types, shapes and bytes.
  uint64_t hash() const;

 private:
  void add(const std::string& file);
  void add_shards(const std::string& index);
  void find_encoder();

  std::string path_, prefix_;
  RawTensors raw_;
  bool ours_ = false;
  int64_t layers_ = 0;
  Extents extents_;
};

}  // namespace glia
