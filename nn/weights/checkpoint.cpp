#include "nn/weights/checkpoint.h"

#include <charconv>

namespace glia {
namespace {

constexpr const char* kFormat = "glia.checkpoint.1";

template <class T> T parse(const SafetensorsFile& file, const std::string& key) {
  const auto found = file.metadata().find(key);
  T value{};
  if (found == file.metadata().end()) fail_input("{}: expected '{}' in the metadata, found none", file.path(), key);
  const std::string& text = found->second;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size())
    fail_input("{}: '{}' in the metadata: expected a number, got '{}'", file.path(), key, text);
  return value;
}

// Every tensor of a checkpoint with its place in memory: saving and loading walk the same list.
std::vector<NamedTensor> layout(const ParameterSet& parameters, const AdamW* optimiser,
                                const std::vector<Statistic>& state) {
  std::vector<NamedTensor> all;
  for (const Parameter& p : parameters.all()) all.push_back({p.name, parameters.slice(parameters.values(), p)});
  for (const Statistic& s : state) all.push_back({"state." + s.name, s.value});
  if (optimiser) {
    for (const Parameter& p : parameters.all()) {
      if (p.frozen) continue;
      all.push_back({"adamw.m." + p.name, parameters.slice(optimiser->m(), p)});
      all.push_back({"adamw.v." + p.name, parameters.slice(optimiser->v(), p)});
    }
    all.push_back({"adamw.factors", optimiser->factors()});
  }
  return all;
}

// Room for all moments while they are read, where ranks share them out.
class WholeMoments {
 public:
  explicit WholeMoments(AdamW* optimiser) : optimiser_(optimiser) {
    if (optimiser_) optimiser_->make_room();
  }
  ~WholeMoments() {
    if (optimiser_) optimiser_->release();
  }
  WholeMoments(const WholeMoments&) = delete;
  WholeMoments& operator=(const WholeMoments&) = delete;
  void keep_part() {
    if (optimiser_) optimiser_->keep_part();
  }

 private:
  AdamW* optimiser_;
};

}  // namespace

void save_checkpoint(const std::string& path, const ParameterSet& parameters, const AdamW* optimiser,
                     const std::vector<Statistic>& state, const CheckpointInfo& info) {
  write_safetensors(path, layout(parameters, optimiser, state),
                    {{"format", kFormat},
                     {"step", std::to_string(info.step)},
                     {"seed", std::to_string(info.seed)},
                     {"config", info.config},
                     {"progress", info.progress}});
}

CheckpointInfo load_checkpoint(const std::string& path, ParameterSet& parameters, AdamW* optimiser,
                               const std::vector<Statistic>& state) {
  const SafetensorsFile file(path);
  const CheckpointInfo info = checkpoint_info(file);
  WholeMoments moments(optimiser);
  const std::vector<NamedTensor> wanted = layout(parameters, optimiser, state);
  for (const NamedTensor& t : wanted) {
    const auto& e = file.entry(t.name);
    if (e.shape != t.tensor.shape())
      fail_input("{}: '{}': expected {}, got {}", path, t.name, t.tensor.shape(), e.shape);
    // A rounding that the run itself did not do would be neither run's.
    if (const bool small = e.dtype == "BF16";
        t.name.starts_with("adamw.") && small != (t.tensor.dtype() == DType::kBFloat16))
      fail_input("{}: '{}': expected moments of {} (--adam-state), got {}", path, t.name, t.tensor.dtype(),
                 small ? "bfloat16" : "a wider type");
  }
  for (const auto& [name, entry] : file.entries())
    if (!name.starts_with("adamw.") && !name.starts_with("state.") && !parameters.find(name))
      fail_input("{}: '{}' {} is in the file, but not in this model", path, name, entry.shape);
  for (const NamedTensor& t : wanted) file.read_into(t.name, t.tensor);
  moments.keep_part();
  parameters.refresh_copy();
  return info;
}

CheckpointInfo checkpoint_info(const SafetensorsFile& file) {
  const auto text = [&](const char* key) {
    const auto found = file.metadata().find(key);
    return found == file.metadata().end() ? std::string() : found->second;
  };
  if (text("format") != kFormat || !file.has_checksum())
    fail_input("{}: expected a checkpoint ({}), got a safetensors file of format '{}'", file.path(), kFormat,
               text("format"));
  return {parse<int64_t>(file, "step"), parse<uint64_t>(file, "seed"), text("config"), text("progress")};
}

}  // namespace glia
