// Utilisation matrices and accuracy of a finished run once more, from its checkpoint and the data.
#pragma once
#include "experiments/records/saved_model.h"
#include "experiments/report/pictures/heatmap.h"
#include "experiments/training/evaluation.h"

namespace glia {

// What config.json does not keep: the folders of the data and of the cache, and a vocabulary for the result folder's own copy ("").
struct SavedPlaces {
  std::string data, cache, vocabulary;
};
// What the run was started with, from its config.json, with the result folder's copy of the vocabulary; `data` and
// `cache` are left as options have them.
Options saved_options(const results::Run& run);
Options saved_options(const results::Run& run, const SavedPlaces& places);

// The run's data. Throws when they are not those that it was trained on.
Dataset saved_data(const results::Run& run, const Options& options);
// With the device's own bucket where the options leave it open.
Options options_on(const Options& options, Device device);

// Calls use(model, evaluator, data) with model.safetensors on the test set (options.utilisation_rows: a part of it) and returns what
// it returns. Throws when the data are not those that the run was trained on.
template <class Use>
auto with_evaluator(const results::Run& run, const Options& options, Device device, Use&& use) {
  const Dataset data = saved_data(run, options);
  Context context(device);
  const auto model = load_saved_model(context, run, saved_precision(run, device));
  Evaluator evaluator(*model, data.test, options_on(options, device), data.vocabulary(), options.utilisation_rows);
  return use(*model, evaluator, data);
}

// Evaluates model.safetensors on the test set. Throws when the data are not those that the run was trained on.
Measured recompute(const results::Run& run, const Options& options, Device device);

}  // namespace glia
