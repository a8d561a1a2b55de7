#include "moe/warm_start.h"

#include "engine/core/file.h"
#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/elementwise/random_fill.h"
#include "nn/weights/hugging_face.h"

namespace glia {
namespace {

struct Copier {
  Model& model;
  const Weights& weights;
  const WarmStartOptions& options;
  std::set<std::string> used = {};

  bool try_read(const std::string& name, const Tensor& to) { return read_weight(weights, name, to, used); }
  void read(const std::string& name, const Tensor& to) {
    if (try_read(name, to)) return;
    const size_t ffn = name.find(".ffn.");
    const bool experts =
        ffn != std::string::npos && weights.find(name.substr(0, ffn) + ".moe.experts." + name.substr(ffn + 5));
    if (experts)
      fail_input("{}: '{}' is wanted, and there are experts in its place: a mixture's weights start no dense model",
                 weights.path(), name);
    fail_input("{}: expected '{}' ('{}' in Hugging Face's naming), found neither", weights.path(), name,
               hugging_face_names(name)[0]);
  }
  void experts(const Parameter& p);
  bool copy(const Parameter& p);
};

void Copier::experts(const Parameter& p) {
  const Tensor value = p.var.value();
  if (try_read(p.name, value)) return;  // experts already: no copies, no noise
  const int64_t count = value.size(0);
  const Tensor flat = value.reshape({count, -1});
  const Shape one = p.shape.without(0);
  for (int64_t e = 0; e < count; ++e) {
    const Tensor to = flat.rows(e, e + 1).reshape(one);
    if (e == 0) {
      read(p.dense_name, to);
      if (p.dense_factor != 1) Tensor(to).copy_from(scale(to, p.dense_factor).value());
    } else to.reshape({1, -1}).copy_from(flat.rows(0, 1));
  }
  const uint64_t h = hash_bytes(p.name);
  fill_normal(value, {options.noise, options.seed, purpose::kWarmStart + static_cast<uint32_t>(h & 0xffffffu),
                      static_cast<uint32_t>(h >> 32), true});
}

// False: the parameter keeps its fresh numbers.
bool Copier::copy(const Parameter& p) {
  const Tensor value = p.var.value();
  const size_t second = p.name.find(".second_norm.");
  const bool ffn = !p.dense_name.empty() || p.name.find(".ffn.") != std::string::npos;
  if (p.name.starts_with("classifier.")) {
    return options.copy_head && try_read(p.name, value);  // not there: the weights of another task
  }
  if (p.name.find(".moe.router.") != std::string::npos) {
    if (options.copy_routers) read(p.name, value);
    return options.copy_routers;
  }
  if (p.name.starts_with("pooler.") || p.name.starts_with("mlm.") || p.name.starts_with("lm."))
    return try_read(p.name, value);
  if (ffn && !options.copy_ffn) return false;
  if (!p.dense_name.empty()) {
    experts(p);
  } else if (second != std::string::npos && !weights.find(p.name)) {  // a copy of the first norm after attention
    std::string first = p.name;
    first.replace(second, 13, ".attention.norm.");
    read(first, value);
  } else {
    read(p.name, value);
  }
  return true;
}

}  // namespace

WarmStartReport warm_start(Model& model, const Weights& weights, const WarmStartOptions& o) {
  const int64_t layers = model.config().bert.layers;
  if (weights.layers() < layers)
    fail_input("{}: has {} encoder layers, and the model {}", weights.path(), weights.layers(), layers);
  if (weights.layers() > layers && !o.drop_layers)
    fail_input("{}: has {} encoder layers, and the model {}; --init-layers {} leaves the upper ones out",
               weights.path(), weights.layers(), layers, layers);
  WarmStartReport report;
  Copier copier{model, weights, o};
  for (const Parameter& p : model.parameters().all())
    (copier.copy(p) ? report.copied : report.fresh).push_back(p.name);
  if (o.copy_routers)
    for (const Statistic& s : model.router_state()) copier.read("state." + s.name, s.value);
  model.parameters().refresh_copy();
  for (const auto& [name, tensor] : weights.tensors())
    if (!copier.used.contains(name)) report.unused.push_back(name);
  return report;
}

}  // namespace glia
