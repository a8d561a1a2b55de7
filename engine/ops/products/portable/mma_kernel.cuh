// The product kernel of every GPU from sm_80 on: a block multiplies one tile of 128 × 128 out of a ring of
// shared-memory stages that cp.async fills. One kernel for the forward product, the data gradient and the weight
// gradient: they differ in which operands are contiguous along the depth and in what happens to the accumulators.
//
// Two blocks a multiprocessor: the epilogue of one falls into the multiplications of the other.
#pragma once

#include "engine/ops/products/gelu_epilogue.cuh"
#include "engine/ops/products/grouped_products.h"
#include "engine/ops/products/portable/mma_tiles.cuh"

namespace glia::cuda::portable {

enum class Op { kForward, kDataGradient, kWeightGradient };
enum class Epilogue { kStore, kGelu, kSlopes, kFloat };  // kStore, kGelu: with a bias where there is one

template <Op op, Epilogue epilogue, int stages> struct Config {
  static constexpr Op kOp = op;
  static constexpr Epilogue kEpilogue = epilogue;
  static constexpr int kStages = stages;
  static constexpr bool kDepthRowsA = op == Op::kWeightGradient;  // dy [rows, O] is Aᵀ
  static constexpr bool kDepthRowsB = op != Op::kForward;         // w [O, I] and x [rows, I] lie as [k, n]
  static constexpr int kSharedBytes = stages * kStageBytes;
  static_assert(kSharedBytes >= kTile * kTile * 2 + 2 * kTile * 4);  // results and column sums pass through
};

struct Params {
  const __nv_bfloat16 *a, *b;  // forward x, w; data gradient dy, w; weight gradient dy, x
  void* out;
  const int* offsets;  // [groups + 1] on the device, or nullptr: one group of `rows` rows
  int groups, rows;
  int n, k;  // columns and depth of the output; weight gradient: its columns I and rows O
  Bias bias;
  uint4* slopes;   // written by kGelu where not null, read by kSlopes
  float* partial;  // kSlopes: [row tiles, n]
};

// The group that row `row` lies in, or `groups`: the first that ends behind it. All lanes of a warp together.
__device__ __forceinline__ int group_of_row(const int* offsets, int groups, int row) {
  for (int first = 0; first < groups; first += 32) {
    const int g = first + static_cast<int>(threadIdx.x) % 32;
    const unsigned behind = __ballot_sync(0xffffffffu, g < groups && offsets[g + 1] > row);
    if (behind != 0) return first + __ffs(behind) - 1;
  }
  return groups;
}

// Of at most 32 groups the one with the place-th most rows: deep tiles of a weight gradient begin first. More groups
// level each other out.
__device__ __forceinline__ int group_by_depth(const int* offsets, int groups, int place) {
  if (groups > 32) return place;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int rows = lane < groups ? offsets[lane + 1] - offsets[lane] : -1;
  int ahead = 0;
  for (int g = 0; g < groups; ++g) {
    const int other = __shfl_sync(0xffffffffu, rows, g);
    ahead += other > rows || (other == rows && g < lane);
  }
  return __ffs(__ballot_sync(0xffffffffu, lane < groups && ahead == place)) - 1;
}

// What a block computes: rows [row, row_end) and columns [col, n) of a tile of `group`'s output, over a depth.
struct Work {
  int group, row, row_end, col, depth_begin, depth_end;
};

// False: nothing to do.
template <class C> __device__ __forceinline__ bool find_work(const Params& p, Work& w) {
  w.col = static_cast<int>(blockIdx.x) * kTile;
  w.row = static_cast<int>(blockIdx.y) * kTile;
  if constexpr (C::kOp == Op::kWeightGradient) {
    w.group = p.offsets ? uniform(group_by_depth(p.offsets, p.groups, static_cast<int>(blockIdx.z))) : 0;
    w.row_end = p.k;
    w.depth_begin = p.offsets ? uniform(p.offsets[w.group]) : 0;
    w.depth_end = p.offsets ? uniform(p.offsets[w.group + 1]) : p.rows;
    return true;
  }
  w.group = p.offsets ? uniform(group_of_row(p.offsets, p.groups, w.row)) : 0;
  w.row_end = p.rows;
  w.depth_begin = 0;
  w.depth_end = p.k;
  return w.group < p.groups;
}

// acc[m 16-row block][n 8-column block][4] += the warp's 64 × 64 of a · b over the whole depth.
template <class C>
__device__ __forceinline__ void multiply_tile(const Params& p, const Work& w, uint32_t shared, int warp, int lane,
                                              float (&acc)[4][8][4]) {
  constexpr bool kRowsA = C::kDepthRowsA, kRowsB = C::kDepthRowsB;
  constexpr int kAhead = C::kStages - 1;
  const int width_b = kRowsB ? p.n : p.k;  // a row of A is always k long
  const __nv_bfloat16* b = p.b;
  if constexpr (C::kOp != Op::kWeightGradient) b += static_cast<long long>(w.group) * p.n * p.k;
  TileCopy<kRowsA> copy_a(p.a, p.k, w.row, w.row_end, w.depth_begin, w.depth_end);
  TileCopy<kRowsB> copy_b(b, width_b, w.col, p.n, w.depth_begin, w.depth_end);
  const uint32_t lane_a = fragment_lane<kRowsA, true>((warp & 1) * kWarpTile, lane),
                 lane_b = kTileBytes + fragment_lane<kRowsB, false>((warp >> 1) * kWarpTile, lane);
  const int steps = (w.depth_end - w.depth_begin + kTileK - 1) / kTileK;
  const auto fill = [&](int slot) {
    copy_a.next(shared + slot * kStageBytes);
    copy_b.next(shared + slot * kStageBytes + kTileBytes);
  };
#pragma unroll
  for (int s = 0; s < kAhead; ++s) {
    if (s < steps) fill(s);
    commit_copies();
  }
  wait_for_copies<kAhead - 1>();
  __syncthreads();

  uint32_t fa[2][4][4], fb[2][4][4];
  const auto load = [&](int to, int slot, int kk) {
    const uint32_t stage = shared + slot * kStageBytes;
    load_fragments<kRowsA>(fa[to], stage, lane_a, kk);
    load_fragments<kRowsB>(fb[to], stage, lane_b, kk);
  };
  load(0, 0, 0);
  int slot = 0, free_slot = kAhead;
  for (int step = 0; step < steps; ++step) {
    const int next_slot = slot + 1 == C::kStages ? 0 : slot + 1;
#pragma unroll
    for (int kk = 0; kk < 2; ++kk) {
      if (kk == 0) {
        load(1, slot, 1);
        // The slot that the last barrier saw everybody leave.
        if (step + kAhead < steps) fill(free_slot);
        commit_copies();
      } else {
        wait_for_copies<kAhead - 1>();
        __syncthreads();
        load(0, next_slot, 0);  // behind the last step: what an older stage left, not used
      }
#pragma unroll
      for (int m = 0; m < 4; ++m)
#pragma unroll
        for (int j = 0; j < 8; ++j)
          multiply(acc[m][j], fa[kk][m], fb[kk][j / 2][j % 2 * 2], fb[kk][j / 2][j % 2 * 2 + 1]);
    }
    free_slot = slot;
    slot = next_slot;
  }
  wait_for_copies<0>();
  __syncthreads();  // the stages are free for results
}

__device__ __forceinline__ float2 bias_at(const Bias& bias, long long at) {
  if (bias.bf16)
    return __bfloat1622float2(
        *reinterpret_cast<const __nv_bfloat162*>(static_cast<const __nv_bfloat16*>(bias.data) + at));
  return *reinterpret_cast<const float2*>(static_cast<const float*>(bias.data) + at);
}

// A warp's 64 × 64 of the result in bfloat16, through its own 8 KB of shared memory, in rows of 16-byte stores.
__device__ __forceinline__ void store_tile(const float (&acc)[4][8][4], uint32_t staging, __nv_bfloat16* out,
                                           int width, int rows, int columns, int lane) {
  const uint32_t to = staging + (lane >> 2) * 128 + (lane & 3) * 4;
  const int swizzle = (lane >> 2 & 7) << 4;
#pragma unroll
  for (int m = 0; m < 4; ++m)
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const uint32_t at = to + m * 2048 + ((j << 4) ^ swizzle);
      store_shared(at, pack_bf16(acc[m][j][0], acc[m][j][1]));
      store_shared(at + 1024, pack_bf16(acc[m][j][2], acc[m][j][3]));
    }
  __syncwarp();
  const int chunk = lane & 7;
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const int row = i * 4 + (lane >> 3);
    const uint4 x = load_shared(staging + row * 128 + ((chunk ^ (row & 7)) << 4));
    if (row < rows && chunk * 8 < columns)
      *reinterpret_cast<uint4*>(out + static_cast<long long>(row) * width + chunk * 8) = x;
  }
}

