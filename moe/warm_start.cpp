#include "moe/warm_start.h"

#include "engine/core/file.h"
#include "engine/ops/elementwise/random_fill.h"
#include "nn/weights/hugging_face.h"

namespace glia {
namespace {

void read(const SafetensorsFile& file, const std::string& name, const Tensor& to) {
  if (!read_weight(file, name, to))
    fail_input("{}: expected '{}' ('{}' in Hugging Face's naming), found neither", file.path(), name,
               hugging_face_names(name)[0]);
}

}  // namespace

WarmStartReport warm_start(Model& model, const SafetensorsFile& file, const WarmStartOptions& o) {
  WarmStartReport report;
  ParameterSet& set = model.parameters();
  for (const Parameter& p : set.all()) {
    const Tensor value = p.var.value();
    const size_t experts = p.name.find(".moe.experts."), second = p.name.find(".second_norm.");
    const bool ffn = experts != std::string::npos || p.name.find(".ffn.") != std::string::npos;
    if (p.name.starts_with("classifier.") || p.name.find(".moe.router.") != std::string::npos ||
        (ffn && !o.copy_ffn)) {
      report.fresh.push_back(p.name);
      continue;
    }
    if (experts != std::string::npos) {
      const std::string dense = p.name.substr(0, experts) + ".ffn." + p.name.substr(experts + 13);
      const int64_t count = value.size(0);
      const Tensor flat = value.reshape({count, -1});
      const Shape one = p.shape.without(0);
      for (int64_t e = 0; e < count; ++e) {
        const Tensor to = flat.rows(e, e + 1).reshape(one);
        if (e == 0) read(file, dense, to);
        else to.reshape({1, -1}).copy_from(flat.rows(0, 1));
      }
      const uint64_t h = hash_bytes(p.name);
      fill_normal(value, {o.noise, o.seed, purpose::kWarmStart + static_cast<uint32_t>(h & 0xffffffu),
                          static_cast<uint32_t>(h >> 32), true});
    } else if (second != std::string::npos) {  // a copy of the first norm after attention
      std::string first = p.name;
      first.replace(second, 13, ".attention.norm.");
      read(file, first, value);
    } else {
      read(file, p.name, value);
    }
    report.copied.push_back(p.name);
  }
  set.refresh_copy();
  return report;
}

}  // namespace glia
