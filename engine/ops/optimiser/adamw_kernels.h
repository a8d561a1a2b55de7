// AdamW over flat buffers (Loshchilov & Hutter 2019), the maths once for both devices. Two passes: the gradient's
// squared norm, whose end turns it into the factors of this step, and the update. Rows of a long table that a step
// does not touch may wait: what they missed is done later by the same arithmetic, so that nobody can tell.
#pragma once
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "engine/core/bfloat16.h"
#include "engine/core/host_device.h"
#include "engine/core/random/rng.h"
#include "engine/device/stream.h"

namespace glia {

struct AdamWOptions {
  double learning_rate = 5e-5, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0.01;
  double clip = 1.0;         // global gradient norm; 0: no clipping
  int64_t warmup_steps = 0;  // linear from warmup_from of the rate
  int64_t total_steps = 0;   // then linear to 0 at this step; 0: constant after the warm-up
  double rate_scale = 1;     // the update's rate in parts of the schedule's: of a group of parameters
  double warmup_from = 0;
  bool bfloat16_moments = false;  // keeps m and v in 16 bits (round_at_random); p is float32 then
};

// Factors of one step, in device memory as float64; the first five are there to be read and logged.
namespace adamw_factor {
enum : int { kNorm, kLearningRate, kClip, kApply, kSkipped, kStepSize, kRootCorrection, kCount };
}

// The rate of step i = 0, 1, …: i / warmup, then (total − i) / (total − warmup), as in Hugging Face's linear
// schedule.
GLIA_HD double scheduled_rate(const AdamWOptions& o, uint32_t step) {
  const double i = step, warmup = static_cast<double>(o.warmup_steps), total = static_cast<double>(o.total_steps);
  if (i < warmup) return o.learning_rate * (o.warmup_from + (1 - o.warmup_from) * (i / warmup));
  if (o.total_steps == 0) return o.learning_rate;
  if (i >= total) return 0;
  return o.learning_rate * ((total - i) / (total - warmup > 1 ? total - warmup : 1));
}

// What of the factors needs no norm.
GLIA_HD void adamw_corrections(const AdamWOptions& o, uint32_t step, double* f) {
  const double t = static_cast<double>(step) + 1;
  f[adamw_factor::kLearningRate] = scheduled_rate(o, step);
  f[adamw_factor::kStepSize] = f[adamw_factor::kLearningRate] / (1 - pow(o.beta1, t));
  f[adamw_factor::kRootCorrection] = 1 / sqrt(1 - pow(o.beta2, t));
}

// From the squared norm; `f` keeps its count of skipped steps from step to step.
GLIA_HD void adamw_clip(const AdamWOptions& o, double squared_norm, double* f) {
  const double norm = sqrt(squared_norm);
  const bool finite = norm <= 1.7976931348623157e308;  // false for Inf and NaN
  const double ratio = o.clip > 0 ? o.clip / (norm + 1e-6) : 1.0;
  f[adamw_factor::kNorm] = norm;
  f[adamw_factor::kClip] = ratio < 1 ? ratio : 1.0;
  f[adamw_factor::kApply] = finite ? 1 : 0;
  f[adamw_factor::kSkipped] += finite ? 0 : 1;
}

// What the update takes from a step's factors, rounded to T once: what waiting rows remember of it.
template <class T> struct alignas(4 * sizeof(T)) AdamWFactors {
  T clip, step_size, root_correction, keep;  // clip −1: this step changes nothing

  AdamWFactors() = default;
  GLIA_HD AdamWFactors(const AdamWOptions& o, const double* f)
      : clip(f[adamw_factor::kApply] == 0 ? T(-1) : static_cast<T>(f[adamw_factor::kClip])),
        step_size(static_cast<T>(f[adamw_factor::kStepSize] * o.rate_scale)),
        root_correction(static_cast<T>(f[adamw_factor::kRootCorrection])),
        keep(static_cast<T>(1 - f[adamw_factor::kLearningRate] * o.rate_scale * o.weight_decay)) {}
};

// a·b + c, rounded once on a GPU and twice on a CPU, whatever is around it: an update must give the same bits
// everywhere.
template <class T> GLIA_HD T multiply_add(T a, T b, T c) {
#ifdef __CUDA_ARCH__
  return fma(a, b, c);
#else
  return a * b + c;
#endif
}

// √x and a / b; on a GPU in float32 the hardware's approximations, 2 units in the last place of an element's
// update. The exact ones leave their fast path for zeros and denormals, of which the moments of words that are rare
// are full.
template <class T> GLIA_HD T root(T x) {
#ifdef __CUDA_ARCH__
  if constexpr (std::is_same_v<T, float>) {
    asm("sqrt.approx.ftz.f32 %0, %0;" : "+f"(x));
    return x;
  }
#endif
  return std::sqrt(x);
}
template <class T> GLIA_HD T quotient(T a, T b) {
#ifdef __CUDA_ARCH__
  if constexpr (std::is_same_v<T, float>) {
    asm("div.approx.ftz.f32 %0, %0, %1;" : "+f"(a) : "f"(b));
    return a;
  }
#endif
  return a / b;
}

// What the update of one element needs.
template <class T> struct AdamWUpdate {
  AdamWFactors<T> f;
  T beta1, beta2, one_minus_beta1, one_minus_beta2, eps;

  GLIA_HD AdamWUpdate(const AdamWOptions& o, const AdamWFactors<T>& factors)
      : f(factors),
        beta1(static_cast<T>(o.beta1)),
        beta2(static_cast<T>(o.beta2)),
        one_minus_beta1(static_cast<T>(1 - o.beta1)),
        one_minus_beta2(static_cast<T>(1 - o.beta2)),
        eps(static_cast<T>(o.eps)) {}

  // m = β1 m + (1 − β1) g;  v = β2 v + (1 − β2) g²;  p = p (1 − η λ) − η m̂ / (√v̂ + ε)
  GLIA_HD void apply(T& p, T& m, T& v, T g, bool decay) const {
    g *= f.clip;
    m = multiply_add(beta1, m, one_minus_beta1 * g);
    v = multiply_add(beta2, v, one_minus_beta2 * (g * g));
    move(p, m, v, decay);
  }
  // apply() for g = 0.
  GLIA_HD void rest(T& p, T& m, T& v, bool decay) const {
    m = multiply_add(beta1, m, T(0));
    v = multiply_add(beta2, v, T(0));
    move(p, m, v, decay);
  }

 private:
  GLIA_HD void move(T& p, T m, T v, bool decay) const {
    const T d = quotient(f.step_size * m, multiply_add(root(v), f.root_correction, eps));
    p = multiply_add(p, decay ? f.keep : T(1), -d);
  }
};

// Moments in bfloat16: x goes up or down at random, up with the probability of its distance from below (16 of the bits are
// added under the last place that stays, and the rest is cut off), so that the mean of what is kept is x itself. Rounding to
// nearest would not do: with β2 = 0.999 a step moves v by a thousandth, less than half of bfloat16's last place, so that v
// would stay where it is for good however small gradients became. The bits are Philox words of (seed, step, element in the
// flat buffers), one word an element, its lower half for m and its upper one for v: a repeat, another number of threads or
// ranks, a row that waited and a resumed run draw the same ones.
GLIA_HD bfloat16 round_at_random(float x, uint32_t bits) {
  uint32_t u;
  memcpy(&u, &x, 4);
  bfloat16 y;
  const bool nan = (u & 0x7fffffffu) > 0x7f800000u;  // which an addition could make a number of
  y.bits = static_cast<uint16_t>((nan ? u | 0x400000u : u + (bits & 0xffffu)) >> 16);
  return y;
}

constexpr int64_t kNormChunk = 1 << 13;  // elements that are squared and added at a time

// A row is brought up to date every kRowPeriod steps at least.
constexpr int kRowPeriod = 32;

// Rows that wait: the table [count, width] is the first of the gradients in T, width a multiple of 8.
template <class T> struct WaitingRows {
  int64_t count = 0, width = 0;
  uint32_t* stamps = nullptr;  // [count]  2 · steps done of the row, + 1 where its next gradient waits in g
  AdamWFactors<T>* history = nullptr;  // [kRowPeriod]  of step i at i % kRowPeriod
  uint32_t* clock = nullptr;           // [1]  steps done
  uint32_t* numbers =
      nullptr;  // [kRowPeriod]  beside history: the number of step i, which its rounding is keyed by; null
                // where moments are of T
};

// One segment of the flat buffers: G, its gradients' type, T or bfloat16. Elements below `decayed` decay. All
// 16-byte aligned; decayed and n multiples of 64. copy, where not null, is p in bfloat16. M, the moments' type, is T or, for
// float, bfloat16.
template <class T, class G, class M> struct AdamWSegment {
  T* p;
  M *m, *v;
  const G* g;
  bfloat16* copy;
  int64_t decayed, n;
  int64_t first;  // of its elements in the flat buffers, a multiple of 64
};

// What the norm of all gradients is made of.
template <class T> struct AdamWGradients {
  const bfloat16* low;
  int64_t n_low;
  const T* g;
  int64_t n;
  const int32_t*
      touched;  // of the waiting rows those whose gradients count (RowOrder), all others being 0; null: all
  double *partial, *factors;
  uint32_t* ticket;  // 0 before and after
};

// Elements [begin, end) of a flat gradient, multiples of 64, in chunks of kNormChunk: those of range i are chunks
// [chunks[i], chunks[i + 1]).
struct AdamWRanges {
  static constexpr int kMost = 64;
  int count = 0;
  int64_t begin[kMost], end[kMost], chunks[kMost + 1];
};

namespace cpu {
// sum [1] += the squares of g's ranges.
template <class G> void adamw_squares(const G* g, const AdamWRanges& ranges, double* sum);
// factors = those of this step, from the squared norm [1].
void adamw_factors(const AdamWOptions& o, const uint32_t* step, const double* squared_norm, double* factors);
// factors and history = those of this step, from partial sums of squares; marks the gradients of touched rows;
// clock += 1.
template <class T>
void adamw_norm(const AdamWOptions& o, const uint32_t* step, const AdamWGradients<T>& g,
                const WaitingRows<T>& rows);
// The update of both segments; the second one begins with the waiting rows, of which it does all, or those whose
// turn it is. key: of the rounding of bfloat16 moments, with this step.
template <class T, class M>
void adamw_update(const AdamWOptions& o, const double* factors, const RandomKey& key,
                  const AdamWSegment<T, bfloat16, M>& low, const AdamWSegment<T, T, M>& rest,
                  const WaitingRows<T>& rows, bool all_rows);
// Brings rows up to date: those of the order's pieces, or all (pieces null). Of the key the step is not read: rows know theirs.
template <class T, class M>
void adamw_catch_up(const AdamWOptions& o, const RandomKey& key, const AdamWSegment<T, T, M>& rest,
                    const WaitingRows<T>& rows, const int32_t* pieces, const int32_t* count);
}  // namespace cpu

namespace cuda {
// partial: scratch for `room` sums.
template <class G>
void adamw_squares(const G* g, const AdamWRanges& ranges, double* partial, int64_t room, double* sum,
                   Stream stream);
void adamw_factors(const AdamWOptions& o, const uint32_t* step, const double* squared_norm, double* factors,
                   Stream stream);
template <class T>
void adamw_norm(const AdamWOptions& o, const uint32_t* step, const AdamWGradients<T>& g, const WaitingRows<T>& rows,
                Stream stream);
template <class T, class M>
void adamw_update(const AdamWOptions& o, const double* factors, const RandomKey& key,
                  const AdamWSegment<T, bfloat16, M>& low, const AdamWSegment<T, T, M>& rest,
                  const WaitingRows<T>& rows, bool all_rows, Stream stream);
template <class T, class M>
void adamw_catch_up(const AdamWOptions& o, const RandomKey& key, const AdamWSegment<T, T, M>& rest,
                    const WaitingRows<T>& rows, const int32_t* pieces, const int32_t* count, int64_t most_pieces,
                    Stream stream);
}  // namespace cuda

}  // namespace glia
