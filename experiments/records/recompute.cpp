#include "experiments/records/recompute.h"

#include <algorithm>

#include "engine/core/check.h"
#include "experiments/training/feed/data_source.h"

namespace glia {

Options saved_options(const results::Run& run, const SavedPlaces& places) {
  Options o = saved_options(run);
  o.data = places.data, o.cache = places.cache;
  if (!places.vocabulary.empty()) o.vocab = places.vocabulary;
  return o;
}

Options saved_options(const results::Run& run) {
  Options o;
  const results::RunConfig& c = run.config;
  for (const Flag& flag : flags()) {
    const results::Json* part = flag.part == Flag::Part::kData       ? &c.data.options
                                : flag.part == Flag::Part::kModel    ? &c.model
                                : flag.part == Flag::Part::kTrain    ? &c.train
                                : flag.part == Flag::Part::kProtocol ? &c.options
                                                                     : nullptr;
    const std::string key = json_key(flag.name);
    if (!part || !part->contains(key)) continue;
    const results::Json& value = part->at(key);
    set_value(o, flag,
              value.is_string()    ? value.get<std::string>()
              : value.is_boolean() ? (value.get<bool>() ? "on" : "off")
                                   : value.dump());
  }
  o.vocab = saved_vocabulary(run);  // a copy of the one that was typed, or of the one that was trained on the spot
  if (const auto it = c.data.options.find("lowercase"); it != c.data.options.end() && it->is_boolean())
    o.lowercase = it->get<bool>() ? "on" : "off";
  if (o.dataset == "auto") o.dataset = c.data.name;  // what it turned out to be
  if (const auto it = c.train.find("max_length"); it != c.train.end() && it->is_number_integer())
    o.max_length = it->get<int64_t>();
  return o;
}

Dataset saved_data(const results::Run& run, const Options& options) {
  Dataset data = load_data(options);
  const auto expected = run.config.train.find("data_hash");
  if (const std::string got = fmt::format("{:016x}", data_fingerprint(data));
      expected != run.config.train.end() && *expected != got)
    fail_input("{}: expected the data it was trained on (hash {}), got other data (hash {}, {} test rows from {})",
               run.folder, expected->get<std::string>(), got, data.test.size(), data.source);
  return data;
}

Options options_on(const Options& given, Device device) {
  Options o = given;
  if (o.bucket == 0) o.bucket = device.is_cuda() ? 128 : 32;
  return o;
}

Measured recompute(const results::Run& run, const Options& options, Device device) {
  return with_evaluator(run, options, device,
                        [](Model&, Evaluator& evaluator, const Dataset&) { return evaluator.measure(); });
}

}  // namespace glia
