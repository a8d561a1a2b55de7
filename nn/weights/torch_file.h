// What torch.save writes (pytorch_model.bin): a zip archive of a pickle and one record a storage, or, before torch 1.6,
// pickles and storages one behind the other. In memory; nothing in it is executed.
#pragma once
#include <string>

#include "nn/weights/raw_tensor.h"

namespace glia {

// Whether the content begins like either.
bool looks_like_torch(std::string_view content);

// Every tensor of the state dict in it. Errors begin with `source` and name the record or the tensor.
RawTensors read_torch(std::string_view content, const std::string& source);

}  // namespace glia