// The same in float32, straight to memory: four lanes fill a 32-byte sector.
__device__ __forceinline__ void store_float(const float (&acc)[4][8][4], float* out, int width, int rows,
                                            int columns, int lane) {
#pragma unroll
  for (int m = 0; m < 4; ++m)
#pragma unroll
    for (int j = 0; j < 8; ++j)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = m * 16 + half * 8 + (lane >> 2), column = j * 8 + 2 * (lane & 3);
        if (row < rows && column < columns)
          *reinterpret_cast<float2*>(out + static_cast<long long>(row) * width + column) =
              make_float2(acc[m][j][2 * half], acc[m][j][2 * half + 1]);
      }
}

// Column sums of the tile, rows in a fixed order: a warp's 64 by lanes, then the two warps.
template <class C>
__device__ __forceinline__ void store_column_sums(const Params& p, const Work& w, const float (&sums)[16],
                                                  float* shared, int warp, int lane) {
  float folded[16];
#pragma unroll
  for (int i = 0; i < 16; ++i) folded[i] = sums[i];
  reduce_columns(folded, lane, shared + (warp & 1) * kTile + (warp >> 1) * kWarpTile);
  __syncthreads();
  const int column = static_cast<int>(threadIdx.x);
  if (w.col + column < p.n)
    p.partial[static_cast<long long>(blockIdx.y) * p.n + w.col + column] = shared[column] + shared[kTile + column];
}

