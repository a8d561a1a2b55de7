// Where a tensor lives: the CPU, or one CUDA GPU by its index.
#pragma once
#include <string>
#include <string_view>

#include "engine/core/check.h"

namespace glia {

struct Device {
  enum class Type { kCpu, kCuda };
  Type type = Type::kCpu;
  int index = 0;

  static Device cpu() { return {}; }
  static Device cuda(int index = 0) { return {Type::kCuda, index}; }
  // "cpu", "cuda" or "cuda:1"; anything else is an error that says so.
  static Device parse(std::string_view text);

  bool is_cpu() const { return type == Type::kCpu; }
  bool is_cuda() const { return type == Type::kCuda; }
  std::string str() const { return is_cpu() ? "cpu" : fmt::format("cuda:{}", index); }
  friend bool operator==(const Device&, const Device&) = default;
};

// What to say of a GPU for which a build holds no code. `capability`: 90 for 9.0; `built`: the build's architectures,
// "80 90a".
std::string missing_code_text(std::string_view gpu, int capability, std::string_view built);

}  // namespace glia
