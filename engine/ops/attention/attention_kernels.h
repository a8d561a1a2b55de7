// Attention over packed sequences: the kernels of both backends, raw pointers only.
//
//   S = scale · Q Kᵀ + mask,  P = softmax(S),  O = (P ∘ M) V,   M = keep / (1 − p),  scale = 1 / √D
//   dV = (P ∘ M)ᵀ dO,  dP = (dO Vᵀ) ∘ M,  dS = P ∘ (dP − δ),  δ_i = Σ_d dO_id O_id
//   dQ = scale · dS K,  dK = scale · dSᵀ Q
// (P is computed anew in backward from the saved log-sum-exp: Dao et al., FlashAttention, 2022.)
//
//   qkv   [T, 3H]   a row is q | k | v, each H = A heads × D
//   out   [T, H]    written with `=`; rows from offsets[B] on belong to no sequence and become 0
//   lse   [T, A]    log Σ_j exp(S_ij), float (double for double); −inf where a query has no valid key (out is 0 there)
//   dqkv  [T, 3H]   written with `=`; the tail's rows become 0
//
// The dropout bit of (query, head, key) is element (query's row · A + head) · 1024 + key's position in its sequence
// of the Philox stream `key`: it depends on neither padding nor capacity, so backward can draw it again. Four
// consecutive keys share one Philox block. `keep` iff bits >= bernoulli_threshold(p).
//
// Every result is bitwise reproducible: no atomics, and the order of each sum depends on the shapes only. The CUDA
// functions neither allocate nor synchronise and can be captured into a graph.
#pragma once

#include <cstdint>

#include "engine/core/bfloat16.h"
#include "engine/core/random/rng.h"
#include "engine/device/stream.h"

namespace glia {

struct AttentionArgs {
  int rows = 0;       // T: rows of the buffers; offsets may describe fewer
  int sequences = 0;  // B
  int heads = 0;      // A
  int head_size = 0;  // D <= 128
  int max_length =
      0;  // no sequence is longer; <= 1024. The caller's promise: it sizes grids and chooses the kernel
  bool causal = false;
  double dropout = 0.0;              // p in [0, 1)
  RandomKey key;                     // read only when dropout > 0
  const int32_t* offsets = nullptr;  // [B + 1], cumulative, on the kernel's device
  // [B] or nullptr: only the first key_lengths[b] rows of b are keys (padded layout)
  const int32_t* key_lengths = nullptr;

