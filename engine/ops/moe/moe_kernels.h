// Kernels of moe.cpp on raw memory. T rows, H columns, E experts, K choices a row, B sequences, N dispatched rows.
// x has type T; logits, gates and losses have A = Accumulator<T> (float, or double for double).
#pragma once
#include <algorithm>
#include <cstdint>

#include "engine/core/bfloat16.h"
#include "engine/device/stream.h"

namespace glia {

struct RouterShape {
  int64_t tokens, hidden, experts;
  int mode;                    // ContextMode
  const int32_t* sequence_of;  // [T], −1 in the tail
  const int32_t* offsets;      // [B + 1]
  int64_t sequences;           // B
};

struct LoadShape {
  int64_t tokens, k, experts;
  const int32_t* real_tokens;  // one int: offsets[B]
};

namespace cpu {
// logits [T, E] =; raw [T, E] = w x + b, or nullptr when the mode does not need it later
template <class T, class A>
void router_logits(const RouterShape& s, const T* x, const A* w, const A* b, const A* context, A* logits, A* raw);
// dx [T, H] =, dw [E, H] =, db [E] =, dcontext [B, E] =; each may be nullptr
template <class T, class A>
void router_logits_gradient(const RouterShape& s, const T* x, const A* w, const A* context, const A* raw,
                            const A* dlogits, T* dx, A* dw, A* db, A* dcontext);
template <class A>
void top_k_gates(const A* logits, const int32_t* sequence_of, int64_t tokens, int64_t experts, int64_t k, A* gates,
                 int32_t* chosen);
template <class A>  // dlogits [T, E] =
void top_k_gates_gradient(const A* gates, const int32_t* chosen, const A* dgates, int64_t tokens, int64_t experts,
                          int64_t k, A* dlogits);
template <class A>  // losses [2] =, importance [E] =
void load_losses(const LoadShape& s, const A* gates, const int32_t* chosen, A* losses, A* importance);
template <class A>  // dgates [T, K] =; dlosses [2] or dimportance [E] may be nullptr
void load_losses_gradient(const LoadShape& s, const int32_t* chosen, const A* importance, const A* dlosses,
                          const A* dimportance, A* dgates);
void make_dispatch(const int32_t* chosen, int64_t pairs, int64_t experts, int64_t alignment, int64_t rows,
                   int32_t* offsets, int32_t* row_of, int32_t* pair_of);
template <class T>
void dispatch_rows(const T* x, const int32_t* pair_of, int64_t rows, int64_t hidden, int64_t k, T* z);
// y[t] = Σ_k gates[t, k] z[row_of[t, k]]; gates nullptr means 1
template <class T, class A>
void combine_rows(const T* z, const A* gates, const int32_t* row_of, int64_t tokens, int64_t hidden, int64_t k,
                  T* y);
// dz[r] = gate · dy[t], dgates[t, k] = ⟨dy[t], z[r]⟩ for r = row_of[t, k], 0 for pairs without a row; either may be
// nullptr
template <class T, class A>
void combine_rows_gradient(const T* z, const A* gates, const int32_t* pair_of, const int32_t* row_of, const T* dy,
                           int64_t rows, int64_t pairs, int64_t hidden, int64_t k, T* dz, A* dgates);
}  // namespace cpu

namespace cuda {
// Partial sums of dw, db: two blocks a multiprocessor (132 of them on an H100), each with 256 columns, and 16
// tokens at least.
inline int64_t router_chunks(int64_t tokens, int64_t hidden) {
  const int64_t most = std::max<int64_t>(1, 264 / ((hidden + 255) / 256));
  return std::clamp<int64_t>((tokens + 15) / 16, 1, most);
}
constexpr int kLoadChunk = 256;      // tokens a partial sum of the importance
constexpr int kDispatchChunk = 512;  // pairs a block of the counting sort
// The counting sort has a count a warp and two more of each expert in a block's 48 KB of shared memory.
constexpr int64_t kRoomForExperts = 48 * 1024 / (4 * (kDispatchChunk / 32 + 2));
constexpr int kCombineTile = 16;  // rows a partial sum of combine_rows_gradient

template <class T, class A>
void router_logits(const RouterShape& s, const T* x, const A* w, const A* b, const A* context, A* logits, A* raw,
                   Stream stream);
// partial: [router_chunks(T, H), E, H + 1]
template <class T, class A>
void router_logits_gradient(const RouterShape& s, const T* x, const A* w, const A* context, const A* raw,
                            const A* dlogits, T* dx, A* dw, A* db, A* dcontext, A* partial, Stream stream);
template <class A>
void top_k_gates(const A* logits, const int32_t* sequence_of, int64_t tokens, int64_t experts, int64_t k, A* gates,
                 int32_t* chosen, Stream stream);
template <class A>
void top_k_gates_gradient(const A* gates, const int32_t* chosen, const A* dgates, int64_t tokens, int64_t experts,
                          int64_t k, A* dlogits, Stream stream);
// partial: [⌈T / kLoadChunk⌉, E]
template <class A>
void load_losses(const LoadShape& s, const A* gates, const int32_t* chosen, A* partial, A* losses, A* importance,
                 Stream stream);
template <class A>  // from partial [chunks, E]: losses [2] =, importance [E] =
void sum_load_losses(const LoadShape& s, const A* partial, int64_t chunks, A* losses, A* importance, Stream stream);
template <class A>
void load_losses_gradient(const LoadShape& s, const int32_t* chosen, const A* importance, const A* dlosses,
                          const A* dimportance, A* dgates, Stream stream);
// counts: int32 [⌈pairs / kDispatchChunk⌉, E]
void make_dispatch(const int32_t* chosen, int64_t pairs, int64_t experts, int64_t alignment, int64_t rows,
                   int32_t* counts, int32_t* offsets, int32_t* row_of, int32_t* pair_of, Stream stream);
template <class T>
void dispatch_rows(const T* x, const int32_t* pair_of, int64_t rows, int64_t hidden, int64_t k, T* z,
                   Stream stream);
template <class T, class A>
void combine_rows(const T* z, const A* gates, const int32_t* row_of, int64_t tokens, int64_t hidden, int64_t k,
                  T* y, Stream stream);
// partial [⌈rows / kCombineTile⌉, H] = column sums of dz by tiles of rows, or nullptr
template <class T, class A>
void combine_rows_gradient(const T* z, const A* gates, const int32_t* pair_of, const int32_t* row_of, const T* dy,
                           int64_t rows, int64_t pairs, int64_t hidden, int64_t k, T* dz, A* dgates, A* partial,
                           Stream stream);
// sums [E, H] = the tiles of each group added in order; groups begin and end at tiles
template <class A>
void combine_group_sums(const A* partial, const int32_t* offsets, int64_t experts, int64_t hidden, A* sums,
                        Stream stream);
}  // namespace cuda

}  // namespace glia
