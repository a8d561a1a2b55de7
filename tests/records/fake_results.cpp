#include "tests/records/fake_results.h"

#include <fmt/format.h>

#include <cmath>
#include <numbers>

using namespace glia::results;

namespace glia::test {
namespace {

// A small generator of its own: the pictures should not change when the engine's does.
struct Noise {
  uint64_t state;
  double uniform() {
    state += 0x9e3779b97f4a7c15ull;
    uint64_t z = state;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return double((z ^ (z >> 31)) >> 11) * 0x1.0p-53;
  }
  double normal() { return std::sqrt(-2 * std::log(1 - uniform())) * std::cos(2 * std::numbers::pi * uniform()); }
};

Noise noise_of(const RunConfig& config, uint64_t purpose) {
  uint64_t h = config.seed * 1000003 + purpose;
  for (char c : config.config) h = h * 31 + uint64_t(c);
  return {h};
}

// Shares by topic that differ more from topic to topic the larger `strength` is.
Matrix fake_matrix(Noise& noise, int topics, int experts, double strength) {
  Matrix u(topics, experts);
  std::vector<double> base;
  for (int e = 0; e < experts; ++e) base.push_back(0.15 * noise.normal());
  for (int c = 0; c < topics; ++c) {
    double sum = 0;
    for (int e = 0; e < experts; ++e) sum += u(c, e) = std::exp(base[size_t(e)] + strength * noise.normal());
    for (int e = 0; e < experts; ++e) u(c, e) /= sum;
  }
  return u;
}

}  // namespace

// In memory where there is such a place: every file of a result folder is flushed to the disk when it is written.
RunConfig fake_config(const std::string& config, int seed_index, int layers, int experts) {
  const bool moe = !config.starts_with("dense");
  RunConfig c;
  c.config = config;
  c.seed_index = seed_index;
  c.seed = 42 + uint64_t(seed_index);
  c.protocol = "clean";
  c.preset = "fake";
  c.precision = "bfloat16";
  c.router = moe ? (config.starts_with("softmax") ? "softmax" : config) : "none";
  c.balance = moe && config != "astrocyte-unleashed" ? 0.01 : 0;
  c.energy = config == "astrocyte-unleashed" ? 0.05 : moe && config != "softmax-moe" ? 0.01 : 0;
  c.model = {
      {"layers", layers},     {"hidden", 512}, {"heads", 8},         {"ffn", 2048}, {"experts", moe ? experts : 0},
      {"top_k", moe ? 2 : 0}, {"classes", 4},  {"vocabulary", 30522}};
  c.train = {{"epochs", 6}, {"batch", 192}, {"lr", 2e-4}, {"warmup", 500}, {"weight_decay", 0.01}, {"clip", 1.0}};
  c.options = {{"padding", "packed"}, {"selection", "validation"}};
  c.data = {"ag_news", true, 76081, 3804, 7600, {"World", "Sports", "Business", "Sci/Tech"}, 0.97};
  c.commit = "0123456789ab";
  c.device = "NVIDIA H100 80GB HBM3";
  c.command = "./experiments/run_all --fake";
  return c;
}

Evaluation fake_evaluation(const RunConfig& config, std::vector<LayerUtilisation>& utilisation) {
  Noise noise = noise_of(config, 1);
  const Study& study = built_in_studies().front();
  const auto known = [&](const char* metric, double otherwise) {
    const Published* p = study.published(config.config, metric, study.published_data, study.published_layers);
    return p ? p->value : otherwise;
  };
  Evaluation e;
  e.step = 2376;
  e.rows = config.data.test_rows;
  const double accuracy = known("accuracy", 0.94) - 0.034 + 0.0012 * noise.normal();
  e.values = {{"accuracy", accuracy}, {"loss", 0.33 + 0.01 * noise.normal()}};
  e.class_accuracy = {accuracy, accuracy + 0.06, accuracy - 0.05, accuracy - 0.01};
  e.validation_accuracy = accuracy + 0.001 * noise.normal();
  utilisation.clear();
  for (int l = 0; config.moe() && l < config.layers(); ++l) {
    const double depth = double(l + 1) / config.layers();
    const double target = known("specialisation.4", 0.06) * 8;
    LayerUtilisation layer;
    layer.all = fake_matrix(noise, 4, config.experts(), target * depth * 1.2);
    layer.cls = fake_matrix(noise, 4, config.experts(), target * depth * 0.8);
    e.layers.push_back(layer_metrics(layer.all, layer.cls));
    utilisation.push_back(std::move(layer));
  }
  return e;
}

void write_fake_run(const std::string& out, const RunConfig& config, int steps) {
  const std::string folder = run_folder(out, config.seed_index, config.config);
  begin_run(folder, config, false);
  std::vector<LayerUtilisation> utilisation;
  const Evaluation evaluation = fake_evaluation(config, utilisation);
  Noise noise = noise_of(config, 2);
  {
    MetricsLog log(folder, 0);
    for (int i = 1; i <= steps; ++i) {
      TrainPoint p;
      p.step = 2376 * i / steps;
      p.epoch = 6.0 * i / steps;
      const double ce = 1.35 * std::exp(-9.0 * i / steps) + 0.28 - 0.2 * i / steps + 0.03 * noise.normal();
      const double balance = config.balance * 0.1 / i, energy = config.energy * 0.13;
      p.values = {{"loss", ce + balance + energy},
                  {"ce", ce},
                  {"balance", balance},
                  {"energy", energy},
                  {"lr", 2e-4 * (1 - double(i) / steps)},
                  {"grad_norm", 1.5 + 0.3 * noise.normal()}};
      log.add(p);
      if (i % std::max(1, steps / 9) == 0) {
        EvalPoint eval{"validation", p.step, {}, evaluation.layers};
        eval.values = {
            {"accuracy", evaluation.accuracy() - 0.6 * std::exp(-8.0 * i / steps) + 0.002 * noise.normal()},
            {"loss", 1.3 * std::exp(-9.0 * i / steps) + 0.3 + 0.05 * i / steps}};
        for (auto& layer : eval.layers)
          for (const char* name : {"specialisation", "specialisation_cls"})
            layer[name] = layer.scalar(name) * double(i) / steps;
        log.add(eval);
      }
    }
  }
  write_timing(folder, {{"seconds", 95.5 + noise.uniform()},
                        {"tokens_per_second", 1.9e6},
                        {"machine", "fake"},
                        {"started", "2026-01-01T00:00:00Z"}});
  write_evaluation(folder, evaluation, utilisation, config.data.class_names);
}

void write_fake_results(const std::string& out, int seeds, int steps) {
  for (int seed = 0; seed < seeds; ++seed)
    for (const Configuration& row : configurations()) write_fake_run(out, fake_config(row.name, seed), steps);
}

}  // namespace glia::test
