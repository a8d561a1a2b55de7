// Attention for sequences of any length on tensor cores (mma.sync m16n8k16, sm_80 and later): bfloat16, heads of 32,
// 64, 96 or 128 (Dao, FlashAttention-2, 2023, in deterministic form).
//
// A block of 4 warps owns 64 · kM rows of a head (a warp 16 · kM): queries in forward and dQ, keys in dK and dV. It walks
// over tiles of 64 rows of the other side, the next of which is copied while one is worked on. Scores never leave
// registers: in forward and dQ they are [queries, keys], in dK and dV [keys, queries], so that what a warp has
// accumulated is an operand of its next product. Backward costs seven products instead of five, and in return needs
// neither atomics nor an order between blocks.
#pragma once
#include "engine/ops/attention/attention_params.cuh"
#include "engine/ops/attention/attention_tiles.cuh"

namespace glia::cuda::attention_tiled {

using namespace attention_tiles;

constexpr int kTiledThreads = 128, kTile = 64;

// Where a block works: its head, its sequence, and its first own row there.
struct Place {
  int start, n, keys, head, row0, sum_row;  // sum_row: of the block's first 64 rows in to_sums
  uint32_t step;
};
// kLongFirst: the causal mask gives later queries more keys, so their blocks start first.
template <int kRows, bool kLongFirst> __device__ __forceinline__ Place place_of(const TensorParams& p) {
  const int order = blockIdx.x % p.tiles, tile = kLongFirst && p.causal ? p.tiles - 1 - order : order;
  const int problem = blockIdx.x / p.tiles, b = problem / p.heads, start = p.offsets[b];
  const int n = p.offsets[b + 1] - start;
  return {start,
          n,
          p.key_lengths ? max(0, min(p.key_lengths[b], n)) : n,
          problem % p.heads,
          tile * kRows,
          b * p.sum_rows + tile * (kRows / kTile),
          p.dropout && p.key.step ? *p.key.step : 0u};
}

// Starts copying kRows rows from row `first` on; rows from n on become zeros. kSlots: keys go to their slots.
template <bool kSlots, int kD, int kRows>
__device__ __forceinline__ void copy_rows(uint32_t tile, const bfloat16* from, int64_t stride, int first, int n) {
#pragma unroll
  for (int i = 0; i < kRows * kChunks<kD> / kTiledThreads; ++i) {
    const int at = threadIdx.x + i * kTiledThreads, row = at / kChunks<kD>, chunk = at % kChunks<kD>;
    const bool valid = first + row < n;
    copy_async(chunk_at<kD>(tile, kSlots ? slot_of_key(row) : row, chunk),
               from + (valid ? first + row : 0) * stride + chunk * 8, valid);
  }
}

// The dropout bits of query `row` (of the buffer) for 64 keys from key 64 · tile on, as a thread of a quad needs them: bit
// 4j + i stands for key 16j + 4t + i. Only the first `live` groups of 16 are drawn.
__device__ __forceinline__ uint32_t draw_bits(const TensorParams& p, const Place& at, int row, int tile, int live,
                                              int t) {
  const uint64_t first = first_block(p.key) +
                         (static_cast<uint64_t>(row) * p.heads + at.head) * (kAttentionMaxLength / 4) + 16 * tile +
                         t;
  uint32_t bits = 0;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if (j >= live) continue;
    const PhiloxBlock block = random_block(p.key.seed, p.key.purpose, at.step, first + 4 * j);
#pragma unroll
    for (int i = 0; i < 4; ++i) bits |= static_cast<uint32_t>(block.word[i] >= p.threshold) << (4 * j + i);
  }
  return bits;
}
// In memory bit k % 32 of word k / 32 stands for key k. From a thread's bits to the words of 64 keys (all threads of
// the quad get them), and back.
__device__ __forceinline__ uint2 words_of(uint32_t bits, int t) {
  uint2 words = {((bits & 0xfu) | (bits & 0xf0u) << 12) << (4 * t), ((bits >> 8 & 0xfu) | (bits >> 8 & 0xf0u) << 12)
                                                                        << (4 * t)};
  words.x |= __shfl_xor_sync(~0u, words.x, 1), words.y |= __shfl_xor_sync(~0u, words.y, 1);
  words.x |= __shfl_xor_sync(~0u, words.x, 2), words.y |= __shfl_xor_sync(~0u, words.y, 2);
  return words;
}
__device__ __forceinline__ uint32_t bits_of(uint2 words, int t) {
  const uint32_t low = words.x >> (4 * t) & 0x000f000fu, high = words.y >> (4 * t) & 0x000f000fu;
  return ((low | low >> 12) & 0xffu) | ((high | high >> 12) & 0xffu) << 8;
}
// Words of 64 keys of query `row`, in global memory.
template <class Word>
__device__ __forceinline__ Word* words_at(const TensorParams& p, Word* kept, int row, int head, int tile) {
  return kept + (static_cast<int64_t>(row) * p.heads + head) * p.words + 2 * tile;
}

