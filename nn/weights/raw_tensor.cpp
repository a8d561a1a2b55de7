#include "nn/weights/raw_tensor.h"

#include <cmath>
#include <cstring>

#include "engine/core/bfloat16.h"

namespace glia {
namespace {

float float_from_half(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16, exponent = (h >> 10) & 31u, fraction = h & 0x3ffu;
  if (exponent == 0) return (sign ? -1.0f : 1.0f) * static_cast<float>(fraction) * 0x1p-24f;
  const uint32_t bits = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | fraction << 13;
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

// Walks the elements in row-major order, whatever the strides.
template <class T, class Convert, class F> void walk(const RawTensor& t, size_t count, Convert convert, F&& f) {
  const int rank = t.shape.rank();
  int64_t index[Shape::kMaxRank] = {}, at = 0;
  for (size_t i = 0; i < count; ++i) {
    T x;
    std::memcpy(&x, t.bytes.data() + (t.strides.empty() ? static_cast<int64_t>(i) : at) * int64_t{sizeof(T)},
                sizeof(T));
    if (!f(i, static_cast<double>(convert(x)))) return;
    if (t.strides.empty()) continue;
    for (int d = rank - 1; d >= 0; --d) {
      at += t.strides[static_cast<size_t>(d)];
      if (++index[d] < t.shape[d]) break;
      at -= t.strides[static_cast<size_t>(d)] * t.shape[d];
      index[d] = 0;
    }
  }
}

// False when the type is none of those that hold numbers for us.
template <class F> bool walk_numbers(const RawTensor& t, size_t count, F&& f) {
  const auto same = [](auto x) { return x; };
  if (t.dtype == "F32") walk<float>(t, count, same, f);
  else if (t.dtype == "F64") walk<double>(t, count, same, f);
  else if (t.dtype == "I32") walk<int32_t>(t, count, same, f);
  else if (t.dtype == "F16") walk<uint16_t>(t, count, float_from_half, f);
  else if (t.dtype == "BF16")
    walk<bfloat16>(
        t, count, [](bfloat16 x) { return static_cast<float>(x); }, f);
  else return false;
  return true;
}

}  // namespace

size_t element_size(const std::string& dtype) {
  static const std::map<std::string, size_t> sizes = {
      {"F64", 8}, {"I64", 8}, {"U64", 8}, {"F32", 4}, {"I32", 4},  {"U32", 4},     {"F16", 2},    {"BF16", 2},
      {"I16", 2}, {"U16", 2}, {"I8", 1},  {"U8", 1},  {"BOOL", 1}, {"F8_E4M3", 1}, {"F8_E5M2", 1}};
  const auto found = sizes.find(dtype);
  return found == sizes.end() ? 0 : found->second;
}

void for_each_value(const RawTensor& t, const std::string& name, size_t count,
                    const std::function<void(size_t, double)>& f) {
  const bool known = walk_numbers(t, count, [&](size_t i, double x) {
    f(i, x);
    return true;
  });
  if (!known) fail_input("{}: expected floating point numbers, got {}", name, t.dtype);
}

int64_t first_not_finite(const RawTensor& t) {
  int64_t found = -1;
  if (t.floating())
    walk_numbers(t, static_cast<size_t>(t.shape.numel()), [&](size_t i, double x) {
      if (!std::isfinite(static_cast<float>(x))) found = static_cast<int64_t>(i);
      return found < 0;
    });
  return found;
}

bool is_lfs_pointer(std::string_view content) {
  return content.size() < 1024 && content.starts_with("version https://git-lfs.github.com/spec/");
}

}  // namespace glia
