#include "nn/weights/safetensors_header.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "engine/core/file.h"
#include "engine/core/file_kind.h"
#include "engine/core/json.h"

namespace glia {
namespace {

using Json = nlohmann::ordered_json;
constexpr size_t kMaxHeader = 100'000'000;  // the format's own limit
constexpr int kMaxDepth = 8;                // of the header; it needs 3

// Without this a header of a million brackets would be a recursion of a million calls.
bool too_deep(std::string_view json) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < json.size(); ++i) {
    const char c = json[i];
    if (in_string) {
      if (c == '\\') ++i;
      else if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      if (++depth > kMaxDepth) return true;
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return false;
}

struct Reader {
  const std::string& source;
  std::string_view data;
  SafetensorsHeader& header;
  std::vector<std::pair<size_t, size_t>> spans = {};

  [[noreturn]] void refuse(const std::string& why) const {
    fail_input("{}: not a usable safetensors file: {}", source, why);
  }
  const Json& field(const std::string& name, const Json& entry, const char* key) const;
  std::string text(const std::string& name, const Json& value) const;
  template <class T>
  std::vector<T> whole_numbers(const std::string& name, const Json& entry, const char* key) const;
  void entry(const std::string& name, const Json& value);
  void check_spans();
};

const Json& Reader::field(const std::string& name, const Json& entry, const char* key) const {
  const auto found = entry.is_object() ? entry.find(key) : entry.end();
  if (!entry.is_object() || found == entry.end())
    refuse(fmt::format("malformed header: expected {} of '{}', found none", key, name));
  return *found;
}

std::string Reader::text(const std::string& name, const Json& value) const {
  if (!value.is_string())
    refuse(fmt::format("malformed header: '{}': expected text, got {}", name, value.type_name()));
  return value.get<std::string>();
}

// Of JSON's integers alone: what a fraction or a power of ten becomes as an unsigned number is not defined.
template <class T>
std::vector<T> Reader::whole_numbers(const std::string& name, const Json& entry, const char* key) const {
  const Json& list = field(name, entry, key);
  const auto whole = [](const Json& n) {
    return std::is_unsigned_v<T> ? n.is_number_unsigned() : n.is_number_integer();
  };
  if (!list.is_array() || !std::ranges::all_of(list, whole))
    refuse(fmt::format("'{}': expected a list of whole numbers as {}, got {}", name, key, list.dump()));
  return list.get<std::vector<T>>();
}

void Reader::entry(const std::string& name, const Json& value) {
  RawTensor t;
  t.dtype = text(name, field(name, value, "dtype"));
  const auto shape = whole_numbers<int64_t>(name, value, "shape");
  const auto offsets = whole_numbers<size_t>(name, value, "data_offsets");
  size_t elements = 1;
  for (const int64_t extent : shape) {
    if (extent < 0 || (extent > 0 && elements > (size_t{1} << 50) / static_cast<size_t>(extent)))
      refuse(fmt::format("'{}' has an impossible shape", name));
    elements *= static_cast<size_t>(extent);
  }
  if (shape.size() > Shape::kMaxRank || offsets.size() != 2)
    refuse(fmt::format("'{}' has a malformed entry", name));
  t.shape = Shape(shape.data(), static_cast<int>(shape.size()));
  const size_t begin = offsets[0], end = offsets[1];
  if (begin > end) refuse(fmt::format("'{}' ends before it begins", name));
  if (end > data.size())
    refuse(fmt::format("cut short: '{}' ends at byte {} of the data, which has {}", name, end, data.size()));
  if (element_size(t.dtype) == 0) refuse(fmt::format("'{}' has the unknown dtype {}", name, t.dtype));
  if (end - begin != elements * element_size(t.dtype))
    refuse(fmt::format("'{}' is {} {}, but has {} bytes", name, t.dtype, t.shape, end - begin));
  t.bytes = data.substr(begin, end - begin);
  spans.emplace_back(begin, end);
  header.tensors[name] = std::move(t);
}

void Reader::check_spans() {
  std::sort(spans.begin(), spans.end());
  size_t end = 0;
  for (const auto& span : spans) {
    if (span.first != end)
      refuse(fmt::format("bytes {} to {} of the data are {}", std::min(end, span.first), std::max(end, span.first),
                         span.first > end ? "nobody's" : "claimed twice"));
    end = span.second;
  }
  if (end != data.size()) refuse(fmt::format("{} bytes follow the last tensor", data.size() - end));
}

}  // namespace

std::string safetensors_checksum(const std::string& header_without, std::string_view data) {
  return fmt::format("{:016x}", hash_bytes(data, hash_bytes(header_without)));
}

SafetensorsHeader read_safetensors(std::string_view content, const std::string& source) {
  SafetensorsHeader header;
  Reader reader{source, {}, header};
  if (is_lfs_pointer(content)) fail_input("{}: a Git LFS pointer: fetch the file itself (git lfs pull)", source);
  if (content.empty()) reader.refuse("it is empty");
  if (content.size() < 8) reader.refuse(fmt::format("it has {} bytes", content.size()));
  uint64_t bytes;
  std::memcpy(&bytes, content.data(), 8);
  if (const std::string kind = foreign_kind(content.substr(0, 512)); !kind.empty() && 8 + bytes > content.size())
    reader.refuse("it is " + kind);
  if (bytes > kMaxHeader || bytes < 2) reader.refuse(fmt::format("its header would have {} bytes", bytes));
  if (8 + bytes > content.size())
    reader.refuse(fmt::format("cut short: the header has {} bytes, the file {}", bytes, content.size()));
  const std::string_view text = content.substr(8, bytes);
  reader.data = content.substr(8 + bytes);
  if (too_deep(text)) reader.refuse("its header is no JSON object of tensors");
  std::string why;
  Json json = parse_json(text, why);
  if (!why.empty()) reader.refuse("its header is no JSON object: " + why);
  if (!json.is_object()) reader.refuse("its header is no JSON object");
  for (const auto& [name, value] : json.items()) {
    if (name != "__metadata__") {
      reader.entry(name, value);
      continue;
    }
    if (!value.is_object())
      reader.refuse(fmt::format("malformed header: expected an object as {}, got {}", name, value.type_name()));
    for (const auto& [key, said] : value.items()) header.metadata[key] = reader.text(key, said);
  }
  reader.check_spans();
  if (const auto found = header.metadata.find("checksum"); found != header.metadata.end()) {
    json["__metadata__"]["checksum"] = "";
    // Replaced where it is no UTF-8, which a file of ours never has.
    const std::string without = json.dump(-1, ' ', false, Json::error_handler_t::replace),
                      sum = safetensors_checksum(without, reader.data);
    if (sum != found->second)
      reader.refuse(fmt::format("altered: its checksum is {}, the content's is {}", found->second, sum));
  }
  return header;
}

}  // namespace glia
