#include "nn/weights/safetensors.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "engine/core/file.h"

namespace glia {
namespace {

using Json = nlohmann::ordered_json;
constexpr size_t kMaxHeader = 100'000'000;  // the format's own limit

const char* format_name(DType t) {
  return t == DType::kFloat32 ? "F32" : t == DType::kFloat64 ? "F64" : t == DType::kBFloat16 ? "BF16" : "I32";
}

size_t element_size(const std::string& dtype) {
  static const std::map<std::string, size_t> sizes = {
      {"F64", 8}, {"I64", 8}, {"U64", 8}, {"F32", 4}, {"I32", 4},  {"U32", 4},     {"F16", 2},    {"BF16", 2},
      {"I16", 2}, {"U16", 2}, {"I8", 1},  {"U8", 1},  {"BOOL", 1}, {"F8_E4M3", 1}, {"F8_E5M2", 1}};
  const auto found = sizes.find(dtype);
  return found == sizes.end() ? 0 : found->second;
}

// Over the header as it is with an empty checksum, then over the data.
std::string checksum(const Json& header_without, std::string_view data) {
  return fmt::format("{:016x}", hash_bytes(data, hash_bytes(header_without.dump())));
}

float float_from_half(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16, exponent = (h >> 10) & 31u, fraction = h & 0x3ffu;
  if (exponent == 0) return (sign ? -1.0f : 1.0f) * static_cast<float>(fraction) * 0x1p-24f;
  const uint32_t bits = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | fraction << 13;
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

template <class T, class Convert> std::vector<double> widen(const char* from, size_t n, Convert convert) {
  std::vector<double> to(n);
  for (size_t i = 0; i < n; ++i) {
    T x;
    std::memcpy(&x, from + i * sizeof(T), sizeof(T));
    to[i] = static_cast<double>(convert(x));
  }
  return to;
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
  header["__metadata__"]["checksum"] = checksum(without, std::string_view(content).substr(data));
  const std::string text = header.dump();
  const uint64_t length = header_bytes;
  std::memcpy(content.data(), &length, 8);
  std::memcpy(content.data() + 8, text.data(), text.size());
  write_file_atomic(path, content);
}

SafetensorsFile::SafetensorsFile(const std::string& path) : path_(path), content_(read_file(path)) {
  const auto refuse = [&](const std::string& why) {
    fail_input("{}: not a usable safetensors file: {}", path_, why);
  };
  if (content_.size() < 8) refuse(fmt::format("it has {} bytes", content_.size()));
  uint64_t header_bytes;
  std::memcpy(&header_bytes, content_.data(), 8);
  if (header_bytes > kMaxHeader || header_bytes < 2)
    refuse(fmt::format("its header would have {} bytes", header_bytes));
  if (8 + header_bytes > content_.size())
    refuse(fmt::format("cut short: the header has {} bytes, the file {}", header_bytes, content_.size()));
  data_ = 8 + header_bytes;
  const size_t size = content_.size() - data_;
  Json header = Json::parse(content_.data() + 8, content_.data() + data_, nullptr, false);
  if (!header.is_object()) refuse("its header is no JSON object");

  std::vector<std::pair<size_t, size_t>> spans;
  try {
    for (const auto& [name, value] : header.items()) {
      if (name == "__metadata__") {
        for (const auto& [key, text] : value.items()) metadata_[key] = text.get<std::string>();
        continue;
      }
      Entry e;
      e.dtype = value.at("dtype").get<std::string>();
      const auto shape = value.at("shape").get<std::vector<int64_t>>();
      const auto offsets = value.at("data_offsets").get<std::vector<size_t>>();
      size_t elements = 1;
      for (const int64_t extent : shape) {
        if (extent < 0 || (extent > 0 && elements > (size_t{1} << 50) / static_cast<size_t>(extent)))
          refuse(fmt::format("'{}' has an impossible shape", name));
        elements *= static_cast<size_t>(extent);
      }
      if (shape.size() > Shape::kMaxRank || offsets.size() != 2)
        refuse(fmt::format("'{}' has a malformed entry", name));
      e.shape = Shape(shape.data(), static_cast<int>(shape.size()));
      e.begin = offsets[0], e.end = offsets[1];
      if (e.begin > e.end) refuse(fmt::format("'{}' ends before it begins", name));
      if (e.end > size)
        refuse(fmt::format("cut short: '{}' ends at byte {} of the data, which has {}", name, e.end, size));
      if (element_size(e.dtype) == 0) refuse(fmt::format("'{}' has the unknown dtype {}", name, e.dtype));
      if (e.end - e.begin != elements * element_size(e.dtype))
        refuse(fmt::format("'{}' is {} {}, but has {} bytes", name, e.dtype, e.shape, e.end - e.begin));
      spans.emplace_back(e.begin, e.end);
      entries_[name] = std::move(e);
    }
  } catch (const Json::exception& e) {
    refuse(fmt::format("malformed header: {}", e.what()));
  }
  std::sort(spans.begin(), spans.end());
  size_t end = 0;
  for (const auto& span : spans) {
    if (span.first != end)
      refuse(fmt::format("bytes {} to {} of the data are {}", std::min(end, span.first), std::max(end, span.first),
                         span.first > end ? "nobody's" : "claimed twice"));
    end = span.second;
  }
  if (end != size) refuse(fmt::format("{} bytes follow the last tensor", size - end));

  if (has_checksum()) {
    header["__metadata__"]["checksum"] = "";
    const std::string found = checksum(header, std::string_view(content_).substr(data_));
    if (found != metadata_["checksum"])
      refuse(fmt::format("altered: its checksum is {}, the content's is {}", metadata_["checksum"], found));
  }
}

const SafetensorsFile::Entry& SafetensorsFile::entry(const std::string& name) const {
  const auto found = entries_.find(name);
  if (found == entries_.end()) fail_input("{}: expected a tensor '{}', found none", path_, name);
  return found->second;
}

void SafetensorsFile::read_into(const std::string& name, Tensor to) const {
  const Entry& e = entry(name);
  if (e.shape != to.shape()) fail_input("{}: '{}': expected {}, got {}", path_, name, to.shape(), e.shape);
  const char* from = content_.data() + data_ + e.begin;
  Context& context = to.context();
  if (e.dtype == format_name(to.dtype())) {
    context.backend().copy(to.raw(), from, to.bytes(), CopyKind::kHostToDevice);
    context.synchronize();
    return;
  }
  const size_t n = static_cast<size_t>(to.numel());
  const auto same = [](auto x) { return x; };
  std::vector<double> values;
  if (e.dtype == "F32") values = widen<float>(from, n, same);
  else if (e.dtype == "F64") values = widen<double>(from, n, same);
  else if (e.dtype == "I32") values = widen<int32_t>(from, n, same);
  else if (e.dtype == "F16") values = widen<uint16_t>(from, n, float_from_half);
  else if (e.dtype == "BF16") values = widen<bfloat16>(from, n, [](bfloat16 x) { return static_cast<float>(x); });
  else fail_input("{}: '{}': expected floating point numbers, got {}", path_, name, e.dtype);
  to.copy_from(from_vector(context, values, to.shape(), to.dtype()));
}

}  // namespace glia
