// Ops that compute in float32 or float64 alone, as routers do.
#pragma once
#include "engine/core/check.h"
#include "engine/core/dtype.h"

namespace glia {

// f(TypeTag<float>{}) or f(TypeTag<double>{}). Errors: another type, by the op's name.
template <class F> void dispatch_wide(DType t, const char* op, F&& f) {
  CHECK(t == DType::kFloat32 || t == DType::kFloat64, "{}: wants float32 or float64, got {}", op, t);
  if (t == DType::kFloat32) f(TypeTag<float>{});
  else f(TypeTag<double>{});
}

}  // namespace glia
