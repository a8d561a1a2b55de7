// What every tensor-core attention kernel is told (attention_short_*.cu, attention_tiled_*.cu).
#pragma once
#include <cmath>

#include "engine/core/bfloat16.h"
#include "engine/device/cuda/launch.cuh"
#include "engine/ops/attention/attention_kernels.h"

namespace glia::cuda {

struct TensorParams {
  const bfloat16 *qkv, *out, *dout;  // [T, 3H], [T, H], [T, H]
  const float* lse;                  // [T, A]
  bfloat16 *to_out, *to_dqkv;  // forward writes to_out and to_lse, backward to_dqkv and, where wanted, to_sums
  float *to_lse, *to_sums;     // to_sums [B · sum_rows, 3H]: column sums of dqkv
  float* delta;                // [T, A]: from the tiled dQ kernel to its dK, dV kernel
  const uint32_t* kept;        // [T, A, words]: what forward drew, or null
  uint32_t* to_kept;
  const int32_t *offsets, *key_lengths;
  int rows, sequences, heads, words, sum_rows;
  int tiles;  // blocks a head: the tiled kernels alone
  bool causal, dropout;
  float inverse_keep;
  uint32_t threshold;
  RandomKey key;
};

inline TensorParams tensor_params_of(const AttentionArgs& args) {
  TensorParams p{};
  p.offsets = args.offsets, p.key_lengths = args.key_lengths;
  p.rows = args.rows, p.sequences = args.sequences, p.heads = args.heads;
  p.words = attention_kept_words(args), p.sum_rows = attention_sum_rows(args);
  p.causal = args.causal, p.dropout = args.dropout > 0.0;
  p.inverse_keep = static_cast<float>(1.0 / (1.0 - args.dropout));
  p.threshold = bernoulli_threshold(args.dropout);
  p.key = args.key;
  return p;
}

// Rows from offsets[B] on: zeros, spread over all blocks.
template <class T> __device__ __forceinline__ void zero_tail(const TensorParams& p, T* to, int width) {
  const int per_row = width * static_cast<int>(sizeof(T)) / 4;
  for (int row = p.offsets[p.sequences] + blockIdx.x; row < p.rows; row += gridDim.x) {
    auto* words = reinterpret_cast<uint32_t*>(to + static_cast<int64_t>(row) * width);
    for (int i = threadIdx.x; i < per_row; i += blockDim.x) words[i] = 0;
  }
}

// Calls f with the head size as a constant, where it is one of kSizes (attention_path has looked).
template <int... kSizes, class F> void with_head_size(const AttentionArgs& args, F f) {
  ((args.head_size == kSizes ? f(std::integral_constant<int, kSizes>{}) : void()), ...);
}

// `bytes` of dynamic shared memory, and always the same limit for a kernel: other threads launch it too.
template <class Kernel>
void launch_attention(const char* name, Kernel kernel, int blocks, int threads, uint32_t bytes,
                      const AttentionArgs& args, const TensorParams& p, Stream stream) {
  check_attention_args(args);
  if (args.sequences == 0 || blocks == 0) return;  // attention_forward and attention_backward zero the rows then
  CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
  launch(name, kernel, {blocks, threads, bytes}, stream, p);
}

}  // namespace glia::cuda
