// What the tensor-core attention kernels are made of: 64-wide bfloat16 tiles in shared memory.
//
// Shared tiles have rows of 128 bytes whose 16-byte chunks are XORed with the row's low bits: ldmatrix, cp.async
// and the staging of results are free of bank conflicts. Keys sit permuted in every group of 16 (slot_of_key), so
// that the two accumulator tiles of a thread hold four consecutive keys of a query row: one Philox block.
#pragma once
#include "engine/core/bfloat16.h"
#include "engine/device/cuda/intrinsics.cuh"

namespace glia::cuda::attention_tiles {

constexpr int kD = 64, kRowBytes = kD * 2;

// The warps that work on one head together: half of the block or all of it.
struct Group {
  int warp, lane, thread, threads, barrier;
  uint32_t shared;
  __device__ __forceinline__ void sync() const {
    asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
  }
};

// Where 16-byte chunk `chunk` of row `row` lies in a tile with rows of `kBytes`.
template <int kBytes = kRowBytes> __device__ __forceinline__ uint32_t chunk_at(uint32_t tile, int row, int chunk) {
  return tile + row * kBytes + ((chunk ^ (row & 7)) << 4);
}

// Slots 2t, 2t + 1 and 8 + 2t, 8 + 2t + 1 of a group of 16 hold keys 4t … 4t + 3: what thread t of a quad
// accumulates.
__device__ __forceinline__ int slot_of_key(int key) {
  return (key & ~15) | ((key & 2) << 2) | ((key & 12) >> 1) | (key & 1);
}
__device__ __forceinline__ int key_of_slot(int slot) {
  return (slot & ~15) | ((slot & 6) << 1) | ((slot & 8) >> 2) | (slot & 1);
}

// A lane's part of the address of its row and 16-byte chunk in a fragment load. Tiles are aligned to a row, so
// chunk c of the tile is reached by `^ (c << 4)` and 16 rows further by an immediate offset: addresses cost next to
// nothing.
struct LaneOffsets {
  uint32_t a, b;  // matrices in the order (rows 0–7, chunk), (8–15, chunk), (0–7, chunk + 1), … or rows and chunks
                  // exchanged
  __device__ __forceinline__ explicit LaneOffsets(int lane)
      : a((lane & 15) * kRowBytes + (((lane >> 4) ^ (lane & 7)) << 4)),
        b(((lane & 7) + ((lane >> 4) << 3)) * kRowBytes + ((((lane >> 3) & 1) ^ (lane & 7)) << 4)) {}
};
// A operand (16 × 16) from row-major storage.
__device__ __forceinline__ void load_a(uint32_t (&r)[4], uint32_t tile, int row, int chunk, const LaneOffsets& at) {
  load_matrices(r, ((tile + at.a) ^ (chunk << 4)) + row * kRowBytes);
}
// The same operand when storage is its transpose: k runs along the rows, which have kBytes.
template <int kBytes>
__device__ __forceinline__ void load_a_transposed(uint32_t (&r)[4], uint32_t tile, int k, int chunk,
                                                  const LaneOffsets& at) {
  const uint32_t in_row = at.b & (kRowBytes - 1), row = at.b / kRowBytes;
  load_matrices_transposed(r, ((tile + row * kBytes + in_row) ^ (chunk << 4)) + k * kBytes);
}
// Two B operands (16 × 8 each), n along the rows of storage: r[0], r[1] for n 0–7 and r[2], r[3] for n 8–15.
__device__ __forceinline__ void load_b(uint32_t (&r)[4], uint32_t tile, int n, int chunk, const LaneOffsets& at) {
  load_matrices(r, ((tile + at.b) ^ (chunk << 4)) + n * kRowBytes);
}
// Two B operands, k along the rows of storage: r[0], r[1] for chunk and r[2], r[3] for chunk + 1.
__device__ __forceinline__ void load_b_transposed(uint32_t (&r)[4], uint32_t tile, int k, int chunk,
                                                  const LaneOffsets& at) {
  load_matrices_transposed(r, ((tile + at.a) ^ (chunk << 4)) + k * kRowBytes);
}

// c[16, 64] += a[16, 16] · tile[k … k + 15, 0 … 63]
__device__ __forceinline__ void multiply_rows(float (&c)[8][4], const uint32_t (&a)[4], uint32_t tile, int k,
                                              const LaneOffsets& at) {
#pragma unroll
  for (int x = 0; x < 8; x += 2) {
    uint32_t b[4];
    load_b_transposed(b, tile, k, x, at);
    multiply(c[x], a, b[0], b[1]);
    multiply(c[x + 1], a, b[2], b[3]);
  }
}

// Where a lane's accumulators of rows g (and, 8 rows further, g + 8) go in a tile with rows of kBytes; `row` is a
// multiple of 16, chunk c is reached by `^ (c << 4)`.
template <int kBytes = kRowBytes>
__device__ __forceinline__ uint32_t accumulators_at(uint32_t tile, int row, int lane) {
  return tile + (row + (lane >> 2)) * kBytes + ((lane >> 2) << 4) + 4 * (lane & 3);
}
template <int kBytes = kRowBytes>
__device__ __forceinline__ void store_pair(uint32_t at, int chunk, uint32_t upper_row, uint32_t lower_row) {
  store_shared(at ^ (chunk << 4), upper_row);
  store_shared((at ^ (chunk << 4)) + 8 * kBytes, lower_row);
}
// Accumulators [16, 64] · factor (one a row half) to rows `row` … row + 15 of a shared tile, as bfloat16.
__device__ __forceinline__ void stage(const float (&c)[8][4], float factor0, float factor1, uint32_t tile, int row,
                                      int lane) {
  const uint32_t to = accumulators_at(tile, row, lane);
#pragma unroll
  for (int x = 0; x < 8; ++x)
    store_pair(to, x, pack_bf16(c[x][0] * factor0, c[x][1] * factor0),
               pack_bf16(c[x][2] * factor1, c[x][3] * factor1));
}
// Rows `row` … row + 15 of a shared tile to global memory, 16 bytes a thread; row r goes to `to + position ·
// stride` where position is r, or the key in slot r, and only positions below n exist.
template <bool kSlots>
__device__ __forceinline__ void write_rows(uint32_t tile, int row, int n, bfloat16* to, int64_t stride, int lane) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int r = row + (lane >> 3) + 4 * i, position = kSlots ? key_of_slot(r) : r;
    const uint4 x = load_shared(chunk_at(tile, r, lane & 7));
    if (position < n) *reinterpret_cast<uint4*>(to + position * stride + (lane & 7) * 8) = x;
  }
}
// Sums over the first 16 · `tiles` rows of a tile, which has zeros where no row is, to to[64]: a product with ones.
__device__ __forceinline__ void write_column_sums(uint32_t tile, int tiles, float* to, int lane,
                                                  const LaneOffsets& at) {
  constexpr uint32_t kOnes = 0x3f803f80;
  const uint32_t ones[4] = {kOnes, kOnes, kOnes, kOnes};
  float sums[8][4] = {};  // every row of the result is the same
  for (int i = 0; i < tiles; ++i) multiply_rows(sums, ones, tile, 16 * i, at);
  if (lane >= 4) return;
#pragma unroll
  for (int x = 0; x < 8; ++x)
    *reinterpret_cast<float2*>(to + 8 * x + 2 * lane) = make_float2(sums[x][0], sums[x][1]);
}

__device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}
__device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}

// Element e of a thread's 8 accumulators of a 16 × 16 tile: rows g (e = 0, 1, 4, 5) and g + 8, keys 4t … 4t + 3.
__device__ __forceinline__ constexpr int upper(int e) { return (e >> 1) & 1; }
__device__ __forceinline__ constexpr int nth_key(int e) { return (e & 1) | ((e >> 2) << 1); }

}  // namespace glia::cuda::attention_tiles
