// Attention for short packed sequences on tensor cores (mma.sync m16n8k16, sm_80 and later): bfloat16, heads of 32 or
// 64, at most 128 rows.
//
// A block of 8 warps works on one head of a sequence of 65 to 128 rows, or on two heads of a shorter one, a head
// for each half of the block (4 warps with a named barrier of their own). A warp owns 16 query rows and keeps their
// scores in registers. In backward it puts P ∘ M and dS into shared memory, where K and V are no longer needed, and
// then owns 16 key rows for dK and dV: no atomics, and nothing is reduced across warps.
#pragma once
#include "engine/ops/attention/attention_params.cuh"
#include "engine/ops/attention/attention_tiles.cuh"

namespace glia::cuda::attention_short {

using namespace attention_tiles;

constexpr int kBlockThreads = 256, kMaxRows = 128;

// The warps that work on one head together: half of the block or all of it.
struct Group {
  int warp, lane, thread, threads, barrier;
  uint32_t shared;
  __device__ __forceinline__ void sync() const {
    asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
  }
};

// The block's work. The grid has a block for every (sequence, head): it takes that head if the sequence has more
// than 64 rows, else two heads if its own is even and none (n = 0) if odd. An empty block costs less than finding
// the n-th piece of work in blocks that know only the offsets; longest sequences first, by the batch's own order,
// gains another 4 %.
struct Place {
  int sequence, first_head, start, n, keys;
  uint32_t step;
  bool tall;
};
__device__ __forceinline__ Place place_of(const TensorParams& p) {
  const int b = blockIdx.x / p.heads, head = blockIdx.x % p.heads, start = uniform(p.offsets[b]);
  const int n = min(uniform(p.offsets[b + 1]) - start, kMaxRows);
  const int keys = p.key_lengths ? max(0, min(uniform(p.key_lengths[b]), n)) : n;
  const bool tall = n > kMaxRows / 2;
  if (!tall && (head & 1)) return {};
  return {b, head, start, n, keys, p.dropout && p.key.step ? *p.key.step : 0u, tall};
}

// Calls small(group, head) in each half of the block, or tall(group, head) in all of it.
template <class Small, class Tall>
__device__ __forceinline__ void for_each_problem(const TensorParams& p, const Place& place, uint32_t shared,
                                                 uint32_t bytes, Small small, Tall tall) {
  const int thread = threadIdx.x, warp = uniform(thread >> 5);
  if (place.n <= 0) return;
  if (place.tall) {
    tall(Group{warp, thread & 31, thread, 256, 1, shared}, place.first_head);
    return;
  }
  const int half = warp >> 2, head = place.first_head + half;
  const Group group{warp & 3, thread & 31, thread & 127, 128, 1 + half, shared + half * (bytes / 2)};
  if (head < p.heads) small(group, head);
  __syncthreads();  // no half leaves while the other is at its own barriers (synccheck wants it)
}

// The dropout bits of the keys whose scores a thread has, in its rows g and g + 8: bit 4j + i stands for key 16j + 4t + i,
// where t is the thread's place in its quad. In memory a row of a head has four words, one a thread of the quad.
struct Kept {
  uint32_t upper = ~0u, lower = ~0u;

  __device__ __forceinline__ bool operator()(int e, int j) const {
    return (attention_tiles::upper(e) ? lower : upper) >> (4 * j + nth_key(e)) & 1;
  }
};
// Philox takes about a quarter of forward's instructions: draw while copies are under way.
__device__ __forceinline__ Kept draw(const TensorParams& p, uint32_t step, int row, int head, int t, int tiles) {
  constexpr int kBlocks = kAttentionMaxLength / 4;  // of a row of a head
  const uint64_t first = first_block(p.key) + (static_cast<uint64_t>(row) * p.heads + head) * kBlocks + t;
  Kept kept{0, 0};
  for (int j = 0; j < tiles; ++j) {
    const PhiloxBlock a = random_block(p.key.seed, p.key.purpose, step, first + 4 * j);
    const PhiloxBlock b = random_block(p.key.seed, p.key.purpose, step, first + 8ull * p.heads * kBlocks + 4 * j);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      kept.upper |= static_cast<uint32_t>(a.word[i] >= p.threshold) << (4 * j + i);
      kept.lower |= static_cast<uint32_t>(b.word[i] >= p.threshold) << (4 * j + i);
    }
  }
  return kept;
}

// Where a thread begins to copy rows into tiles: its row, 16 bytes of it, and their places in a tile whose rows are in
// order and in one whose rows are slots. Every pass of the group goes `rows` further; rows from n up to the next multiple
// of 16 become zeros.
template <int kD> struct RowCopies {
  int row, rows, chunk;
  uint32_t to, to_slot;
  __device__ __forceinline__ explicit RowCopies(const Group& group)
      : row(group.thread / kChunks<kD>),
        rows(group.threads / kChunks<kD>),
        chunk(group.thread % kChunks<kD>),
        to(chunk_at<kD>(0, row, chunk)),
        to_slot(chunk_at<kD>(0, slot_of_key(row), chunk)) {}
  template <class F> __device__ __forceinline__ void for_each(int n, F copy) {
    for (; row < ((n + 15) & ~15); row += rows, to += rows * kRowBytes<kD>, to_slot += rows * kRowBytes<kD>)
      copy(*this, row < n, static_cast<int64_t>(row < n ? row : 0));
  }
};

}  // namespace glia::cuda::attention_short
