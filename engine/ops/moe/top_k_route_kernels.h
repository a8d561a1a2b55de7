// The fused router on CUDA: bfloat16 rows, float32 weights and logits, E <= 8 experts.
#pragma once
#include "engine/ops/moe/moe_kernels.h"

namespace glia::cuda {

constexpr int kRouteRows = 64;  // rows a block, and of a partial sum of the importance

// Whether these sizes are ones that the kernels take: E <= 8, H a multiple of 64 and at most 1856.
bool route_fits(int64_t hidden, int64_t experts);

// Logits of B context rows: row b is x[offsets[b]].     x [T, H], w [E, H], b [E] → logits [B, E]
void route_context(const RouterShape& s, const bfloat16* x, const float* w, const float* b, float* logits,
                   Stream stream);

// logits [T, E], raw [T, E] = w x + b (or nullptr), gates and chosen [T, K], partial [⌈T / kRouteRows⌉, E]: the
// importance of the block's rows. All written with =.
void route(const RouterShape& s, int64_t k, const bfloat16* x, const float* w, const float* b, const float* context,
           float* logits, float* raw, float* gates, int32_t* chosen, float* partial, Stream stream);

struct RouteGradient {
  const float *dlogits, *dgates, *dlosses, *dimportance;  // [T, E], [T, K], [2], [E]; each may be nullptr
  const float *gates, *importance;                        // [T, K], [E]
  const int32_t* chosen;                                  // [T, K]
  int64_t k;
};
// sum_dlogits [T, E] =: the logits' whole gradient; dx [T, H] =, dw [E, H] =, db [E] =, dcontext [B, E] = (each or
// nullptr). partial: [router_chunks(T, H), E, H + 1].
void route_gradient(const RouterShape& s, const RouteGradient& g, const bfloat16* x, const float* w,
                    const float* context, const float* raw, float* sum_dlogits, bfloat16* dx, float* dw, float* db,
                    float* dcontext, float* partial, Stream stream);

// Of route_context: dx[offsets[b]] += dcontext[b] w (or nullptr), dw [E, H] =, db [E] =
void route_context_gradient(const RouterShape& s, const bfloat16* x, const float* w, const float* dcontext,
                            bfloat16* dx, float* dw, float* db, Stream stream);

}  // namespace glia::cuda
