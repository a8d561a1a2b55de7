#include "experiments/training/presets.h"

#include <array>
#include <filesystem>

#include "engine/core/check.h"
#include "engine/device/context.h"
#include "experiments/studies/study.h"
#include "experiments/training/feed/data_source.h"
#include "experiments/training/pretrained.h"

namespace glia {
namespace {

// The published recipe is what Options' defaults are; `paper` only says that nothing is to be made smaller.
const std::array<FlagSet, 3> kPresets{{
    {"quick",
     "minutes on two CPU cores: a small model on the synthetic corpus",
     // Two layers: four of this size sit on a plateau for some of the epochs that there is time for, and then a mean over
     // seeds says how many of them left it.
     {{"seeds", "5"},        {"layers", "2"},        {"hidden", "64"},           {"heads", "4"},
      {"ffn", "128"},        {"max-length", "64"},   {"synthetic-rows", "2400"}, {"synthetic-test-rows", "1200"},
      {"difficulty", "0.3"}, {"vocab-size", "2000"}, {"max-rows", "3000"},       {"max-test-rows", "1200"},
      {"epochs", "5"},       {"batch", "16"},        {"eval-batch", "64"},       {"lr", "0.001"},
      {"warmup", "0.1"},     {"eval-every", "0"},    {"log-every", "25"},        {"validation-fraction", "0.1"}}},
    {"small",
     "half an hour on two CPU cores: a smaller model on real data",
     {{"seeds", "2"},
      {"layers", "4"},
      {"hidden", "128"},
      {"heads", "4"},
      {"ffn", "512"},
      {"max-rows", "20000"},
      {"synthetic-rows", "20000"},
      {"epochs", "3"},
      {"batch", "32"},
      {"eval-batch", "128"},
      {"lr", "0.0005"},
      {"warmup", "0.1"},
      {"eval-every", "0"},
      {"log-every", "20"}}},
    {"paper",
     "as published: L4 H512 A8 F2048, batch 192, 6 epochs; for a GPU",
     {{"seeds", "5"}, {"synthetic-rows", "24000"}, {"synthetic-test-rows", "4000"}}},
}};

const std::array<FlagSet, 2> kProtocols{{
    {"clean", "no padding token, validation split, one residual, the whole test set", {}},
    {"paper",
     "as the published code does",
     {{"padding", "padded"},
      {"select", "test"},
      {"validation-fraction", "0"},
      {"second-residual", "on"},
      {"utilisation-rows", "2000"}}},
}};

void apply(Options& options, const CommandLine& line, std::span<const FlagSet> sets, const std::string& flag,
           const std::string& name, std::set<std::string>& settled) {
  std::string known;
  for (const FlagSet& set : sets) {
    known += (known.empty() ? "" : ", ") + std::string(set.name);
    if (name != set.name) continue;
    for (const auto& [key, value] : set.values)
      if (!line.given.contains(key) && settled.insert(key).second) set_value(options, find_flag(key), value);
    return;
  }
  fail_input("--{}: expected one of {}; got '{}'", flag, known, name);
}

// Runs of another study, preset or data do not fit into one folder: where these were typed the folder's name says them, and
// the second command that somebody tries does not end at the first one's runs.
std::string default_folder(const Options& o, const Study& study) {
  std::string name = o.out;
  if (study.name != kDefaultStudy) name += "-" + study.name;
  const auto last_name = [](const std::string& path) {
    const std::filesystem::path p = (std::filesystem::absolute(path) / "").lexically_normal().parent_path();
    return (p.extension() == ".csv" ? p.stem() : p.filename()).string();
  };
  if (o.typed.contains("data")) name += "-" + last_name(o.data);
  if (o.typed.contains("csv-train")) name += "-" + last_name(o.csv_train);
  if (o.typed.contains("preset") && o.preset != "auto") name += "-" + o.preset;
  return name;
}

}  // namespace

std::span<const FlagSet> presets() { return kPresets; }
std::span<const FlagSet> protocols() { return kProtocols; }

std::string automatic_device() {
  if (cuda_device_count() == 0) return "cpu";
  const std::string problem = cuda_device_problem(0);
  if (problem.empty()) return "cuda";
  fmt::print(stderr, "glia: {}; this run takes the CPU\n", problem);
  return "cpu";
}

Options resolve(const CommandLine& line) {
  Options o = line.options;
  o.typed = line.given;
  const Study study = find_study(o.study);
  apply_settings(o, study.settings);
  if (!o.typed.contains("out")) o.out = default_folder(o, study);
  if (o.device == "auto") o.device = automatic_device();
  const bool gpu = Device::parse(o.device).is_cuda();
  if (o.precision == "auto") o.precision = gpu ? "bfloat16" : "float32";
  if (o.gradients == "auto") o.gradients = gpu ? o.precision : "float32";
  settle_data_options(o, line.given);
  if (o.preset == "auto") o.preset = gpu ? "paper" : has_real_data(o) ? "small" : "quick";
  std::set<std::string> settled;  // the study goes before the protocol, the protocol before the preset
  for (const auto& [key, value] : study.settings) settled.insert(key);
  apply(o, line, kProtocols, "protocol", o.protocol, settled);
  apply(o, line, kPresets, "preset", o.preset, settled);
  shape_by_weights(o, line.given);  // beats the preset
  if (finite_check_wanted()) o.check_finite = true;
  // Every output is read back, or sums go through the host, which no capture can hold.
  if (o.check_finite || o.reduction == "exact") o.graphs = false;
  if (o.bucket == 0) o.bucket = gpu ? 128 : 32;
  check_options(o);
  check_batch(o);
  return o;
}

}  // namespace glia
