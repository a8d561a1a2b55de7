// The element types a Tensor can hold, and the one place where a run-time dtype becomes a C++ type.
#pragma once

#include <cstdint>

#include "engine/core/bfloat16.h"
#include "engine/core/check.h"

namespace glia {

enum class DType : uint8_t { kFloat32, kFloat64, kBFloat16, kInt32 };

constexpr int64_t size_of(DType t) { return t == DType::kFloat64 ? 8 : t == DType::kBFloat16 ? 2 : 4; }
constexpr const char* name(DType t) {
  return t == DType::kFloat32    ? "float32"
         : t == DType::kFloat64  ? "float64"
         : t == DType::kBFloat16 ? "bfloat16"
                                 : "int32";
}
constexpr bool is_floating(DType t) { return t != DType::kInt32; }
// In which sums over t are kept: float64 for float64, else float32.
constexpr DType accumulation_dtype(DType t) { return t == DType::kFloat64 ? t : DType::kFloat32; }

template <class T> constexpr DType dtype_of();
template <> constexpr DType dtype_of<float>() { return DType::kFloat32; }
template <> constexpr DType dtype_of<double>() { return DType::kFloat64; }
template <> constexpr DType dtype_of<bfloat16>() { return DType::kBFloat16; }
template <> constexpr DType dtype_of<int32_t>() { return DType::kInt32; }

template <class T> struct TypeTag { using type = T; };

// f(TypeTag<T>{}) for the floating type that t names:
//   dispatch_floating(x.dtype(), "softmax", [&](auto tag) { using T = typename decltype(tag)::type; … });
template <class F> decltype(auto) dispatch_floating(DType t, const char* op, F&& f) {
  switch (t) {
    case DType::kFloat32: return f(TypeTag<float>{});
    case DType::kFloat64: return f(TypeTag<double>{});
    case DType::kBFloat16: return f(TypeTag<bfloat16>{});
    default: CHECK(false, "{}: wants float32, float64 or bfloat16, got {}", op, name(t));
  }
  __builtin_unreachable();
}

}  // namespace glia

// Formatters parse no options of their own: fmt 9's generic parser trips g++ 12's -Wstringop-overflow.
template <> struct fmt::formatter<glia::DType> {
  constexpr auto parse(fmt::format_parse_context& c) { return c.begin(); }
  auto format(glia::DType t, fmt::format_context& c) const { return fmt::format_to(c.out(), "{}", glia::name(t)); }
};