// Groups of 16 keys, 4 at most, that rows up to `last` see of the tile at k0; 0 or less: none.
__device__ __forceinline__ int live_groups(const TensorParams& p, const Place& at, int k0, int last) {
  const int end = p.causal ? min(at.keys, last + 1) : at.keys;
  return min(4, (end - k0 + 15) >> 4);
}

// Tiles of keys that the block's kRows queries see.
template <int kRows> __device__ __forceinline__ int key_tiles(const TensorParams& p, const Place& at) {
  const int end = p.causal ? min(at.keys, at.row0 + kRows) : at.keys;
  return (end + kTile - 1) / kTile;
}
// Waits until tile i of `count` is here and nobody reads the other place any more, and starts copying the next one there:
// load(i + 1). Returns the groups of 16 keys in tile i that the warp's rows row0 … last see; 0 or less: none.
template <class Load>
__device__ __forceinline__ int begin_tile(const TensorParams& p, const Place& at, int i, int count, int row0,
                                          int last, const Load& load) {
  if (i > 0) {
    wait_for_copies<0>();
    __syncthreads();
  }
  if (i + 1 < count) load(i + 1);
  return row0 < at.n ? live_groups(p, at, kTile * i, last) : 0;
}

// A block's rows, staged in `tile`, added up for the bias gradient: 64 at a time, by a warp each. `part`: q, k or v.
template <int kD, int kM>
__device__ __forceinline__ void write_sums(const TensorParams& p, const Place& at, uint32_t tile, int part,
                                           int first_warp, const LaneOffsets<kD>& lanes) {
  const int group = threadIdx.x / 32 - first_warp, h = p.heads * kD;
  const int row = at.row0 / kTile + group;
  if (group < 0 || group >= kM || row >= p.sum_rows) return;
  float* to = p.to_sums + static_cast<int64_t>(at.sum_row + group) * 3 * h + part * h + at.head * kD;
  write_column_sums<kD>(tile + group * kTile * kRowBytes<kD>, 4, to, threadIdx.x % 32, lanes);
}
// The same where the block has no rows.
template <int kD, int kM>
__device__ __forceinline__ void write_no_sums(const TensorParams& p, const Place& at, int part) {
  const int h = p.heads * kD;
  for (int i = threadIdx.x; i < kM * kD; i += kTiledThreads) {
    if (at.row0 / kTile + i / kD < p.sum_rows)
      p.to_sums[static_cast<int64_t>(at.sum_row + i / kD) * 3 * h + part * h + at.head * kD + i % kD] = 0.0f;
  }
}

template <int kRows, class Kernel>
void launch_tiled(const char* name, Kernel kernel, uint32_t bytes, const AttentionArgs& args, TensorParams p,
                  Stream stream) {
  p.tiles = (args.max_length + kRows - 1) / kRows;
  if (p.tiles == 0) p.tiles = 1;  // the tail is still to be zeroed
  launch_attention(name, kernel, args.sequences * args.heads * p.tiles, kTiledThreads, bytes, args, p, stream);
}

}  // namespace glia::cuda::attention_tiled
