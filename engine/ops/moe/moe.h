// The Mixture-of-Experts path: router logits, top-k gates, load losses, dispatch to experts and back. Each op here
// is one pass on a GPU; each has a reference from plain ops, which is also what it computes on a CPU in spirit and
// in tests. Letters: T rows (tail included), K experts a token, E experts, N rows after dispatch, H and F sizes, B
// sequences.
#pragma once
#include "engine/ops/sequences/sequences.h"

namespace glia {

// How a sequence's context enters its tokens' logits.
enum class ContextMode { kNone, kAdd, kGate };  // l = r;  l = r + c;  l = r · sigmoid(c)   with r = w x + b

// Router logits in float32 whatever x is (float64 for float64): 16-bit logits change 5 % of the choices.
//     x [T, H], w [E, H], b [E] (w, b float32 or float64), context [B, E] logits or undefined → [T, E], tail rows 0
Var router_logits(const Var& x, const Var& w, const Var& b, const Var& context, ContextMode mode,
                  const Sequences& sequences);
Var router_logits_reference(const Var& x, const Var& w, const Var& b, const Var& context, ContextMode mode,
                            const Sequences& sequences);

// Gates: softmax over the K largest logits of each row; ties go to the lower expert.     logits [T, E]
struct Gates {
  Var gates;       // [T, K], rows sum to 1; 0 in the tail
  Tensor experts;  // int32 [T, K], by descending logit; −1 in the tail
};
Gates top_k_gates(const Var& logits, int64_t k, const Sequences& sequences);
Gates top_k_gates_reference(const Var& logits, int64_t k, const Sequences& sequences);

// Per-layer load losses of docs/science.md 1 over the rows that belong to a sequence:
//     importance_e = Σ_s g_se
//     balance = var(importance, ddof 1) / (mean(importance)² + 1e-8),   energy = Σ_e (importance_e / T_real)²
// → [2] = {balance, energy}, unweighted, in the gates' dtype.     gates [T, K], experts int32 [T, K] (−1: nobody)
Var load_losses(const Var& gates, const Tensor& experts, int64_t n_experts, const Sequences& sequences);
Var load_losses_reference(const Var& gates, const Tensor& experts, int64_t n_experts, const Sequences& sequences);
// With what they are made of, which may be differentiated as well.
struct Loads {
  Var losses;      // [2]
  Var importance;  // [E]
};
Loads loads_of(const Var& gates, const Tensor& experts, int64_t n_experts, const Sequences& sequences);
// The same losses of the batch that all ranks have together: importance and rows are sums over the ranks.
struct LayerImportance {
  Var importance;  // [E], of this rank's rows
  const Sequences* sequences;
};
// Of each layer {balance, energy} over the rows of all ranks; what layers add up over the ranks travels together. In three
// launches for up to 32 layers.     → [2] each
std::vector<Var> load_losses_over_ranks(const std::vector<LayerImportance>& layers);

// A stable grouping of the (row, choice) pairs by expert. Everything stays on the device. Group starts are
// multiples of `alignment`, the rows between a group's end and the next start hold nothing (zeros). `capacity`: the
// most pairs there can be, where that is known to be fewer than T·K; 0: T·K. More pairs than that are an error (on
// CUDA the kernel traps).
struct Dispatch {
  Tensor offsets;    // int32 [E + 1], starts; offsets[E] <= rows
  Tensor row_of;     // int32 [T, K]: where pair (t, k) went; −1 where experts[t, k] = −1
  Tensor pair_of;    // int32 [rows]: t·K + k, or −1
  int64_t rows = 0;  // N: the capacity, plus E·(alignment − 1), up to a multiple of alignment
  int64_t alignment = 1;
};
Dispatch make_dispatch(const Tensor& experts, int64_t n_experts, int64_t alignment, int64_t capacity = 0);
constexpr int64_t kMostDispatched = 682;  // experts on a GPU

// z[r] = x[pair_of[r] / K], 0 where pair_of[r] = −1;   dx[t] = Σ_k dz[row_of[t, k]], k ascending.     x [T, H] → [N, H]
Var dispatch_rows(const Var& x, const Dispatch& dispatch);
// y[t] = Σ_k gates[t, k] · z[row_of[t, k]].              z [N, H], gates [T, K] → [T, H]
Var combine_rows(const Var& z, const Var& gates, const Dispatch& dispatch);

// Their gradients on tensors. dx [T, H] =;  dz [N, H] =, dgates [T, K] =, group_sums [E, H] = the column sums of
// each group of dz (CUDA only, with a dispatch aligned to 16 rows at least). Each may be undefined.
void dispatch_gradient(const Tensor& dz, const Dispatch& dispatch, const Tensor& dx);
void combine_gradient(const Tensor& z, const Tensor& gates, const Dispatch& dispatch, const Tensor& dy,
                      const Tensor& dz, const Tensor& dgates, const Tensor& group_sums);

// E two-layer FFNs on grouped rows: grouped_linear → gelu (erf) → grouped_linear. On a GPU in bfloat16: our
// own kernels with fused epilogues (need alignment 128). x [N, H], w1 [E, F, H], b1 [E, F], w2 [E, H, F], b2 [E, H] →
// [N, H]
Var expert_ffn(const Var& x, const Var& w1, const Var& b1, const Var& w2, const Var& b2, const Tensor& offsets);
Var expert_ffn_reference(const Var& x, const Var& w1, const Var& b1, const Var& w2, const Var& b2,
                         const Tensor& offsets);

// The whole of a layer's experts: combine_rows(expert_ffn(dispatch_rows(x, d), …, d.offsets), gates, d), on the
// fast path as one op whose parts hand each other their sums.     x [T, H], gates [T, K] → [T, H]
Var expert_layer(const Var& x, const Var& gates, const Dispatch& dispatch, const Var& w1, const Var& b1,
                 const Var& w2, const Var& b2);
Var expert_layer_reference(const Var& x, const Var& gates, const Dispatch& dispatch, const Var& w1, const Var& b1,
                           const Var& w2, const Var& b2);

// The row alignment that expert_ffn's fast path wants: 128 on a GPU in bfloat16, else 1.
int64_t expert_alignment(Context& context, DType dtype);

}  // namespace glia
