// Checkpoints: weights under their own names, AdamW's moments as "adamw.m.<name>" and "adamw.v.<name>", router
// state as "state.<name>", and step, random seed and configuration in the metadata. What is loaded continues with
// the same bits.
#pragma once
#include "nn/feed_forward.h"
#include "nn/optimizer.h"
#include "nn/weights/safetensors.h"

namespace glia {

struct CheckpointInfo {
  int64_t step = 0;  // steps done; randomness is keyed by seed and step, so these two are the random state
  uint64_t seed = 0;
  std::string config;    // JSON, compared by nobody here
  std::string progress;  // JSON of the training loop's own
};

// optimiser may be null (a model to be used, not to be trained on). Written atomically, with a checksum. The file does not say how
// many ranks shared the moments out: AdamW::gather() makes them whole before.
void save_checkpoint(const std::string& path, const ParameterSet& parameters, const AdamW* optimiser,
                     const std::vector<Statistic>& state, const CheckpointInfo& info);

// Errors name the path: cut, altered, not one of ours, a tensor missing or of another shape, optimiser or state not
// in it, moments in bfloat16 for an optimiser that has them in float32 or the other way round. Nothing is changed unless
// everything fits. A null optimiser leaves the moments in the file.
CheckpointInfo load_checkpoint(const std::string& path, ParameterSet& parameters, AdamW* optimiser,
                               const std::vector<Statistic>& state);

CheckpointInfo checkpoint_info(const SafetensorsFile& file);

}  // namespace glia
