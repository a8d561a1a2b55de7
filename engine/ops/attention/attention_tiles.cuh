// What the tensor-core attention kernels are made of: bfloat16 tiles in shared memory, kD columns wide.
//
// The 16-byte chunks of a row are XORed with the row's low bits (the whole row where it fills 128 bytes, groups of
// four chunks where it does not): ldmatrix, cp.async and the staging of results are free of bank conflicts. Keys sit
// permuted in every group of 16 (slot_of_key), so that the two accumulator tiles of a thread hold four consecutive
// keys of a query row: one Philox block.
#pragma once
#include "engine/core/bfloat16.h"
#include "engine/device/cuda/intrinsics.cuh"

namespace glia::cuda::attention_tiles {

constexpr float kLog2E = 1.4426950408889634f;

template <int kD> constexpr int kRowBytes = kD * 2;
template <int kD> constexpr int kChunks = kD / 8;                  // of 16 bytes in a row
template <int kD> constexpr int kSwizzled = kD % 64 == 0 ? 7 : 3;  // the bits of a chunk's number that change
template <int kD>
constexpr float kScale = kD == 64   ? 0.125f
                         : kD == 32 ? 0.17677669529663687f
                         : kD == 96 ? 0.10206207261596577f
                                    : 0.08838834764831845f;  // 1 / √D

template <int kD> __device__ __forceinline__ constexpr int swizzle(int row) {
  return kD % 64 == 0 ? row & 7 : (row >> 1) & 3;
}
// Where 16-byte chunk `chunk` of row `row` lies.
template <int kD> __device__ __forceinline__ uint32_t chunk_at(uint32_t tile, int row, int chunk) {
  return tile + row * kRowBytes<kD> + ((chunk ^ swizzle<kD>(row)) << 4);
}
// From chunk 0 of a row to chunk `chunk`: rows are aligned, so that an XOR and an immediate offset do.
template <int kD> __device__ __forceinline__ uint32_t to_chunk(uint32_t at, int chunk) {
  return (at ^ ((chunk & kSwizzled<kD>) << 4)) + ((chunk & ~kSwizzled<kD>) << 4);
}

// Slots 2t, 2t + 1 and 8 + 2t, 8 + 2t + 1 of a group of 16 hold keys 4t … 4t + 3: what thread t of a quad
// accumulates.
__device__ __forceinline__ int slot_of_key(int key) {
  return (key & ~15) | ((key & 2) << 2) | ((key & 12) >> 1) | (key & 1);
}
__device__ __forceinline__ int key_of_slot(int slot) {
  return (slot & ~15) | ((slot & 6) << 1) | ((slot & 8) >> 2) | (slot & 1);
}

// A lane's part of the address of its row and 16-byte chunk in a fragment load; 16 rows further is an immediate
// offset: addresses cost next to nothing.
template <int kD> struct LaneOffsets {
  uint32_t a, b;  // matrices in the order (rows 0–7, chunk), (8–15, chunk), (0–7, chunk + 1), … or rows and chunks
                  // exchanged
  __device__ __forceinline__ explicit LaneOffsets(int lane)
      : a(chunk_at<kD>(0, lane & 15, lane >> 4)),
        b(chunk_at<kD>(0, (lane & 7) + ((lane >> 4) << 3), (lane >> 3) & 1)) {}
};
// A operand (16 × 16) from row-major storage.
template <int kD>
__device__ __forceinline__ void load_a(uint32_t (&r)[4], uint32_t tile, int row, int chunk,
                                       const LaneOffsets<kD>& at) {
  load_matrices(r, to_chunk<kD>(tile + at.a, chunk) + row * kRowBytes<kD>);
}
// The same operand when storage is its transpose: k runs along the rows.
template <int kD>
__device__ __forceinline__ void load_a_transposed(uint32_t (&r)[4], uint32_t tile, int k, int chunk,
                                                  const LaneOffsets<kD>& at) {
  load_matrices_transposed(r, to_chunk<kD>(tile + at.b, chunk) + k * kRowBytes<kD>);
}
// Two B operands (16 × 8 each), n along the rows of storage: r[0], r[1] for n 0–7 and r[2], r[3] for n 8–15.
template <int kD>
__device__ __forceinline__ void load_b(uint32_t (&r)[4], uint32_t tile, int n, int chunk,
                                       const LaneOffsets<kD>& at) {
  load_matrices(r, to_chunk<kD>(tile + at.b, chunk) + n * kRowBytes<kD>);
}
// Two B operands, k along the rows of storage: r[0], r[1] for chunk and r[2], r[3] for chunk + 1.
template <int kD>
__device__ __forceinline__ void load_b_transposed(uint32_t (&r)[4], uint32_t tile, int k, int chunk,
                                                  const LaneOffsets<kD>& at) {
  load_matrices_transposed(r, to_chunk<kD>(tile + at.a, chunk) + k * kRowBytes<kD>);
}

// c[m][16, kD] += a[m][16, 16] · tile[k … k + 15, 0 … kD − 1]: kM groups of rows share what is loaded.
template <int kD, int kM>
__device__ __forceinline__ void multiply_rows(float (&c)[kM][kD / 8][4], const uint32_t (&a)[kM][4], uint32_t tile,
                                              int k, const LaneOffsets<kD>& at) {
#pragma unroll
  for (int x = 0; x < kD / 8; x += 2) {
    uint32_t b[4];
    load_b_transposed(b, tile, k, x, at);
#pragma unroll
    for (int m = 0; m < kM; ++m) {
      multiply(c[m][x], a[m], b[0], b[1]);
      multiply(c[m][x + 1], a[m], b[2], b[3]);
    }
  }
}
template <int kD>
__device__ __forceinline__ void multiply_rows(float (&c)[kD / 8][4], const uint32_t (&a)[4], uint32_t tile, int k,
                                              const LaneOffsets<kD>& at) {
#pragma unroll
  for (int x = 0; x < kD / 8; x += 2) {
    uint32_t b[4];
    load_b_transposed(b, tile, k, x, at);
    multiply(c[x], a, b[0], b[1]);
    multiply(c[x + 1], a, b[2], b[3]);
  }
}

// Where a lane's accumulators of rows g (and, 8 rows further, g + 8) go in a tile; `row` is a multiple of 16.
template <int kD> __device__ __forceinline__ uint32_t accumulators_at(uint32_t tile, int row, int lane) {
  return chunk_at<kD>(tile, row + (lane >> 2), 0) + 4 * (lane & 3);
}
template <int kD>
__device__ __forceinline__ void store_pair(uint32_t at, int chunk, uint32_t upper_row, uint32_t lower_row) {
  store_shared(to_chunk<kD>(at, chunk), upper_row);
  store_shared(to_chunk<kD>(at, chunk) + 8 * kRowBytes<kD>, lower_row);
}
// Accumulators [16, kD] · factor (one a row half) to rows `row` … row + 15 of a shared tile, as bfloat16.
template <int kD, int kColumns>
__device__ __forceinline__ void stage(const float (&c)[kColumns][4], float factor0, float factor1, uint32_t tile,
                                      int row, int lane) {
  const uint32_t to = accumulators_at<kD>(tile, row, lane);
#pragma unroll
  for (int x = 0; x < kColumns; ++x)
    store_pair<kD>(to, x, pack_bf16(c[x][0] * factor0, c[x][1] * factor0),
                   pack_bf16(c[x][2] * factor1, c[x][3] * factor1));
}
// Rows `row` … row + 15 of a shared tile to global memory, 16 bytes a thread; row r goes to `to + position ·
// stride` where position is r, or the key in slot r, and only positions below n exist.
template <bool kSlots, int kD>
__device__ __forceinline__ void write_rows(uint32_t tile, int row, int n, bfloat16* to, int64_t stride, int lane) {
#pragma unroll
  for (int i = 0; i < kChunks<kD> / 2; ++i) {
    const int r = row + (lane + 32 * i) / kChunks<kD>, chunk = (lane + 32 * i) % kChunks<kD>;
    const int position = kSlots ? key_of_slot(r) : r;
    const uint4 x = load_shared(chunk_at<kD>(tile, r, chunk));
    if (position < n) *reinterpret_cast<uint4*>(to + position * stride + chunk * 8) = x;
  }
}
// Sums over the first 16 · `tiles` rows of a tile, which has zeros where no row is, to to[kD]: a product with ones.
template <int kD>
__device__ __forceinline__ void write_column_sums(uint32_t tile, int tiles, float* to, int lane,
                                                  const LaneOffsets<kD>& at) {
  constexpr uint32_t kOnes = 0x3f803f80;
  const uint32_t ones[4] = {kOnes, kOnes, kOnes, kOnes};
  float sums[kD / 8][4] = {};  // every row of the result is the same
  for (int i = 0; i < tiles; ++i) multiply_rows(sums, ones, tile, 16 * i, at);
  if (lane >= 4) return;
#pragma unroll
  for (int x = 0; x < kD / 8; ++x)
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
