// A reader for the few pickle opcodes with which torch.save describes tensors (protocol 2; Python's Lib/pickletools.py
// is the reference). Nothing is executed: a name such as os.system is looked up nowhere, and any that is not on the
// short list of what tensors need is an error that says it, as is every other opcode.
#pragma once
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

namespace glia {

struct PickleValue {
  enum class Kind { kNone, kBool, kInt, kFloat, kText, kGlobal, kTuple, kList, kDict, kStorage, kTensor };
  Kind kind = Kind::kNone;
  int64_t number = 0;                     // of kBool, kInt
  std::string_view text;                  // of kText, kGlobal ("torch FloatStorage"); a long integer's bytes
  std::vector<const PickleValue*> items;  // kDict: key, value, key, value; kStorage and kTensor: what made them
};

struct Pickle {
  std::deque<PickleValue> values;  // where the others point to; texts point into the content
  const PickleValue* top = nullptr;
  size_t end = 0;  // bytes read: files of torch before 1.6 hold several pickles, one behind the other
};

// Errors begin with `source` and name what is not understood.
Pickle read_pickle(std::string_view content, const std::string& source);

// A tensor of a state dict, whose numbers lie in a storage of the same file.
struct PickledTensor {
  std::string name, key;  // of the storage
  std::string dtype;      // as safetensors spells it
  int64_t storage_elements = 0, offset = 0;
  std::vector<int64_t> size, stride;
};

// Of the dict on top, or of the state dict in it ("state_dict", "model_state_dict", "model"), where checkpoints of
// training programs keep one. What is no tensor is left out. No tensor at all is an error.
std::vector<PickledTensor> pickled_tensors(const Pickle& pickle, const std::string& source);

}  // namespace glia