template <class C>
__device__ __forceinline__ void finish_tile(const Params& p, const Work& w, uint8_t* memory, uint32_t shared,
                                            int warp, int lane, float (&acc)[4][8][4]) {
  const int row = w.row + (warp & 1) * kWarpTile, col = w.col + (warp >> 1) * kWarpTile;
  if constexpr (C::kOp == Op::kForward) {
    if (p.bias.data != nullptr) {
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const int column = col + j * 8 + 2 * (lane & 3);
        const float2 b =
            column < p.n ? bias_at(p.bias, static_cast<long long>(w.group) * p.n + column) : float2{0, 0};
#pragma unroll
        for (int m = 0; m < 4; ++m) {
          acc[m][j][0] += b.x, acc[m][j][1] += b.y;
          acc[m][j][2] += b.x, acc[m][j][3] += b.y;
        }
      }
    }
  }
  if constexpr (C::kEpilogue == Epilogue::kGelu || C::kEpilogue == Epilogue::kSlopes) {
    // A chunk of slopes: 16 rows × 64 columns, as the accumulators lie in the threads.
    const long long tile = static_cast<long long>(blockIdx.y) * gridDim.x + blockIdx.x;
    uint4* slopes = p.slopes + (tile * 16 + (warp & 1) * 8 + (warp >> 1)) * 128 + lane;
    [[maybe_unused]] float sums[16] = {};
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      uint4* chunk = slopes + m * 256;
      if constexpr (C::kEpilogue == Epilogue::kGelu) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const uint4 codes = gelu_and_slopes(&acc[m][2 * i][0]);
          if (p.slopes != nullptr) __stcs(chunk + i * 32, codes);
        }
      } else {
        uint4 codes[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) codes[i] = __ldcs(chunk + i * 32);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const uint32_t words[4] = {codes[i].x, codes[i].y, codes[i].z, codes[i].w};
#pragma unroll
          for (int x = 0; x < 4; ++x) {
            float* v = &acc[m][2 * i + x / 2][x % 2 * 2];
            const float2 slope = slopes_of(words[x]);
            v[0] *= slope.x, v[1] *= slope.y;
            sums[(2 * i + x / 2) * 2] += v[0], sums[(2 * i + x / 2) * 2 + 1] += v[1];
          }
        }
      }
    }
    if constexpr (C::kEpilogue == Epilogue::kSlopes)
      store_column_sums<C>(p, w, sums, reinterpret_cast<float*>(memory + kTile * kTile * 2), warp, lane);
  }
  long long first = static_cast<long long>(row) * p.n + col;
  if constexpr (C::kOp == Op::kWeightGradient) first += static_cast<long long>(w.group) * p.k * p.n;
  if constexpr (C::kEpilogue == Epilogue::kFloat)
    store_float(acc, static_cast<float*>(p.out) + first, p.n, w.row_end - row, p.n - col, lane);
  else
    store_tile(acc, shared + warp * 8192, static_cast<__nv_bfloat16*>(p.out) + first, p.n, w.row_end - row,
               p.n - col, lane);
}

// Grid: (column tiles, row tiles, groups of a weight gradient).
template <class C> __global__ void __launch_bounds__(kThreads, 2) mma_kernel(const __grid_constant__ Params p) {
  extern __shared__ __align__(1024) uint8_t memory[];
  const int warp = uniform(static_cast<int>(threadIdx.x) / 32), lane = static_cast<int>(threadIdx.x) % 32;
  Work w;
  if (!find_work<C>(p, w)) return;
  if constexpr (C::kEpilogue == Epilogue::kSlopes) {
    // The tile's slopes come into L2 while it is multiplied.
    const long long tile = static_cast<long long>(blockIdx.y) * gridDim.x + blockIdx.x;
    const char* slopes = reinterpret_cast<const char*>(p.slopes + tile * 2048) + threadIdx.x * 128;
    prefetch_l2(slopes);
    prefetch_l2(slopes + kThreads * 128);
  }
  float acc[4][8][4] = {};
  const auto shared = static_cast<uint32_t>(__cvta_generic_to_shared(memory));
  multiply_tile<C>(p, w, shared, warp, lane, acc);
  finish_tile<C>(p, w, memory, shared, warp, lane, acc);
}

}  // namespace glia::cuda::portable
