#include <nlohmann/json.hpp>

#include "experiments/analysis/trace_file.h"
#include "nn/weights/safetensors.h"

namespace glia::results {

void write_trace(const std::string& path, const TraceContent& t) {
  const size_t size = size_t(t.tokens) * size_t(t.layers) * size_t(t.slots);
  CHECK(t.experts.size() == size && t.gates.size() == size, "trace: {} experts and {} gates for {} × {} × {}",
        t.experts.size(), t.gates.size(), t.tokens, t.layers, t.slots);
  Context context(Device::cpu());
  const Shape shape{t.tokens, t.layers, t.slots};
  std::vector<NamedTensor> tensors = {{"experts", from_vector(context, t.experts, shape, DType::kInt32)},
                                      {"gates", from_vector(context, t.gates, shape, DType::kFloat32)}};
  const auto add = [&](const char* name, const std::vector<int32_t>& values) {
    if (!values.empty())
      tensors.push_back({name, from_vector(context, values, Shape{int64_t(values.size())}, DType::kInt32)});
  };
  add("ids", t.ids), add("offsets", t.offsets), add("labels", t.labels);
  Metadata metadata = {{"title", t.title}, {"n_experts", std::to_string(t.n_experts)}};
  if (!t.topics.empty()) metadata["topics"] = nlohmann::json(t.topics).dump();
  write_safetensors(path, tensors, metadata);
}

}  // namespace glia::results
