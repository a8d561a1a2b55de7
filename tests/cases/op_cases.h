// The table of differentiable functions that tests and tools/gradcheck share. To add one: a row in op_cases.cpp
// (ops) or layer_cases.cpp (layers); routers have theirs by their registry. Every row is gradient-checked in float64 on
// every device, compared
// between CPU and CUDA, compared with a float64 run in the lower precisions it lists, and run repeatedly for the
// same bits.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "engine/autograd.h"

namespace glia {

struct CaseInput {
  Shape shape;
  double low = -1, high = 1;  // uniform in [low, high]
  double keep_from = 0;       // values closer than this to 0 are moved away from it (a kink at 0)
  double spacing = 0;         // > 0: a random order of multiples of `spacing` (no ties, for max and top-k)
};

struct OpCase {
  std::string name;               // "softmax", "softmax/odd", … ; unique
  std::vector<CaseInput> inputs;  // each is a parameter whose gradient is checked
  std::function<Var(Context&, const std::vector<Var>&)> run;
  bool bfloat16 = true;  // also run with bfloat16 inputs, compared by the tolerance rule
  bool gradient = true;  // false: the op declares none, and gradcheck says so
};

std::vector<OpCase> op_cases();
void add_product_cases(std::vector<OpCase>& cases);  // product_cases.cpp: products, attention, MoE
void add_layer_cases(std::vector<OpCase>& cases);    // layer_cases.cpp: layers, ops on routing
void add_router_cases(std::vector<OpCase>& cases);  // router_cases.cpp: routers and their options, mixtures, models
void add_task_cases(std::vector<OpCase>& cases);    // task_cases.cpp: losses over a vocabulary

// The inputs of a row: drawn from the seed, rounded to bfloat16, so the same numbers in every dtype and on every
// device.
std::vector<Tensor> make_inputs(Context& context, const OpCase& c, DType dtype, uint64_t seed);

}  // namespace glia
