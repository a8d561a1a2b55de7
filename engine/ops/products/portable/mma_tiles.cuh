// Operand tiles of the portable products: from device memory to shared memory to the fragments of mma.sync. Device
// only.
//
// A tile holds 128 values along the output (m or n) times kTileK along the depth (k). Both storages are copied as
// they lie, 16 bytes at a time, and ldmatrix transposes where the depth is not contiguous:
//     kDepthRows = false   rows of m or n, the depth contiguous     [128][kTileK]
//     kDepthRows = true    rows of the depth, m or n contiguous     [kTileK][128]
// 16-byte chunks are XORed with bits of their row, so that copies and fragment loads meet no bank conflicts.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "engine/device/cuda/intrinsics.cuh"

namespace glia::cuda::portable {

constexpr int kTile = 128;     // rows and columns of an output tile
constexpr int kTileK = 32;     // depth of a stage
constexpr int kThreads = 128;  // four warps, two by two
constexpr int kWarpTile = 64;  // rows and columns of a warp's part
constexpr int kTileBytes = kTile * kTileK * 2;
constexpr int kStageBytes = 2 * kTileBytes;

// Where one thread copies from and to: 4 of the tile's 512 chunks, at equal distances.
template <bool kDepthRows> class TileCopy {
 public:
  // `from` is the matrix, `width` its row length, `first` the tile's first m or n, `limit` the end of what exists of
  // them, [depth_begin, depth_end) the depth. What lies outside reads as 0.
  __device__ TileCopy(const __nv_bfloat16* from, int width, int first, int limit, int depth_begin, int depth_end) {
    const int thread = static_cast<int>(threadIdx.x);
    if constexpr (kDepthRows) {
      const int row = thread / 16, chunk = thread % 16;
      depth_ = depth_end - depth_begin - row;
      valid_ = first + chunk * 8 < limit ? 0xf : 0;
      from_ = from + static_cast<long long>(depth_begin + row) * width + first + chunk * 8;
      to_ = row * 256 + ((chunk ^ row) << 4);
      pass_ = 8ll * width;
      step_ = static_cast<long long>(kTileK) * width;
    } else {
      const int row = thread / 4, chunk = thread % 4;
      depth_ = depth_end - depth_begin - chunk * 8;
      valid_ = 0;
      for (int i = 0; i < 4; ++i) valid_ |= (first + row + 32 * i < limit) << i;
      from_ = from + static_cast<long long>(first + row) * width + depth_begin + chunk * 8;
      to_ = row * 64 + ((chunk ^ (row >> 1 & 3)) << 4);
      pass_ = 32ll * width;
      step_ = kTileK;
    }
    base_ = from;
  }

  // The next kTileK of the depth, on their way to the tile at `tile`.
  __device__ __forceinline__ void next(uint32_t tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const bool valid = (valid_ >> i & 1) && depth_ > (kDepthRows ? 8 * i : 0);
      copy_async(tile + to_ + i * 2048, valid ? from_ + i * pass_ : base_, valid);
    }
    from_ += step_;
    depth_ -= kTileK;
  }

 private:
  const __nv_bfloat16 *from_, *base_;
  long long pass_, step_;
  uint32_t to_;
  int depth_, valid_;
};

// A lane's part of the address of a fragment load: of the 16 × 16 blocks that begin at `first` (a multiple of 64) of
// the tile. `kLeft`: the operand A, whose four matrices are ordered m first; those of B are ordered k first.
template <bool kDepthRows, bool kLeft> __device__ __forceinline__ uint32_t fragment_lane(int first, int lane) {
  const int outer = kLeft ? lane >> 3 & 1 : lane >> 4, deep = kLeft ? lane >> 4 : lane >> 3 & 1;
  if constexpr (kDepthRows) {
    const int row = (lane & 7) + 8 * deep;
    return row * 256 + first * 2 + ((outer ^ (lane & 7)) << 4);
  } else {
    const int row = first + (lane & 7) + 8 * outer;
    return row * 64 + ((deep ^ (row >> 1 & 3)) << 4);
  }
}

// Four blocks of 16 of m or n, at 16 values of the depth.
template <bool kDepthRows>
__device__ __forceinline__ void load_fragments(uint32_t (&r)[4][4], uint32_t tile, uint32_t lane_at, int kk) {
#pragma unroll
  for (int b = 0; b < 4; ++b) {
    if constexpr (kDepthRows) load_matrices_transposed(r[b], tile + (lane_at ^ (b << 5)) + kk * 4096);
    else load_matrices(r[b], tile + (lane_at ^ (kk << 5)) + b * 1024);
  }
}

}  // namespace glia::cuda::portable
