// Proves handwritten gradients: L = Σ r ∘ y(x) for a random r, in float64; dL/dx from the tape against finite
// differences.
//
// The differences are of fourth order, (8 (L₊₁ − L₋₁) − (L₊₂ − L₋₂)) / 12h: with h = 1e-4 they are good to about
// 1e-11, so the bound of 1e-6 leaves no room for a wrong gradient. Small inputs are checked element by element; of
// large ones a random sample of elements, and directions of ±1 in all elements at once, which see every element.
#pragma once

#include <string>

#include "tests/cases/op_cases.h"

namespace glia {

struct GradcheckOptions {
  uint64_t seed = 1;
  double bound = 1e-6;
  std::string plant_error;  // this case's first gradient that is not 0 is multiplied by 1.001: it must be caught
};

struct GradcheckResult {
  enum class Verdict { kPass, kFail, kNoGradient };
  std::string name;
  size_t inputs = 0;
  int64_t checks = 0;  // elements and directions compared
  double worst = 0;    // largest error, relative to the largest gradient element of that input
  int worst_input = -1;
  Verdict verdict = Verdict::kPass;
  std::string error;  // why it failed where there is no number: an exception, a missing or non-finite gradient
  double seconds = 0;
};

GradcheckResult gradcheck(Context& context, const OpCase& c, const GradcheckOptions& options = {});

}  // namespace glia
