// What `bench ops` measures: one row an op.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "engine/autograd.h"

namespace glia {

// Letters of docs/science.md. T rows of B packed sequences, N = T·K rows after dispatch.
struct BenchSizes {
  int64_t B = 192, T = 10048, H = 512, F = 2048, A = 8, E = 8, K = 2, V = 30522, C = 4;
};

// The least that one pass must do: operations, and bytes that it must read or write.
struct BenchCost {
  double flops = 0, bytes = 0;
};

struct BenchInput {
  enum class Kind { kActivation, kMaster };  // in the run's dtype; float32 with a copy in the run's dtype
  Shape shape;
  Kind kind = Kind::kActivation;
  double std = 1;
  bool gradient = true;
};

struct BenchOp {
  std::string name;  // with its shape
  std::vector<BenchInput> inputs;
  std::function<Var(Context&, const std::vector<Var>&)> run;
  BenchCost forward, backward;
  bool waits = false;  // reads something back from the device: it cannot be captured
};

// `w` is the size of an activation's element in bytes.
std::vector<BenchOp> bench_op_list(Context& context, const BenchSizes& s, double w);

}  // namespace glia
