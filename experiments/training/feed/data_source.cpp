#include "experiments/training/feed/data_source.h"

#include "engine/core/check.h"
#include "engine/core/command_line/phase.h"
#include "engine/core/file.h"

namespace glia {
bool has_real_data(const Options& o) { return dataset_name(o) != "synthetic"; }

Dataset load_data(const Options& options) {
  PhaseDisplay display(options.progress != "off");
  Dataset data = load_dataset(options, &display);
  CHECK(data.train.size() > 0 && data.test.size() > 0, "data: {} training and {} test rows are too few",
        data.train.size(), data.test.size());
  if (options.select == "validation" && data.validation.size() == 0)
    fail_input("--validation-fraction {}: leaves no row for validation", options.validation_fraction);
  return data;
}

results::DataInfo data_info(const Dataset& data) {
  return {data.name,        data.is_synthetic, data.train.size(),  data.validation.size(),
          data.test.size(), data.class_names,  data.bayes_accuracy};
}

uint64_t data_fingerprint(const Dataset& data) {
  uint64_t hash = 0;
  for (const TokenSplit* split : {&data.train, &data.validation, &data.test}) {
    const auto absorb = [&](const auto& values) {
      hash = hash_bytes({reinterpret_cast<const char*>(values.data()), values.size() * sizeof values[0]}, hash);
    };
    absorb(split->ids);
    absorb(split->offsets);
    absorb(split->labels);
    if (!split->borders.empty()) absorb(split->borders);
  }
  return hash;
}

}  // namespace glia
