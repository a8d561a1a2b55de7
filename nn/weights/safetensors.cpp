#include "nn/weights/safetensors.h"

#include <cstring>
#include <nlohmann/json.hpp>

#include "engine/core/file.h"

namespace glia {
namespace {

using Json = nlohmann::ordered_json;

const char* format_name(DType t) {
  return t == DType::kFloat32 ? "F32" : t == DType::kFloat64 ? "F64" : t == DType::kBFloat16 ? "BF16" : "I32";
}

}  // namespace

void write_safetensors(const std::string& path, const std::vector<NamedTensor>& tensors, const Metadata& metadata) {
  Json header, meta = Json::object();
  for (const auto& [key, value] : metadata) meta[key] = value;
  meta["checksum"] = "";
  header["__metadata__"] = meta;
  size_t bytes = 0;
  for (const NamedTensor& t : tensors) {
    CHECK(!header.contains(t.name), "safetensors: '{}' twice", t.name);
    const size_t end = bytes + static_cast<size_t>(t.tensor.bytes());
    header[t.name] = {{"dtype", format_name(t.tensor.dtype())},
                      {"shape", std::vector<int64_t>(t.tensor.shape().begin(), t.tensor.shape().end())},
                      {"data_offsets", {bytes, end}}};
    bytes = end;
  }
  const Json without = header;
  header["__metadata__"]["checksum"] = std::string(16, '0');
  const size_t header_bytes = (header.dump().size() + 7) / 8 * 8, data = 8 + header_bytes;
  std::string content(data + bytes, ' ');
  size_t at = data;
  for (const NamedTensor& t : tensors) {
    t.tensor.context().backend().copy(content.data() + at, t.tensor.raw(), t.tensor.bytes(),
                                      CopyKind::kDeviceToHost);
    at += static_cast<size_t>(t.tensor.bytes());
  }
  header["__metadata__"]["checksum"] = safetensors_checksum(without.dump(), std::string_view(content).substr(data));
  const std::string text = header.dump();
  const uint64_t length = header_bytes;
  std::memcpy(content.data(), &length, 8);
  std::memcpy(content.data() + 8, text.data(), text.size());
  write_file_atomic(path, content);
}

void copy_raw(const RawTensor& from, const std::string& name, Tensor to) {
  const bool fits = from.shape.rank() == to.rank() && to.rank() > 0
                        ? from.shape.without(0) == to.shape().without(0) && from.shape[0] >= to.size(0)
                        : from.shape == to.shape();
  if (!fits) fail_input("{}: expected {}, got {}", name, to.shape(), from.shape);
  Context& context = to.context();
  if (from.dtype == format_name(to.dtype()) && from.strides.empty()) {
    context.backend().copy(to.raw(), from.bytes.data(), to.bytes(), CopyKind::kHostToDevice);
    context.synchronize();
    return;
  }
  std::vector<double> values(static_cast<size_t>(to.numel()));
  for_each_value(from, name, values.size(), [&](size_t i, double x) { values[i] = x; });
  to.copy_from(from_vector(context, values, to.shape(), to.dtype()));
}

SafetensorsFile::SafetensorsFile(const std::string& path)
    : path_(path),
      content_(std::make_shared<const std::string>(read_file(path))),
      header_(read_safetensors(*content_, path)) {}

const RawTensor& SafetensorsFile::entry(const std::string& name) const {
  const auto found = entries().find(name);
  if (found == entries().end()) fail_input("{}: expected a tensor '{}', found none", path_, name);
  return found->second;
}

void SafetensorsFile::read_into(const std::string& name, Tensor to) const {
  const RawTensor& e = entry(name);
  if (e.shape != to.shape()) fail_input("{}: '{}': expected {}, got {}", path_, name, to.shape(), e.shape);
  copy_raw(e, fmt::format("{}: '{}'", path_, name), to);
}

}  // namespace glia
