// AdamW over flat buffers (Loshchilov & Hutter 2019), the maths once for both devices. Three passes: the gradient's
// squared norm by chunks, one small step that turns it into the factors of this step, and the update.
#pragma once
#include <cmath>
#include <cstdint>

#include "engine/core/bfloat16.h"
#include "engine/core/host_device.h"
#include "engine/device/stream.h"

namespace glia {

struct AdamWOptions {
  double learning_rate = 5e-5, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0.01;
  double clip = 1.0;         // global gradient norm; 0: no clipping
  int64_t warmup_steps = 0;  // linear from 0
  int64_t total_steps = 0;   // then linear to 0 at this step; 0: constant after the warm-up
};

// Factors of one step, in device memory as float64 [8]; the first five are there to be read and logged.
namespace adamw_factor {
enum : int { kNorm, kLearningRate, kClip, kApply, kSkipped, kStepSize, kRootCorrection, kCount };
}

// The rate of step i = 0, 1, …: i / warmup, then (total − i) / (total − warmup), as in Hugging Face's linear
// schedule.
GLIA_HD double scheduled_rate(const AdamWOptions& o, uint32_t step) {
  const double i = step, warmup = static_cast<double>(o.warmup_steps), total = static_cast<double>(o.total_steps);
  if (i < warmup) return o.learning_rate * (i / warmup);
  if (o.total_steps == 0) return o.learning_rate;
  if (i >= total) return 0;
  return o.learning_rate * ((total - i) / (total - warmup > 1 ? total - warmup : 1));
}

// From the squared norm; `f` keeps its count of skipped steps from step to step.
GLIA_HD void adamw_factors(const AdamWOptions& o, uint32_t step, double squared_norm, double* f) {
  const double norm = sqrt(squared_norm), t = static_cast<double>(step) + 1;
  const bool finite = norm <= 1.7976931348623157e308;  // false for Inf and NaN
  const double rate = scheduled_rate(o, step);
  const double ratio = o.clip > 0 ? o.clip / (norm + 1e-6) : 1.0;
  f[adamw_factor::kNorm] = norm;
  f[adamw_factor::kLearningRate] = rate;
  f[adamw_factor::kClip] = ratio < 1 ? ratio : 1.0;
  f[adamw_factor::kApply] = finite ? 1 : 0;
  f[adamw_factor::kSkipped] += finite ? 0 : 1;
  f[adamw_factor::kStepSize] = rate / (1 - pow(o.beta1, t));
  f[adamw_factor::kRootCorrection] = 1 / sqrt(1 - pow(o.beta2, t));
}

// What the update of one element needs, rounded to T once.
template <class T>
struct AdamWUpdate {
  T clip, step_size, root_correction, keep, beta1, beta2, one_minus_beta1, one_minus_beta2, eps;

  GLIA_HD AdamWUpdate(const AdamWOptions& o, const double* f)
      : clip(static_cast<T>(f[adamw_factor::kClip])),
        step_size(static_cast<T>(f[adamw_factor::kStepSize])),
        root_correction(static_cast<T>(f[adamw_factor::kRootCorrection])),
        keep(static_cast<T>(1 - f[adamw_factor::kLearningRate] * o.weight_decay)),
        beta1(static_cast<T>(o.beta1)),
        beta2(static_cast<T>(o.beta2)),
        one_minus_beta1(static_cast<T>(1 - o.beta1)),
        one_minus_beta2(static_cast<T>(1 - o.beta2)),
        eps(static_cast<T>(o.eps)) {}

  // m = β1 m + (1 − β1) g;  v = β2 v + (1 − β2) g²;  p = p (1 − η λ) − η m̂ / (√v̂ + ε)
  GLIA_HD void apply(T& p, T& m, T& v, T g, bool decay) const {
    g *= clip;
    m = beta1 * m + one_minus_beta1 * g;
    v = beta2 * v + one_minus_beta2 * (g * g);
    p = p * (decay ? keep : T(1)) - step_size * m / (sqrt(v) * root_correction + eps);
  }
};

constexpr int64_t kNormChunk = 1 << 14;  // elements a partial sum; the number of partial sums depends on n only

namespace cpu {
// partial[c] = Σ g² over chunk c; T: float, double or bfloat16
template <class T>
void squared_sums(const T* g, int64_t n, double* partial);
void adamw_factors(const AdamWOptions& o, const uint32_t* step, const double* partial, int64_t chunks,
                   double* factors);
// G, the gradient's type: T or bfloat16. p, m, v += …; copy (=, where not null) is p in bfloat16. Elements below `decayed` decay. All 16-byte aligned;
// decayed and n multiples of 64.
template <class T, class G>
void adamw_update(const AdamWOptions& o, const double* factors, T* p, T* m, T* v, const G* g, bfloat16* copy,
                  int64_t decayed, int64_t n);
}  // namespace cpu

namespace cuda {
template <class T>
void squared_sums(const T* g, int64_t n, double* partial, Stream stream);
void adamw_factors(const AdamWOptions& o, const uint32_t* step, const double* partial, int64_t chunks,
                   double* factors, Stream stream);
template <class T, class G>
void adamw_update(const AdamWOptions& o, const double* factors, T* p, T* m, T* v, const G* g, bfloat16* copy,
                  int64_t decayed, int64_t n, Stream stream);
}  // namespace cuda

}  // namespace glia