  int hidden() const { return heads * head_size; }  // H
};

constexpr int kAttentionMaxLength = 1024;  // the stride of a query row in the dropout stream
constexpr int kAttentionMaxHeadSize = 128;

// Throws unless the sizes are ones that the kernels take; both backends call it first.
void check_attention_args(const AttentionArgs& args);

// T is float, double or bfloat16 (float32 inside).
namespace cpu {

// Of each sequence the rows from `first` on alone; the others are keys, and what out and lse have there stays.
template <class T>
void attention_forward(const AttentionArgs& args, const T* qkv, T* out, Accumulator<T>* lse, int first = 0);

template <class T>
void attention_backward(const AttentionArgs& args, const T* qkv, const T* out, const Accumulator<T>* lse,
                        const T* dout, T* dqkv);

}  // namespace cpu

namespace cuda {

// Which kernels run. Tensor cores (mma.sync) take bfloat16: kShort heads of 32 and 64 in sequences of up to 128 rows,
// kTiled heads of 32, 64, 96 and 128 of any length. kGeneral: everything else.
enum class AttentionPath { kGeneral, kShort, kTiled };
template <class T> AttentionPath attention_path(const AttentionArgs& args) {
  const int d = args.head_size;
  if (sizeof(T) != 2 || (d != 32 && d != 64 && d != 96 && d != 128)) return AttentionPath::kGeneral;
  return d <= 64 && args.max_length <= 128 ? AttentionPath::kShort : AttentionPath::kTiled;
}

template <class T>
void attention_forward(const AttentionArgs& args, const T* qkv, T* out, Accumulator<T>* lse, Stream stream);

// Bytes of device memory that attention_backward wants as `workspace`: 0 on the short path, else δ, [T, A].
template <class T> int64_t attention_backward_workspace_bytes(const AttentionArgs& args) {
  if (attention_path<T>(args) == AttentionPath::kShort) return 0;
  return static_cast<int64_t>(sizeof(Accumulator<T>)) * args.rows * args.heads;
}

template <class T>
void attention_backward(const AttentionArgs& args, const T* qkv, const T* out, const Accumulator<T>* lse,
                        const T* dout, T* dqkv, void* workspace, Stream stream);

// The paths by name, for fused ops, tests and benchmarks; the functions above choose between them.
template <class T>
void attention_forward_general(const AttentionArgs& args, const T* qkv, T* out, Accumulator<T>* lse, Stream stream);
template <class T>
void attention_backward_general(const AttentionArgs& args, const T* qkv, const T* out, const Accumulator<T>* lse,
                                const T* dout, T* dqkv, Accumulator<T>* delta, Stream stream);

// What the tensor-core paths pass from forward to backward and to whoever wants the bias gradient:
//   kept         [T, A, attention_kept_words] or nullptr: the dropout bits, a bit a key; given none, backward draws
//                them again. How bits lie in words is the path's own matter.
//   column_sums  [B · attention_sum_rows, 3H] or nullptr: sums of dqkv over a sequence's rows, in parts
inline int attention_kept_words(const AttentionArgs& args) {
  return attention_path<bfloat16>(args) == AttentionPath::kShort ? 4 : (args.max_length + 63) / 64 * 2;
}
inline int attention_sum_rows(const AttentionArgs& args) {
  return attention_path<bfloat16>(args) == AttentionPath::kShort ? 1 : (args.max_length + 63) / 64;
}
void attention_forward_tensor(const AttentionArgs& args, const bfloat16* qkv, bfloat16* out, float* lse,
                              uint32_t* kept, Stream stream);  // whichever of the two below the path says
void attention_backward_tensor(const AttentionArgs& args, const bfloat16* qkv, const bfloat16* out,
                               const float* lse, const uint32_t* kept, const bfloat16* dout, bfloat16* dqkv,
                               float* column_sums, float* workspace, Stream stream);
void attention_forward_short(const AttentionArgs& args, const bfloat16* qkv, bfloat16* out, float* lse,
                             uint32_t* kept, Stream stream);
void attention_backward_short(const AttentionArgs& args, const bfloat16* qkv, const bfloat16* out, const float* lse,
                              const uint32_t* kept, const bfloat16* dout, bfloat16* dqkv, float* column_sums,
                              Stream stream);
void attention_forward_tiled(const AttentionArgs& args, const bfloat16* qkv, bfloat16* out, float* lse,
                             uint32_t* kept, Stream stream);
// delta [T, A]: workspace
void attention_backward_tiled(const AttentionArgs& args, const bfloat16* qkv, const bfloat16* out, const float* lse,
                              const uint32_t* kept, const bfloat16* dout, bfloat16* dqkv, float* column_sums,
                              float* delta, Stream stream);

// The first row of each sequence alone asks (head sizes of the tensor-core paths): q [B, H], kv [T, 2H] → out [B,
// H], lse [B, A]; back: dq [B, H], dkv [T, 2H] (the tail's rows become 0), column_sums [B, 3H] of (dq | dkv). All
// with `=`.
void attention_first_forward(const AttentionArgs& args, const bfloat16* q, const bfloat16* kv, bfloat16* out,
                             float* lse, Stream stream);
void attention_first_backward(const AttentionArgs& args, const bfloat16* q, const bfloat16* kv, const bfloat16* out,
                              const float* lse, const bfloat16* dout, bfloat16* dq, bfloat16* dkv,
                              float* column_sums, Stream stream);
// y[index[r]] += x[r], no index twice.     x [R, N], y [.., N]
void add_to_rows(const bfloat16* x, const int32_t* index, bfloat16* y, int64_t rows, int64_t columns,
                 Stream stream);

}  // namespace cuda
}  // namespace glia
