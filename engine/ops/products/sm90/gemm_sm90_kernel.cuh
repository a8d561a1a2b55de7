// The persistent, warp-specialised GEMM kernel for Hopper (sm_90a): one thread keeps a ring of shared-memory stages
// filled through the copy engine, two warpgroups multiply out of it with wgmma. One kernel for the forward product,
// the data gradient and the weight gradient: they differ in which operand is contiguous along the depth, in the
// order of the tiles (gemm_sm90_schedule.cuh) and in what happens to the accumulators (gemm_sm90_epilogue.cuh).
#pragma once

#include "engine/ops/products/sm90/gemm_sm90_epilogue.cuh"

namespace glia::cuda::sm90 {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// Addresses of everything in shared memory.
template <class C> struct Layout {
  uint32_t base;
  __device__ uint32_t a(int s) const { return base + s * C::kStageBytes; }
  __device__ uint32_t b(int s) const { return a(s) + C::kABytes; }
  __device__ uint32_t staging() const { return base + C::kStages * C::kStageBytes; }
  __device__ uint32_t full(int s) const { return barriers() + 8 * s; }
  __device__ uint32_t empty(int s) const { return barriers() + 8 * (C::kStages + s); }
  __device__ uint32_t turn(int g) const { return barriers() + 8 * (2 * C::kStages + g); }
  __device__ uint32_t slopes(int w) const { return barriers() + 8 * (2 * C::kStages + 2 + w); }
  static constexpr int kSlopeBarriers = 4 * C::kConsumers;
  static constexpr int kSumsAt = C::kStages * C::kStageBytes + C::kStagingBytes;
  static constexpr int kBiasAt = kSumsAt + C::kSumBytes;
  static constexpr int kBarriersAt = kBiasAt + C::kBiasBytes;
  static constexpr int kOffsetsAt = kBarriersAt + 8 * (2 * C::kStages + 2 + kSlopeBarriers);
  static constexpr int kOrderAt = kOffsetsAt + static_cast<int>(sizeof(typename C::Offset)) * (kMaxGroups + 1);
  static_assert(kOrderAt + (C::kShares ? kMaxGroups : 0) <= C::kSharedBytes);

 private:
  __device__ uint32_t barriers() const { return base + kBarriersAt; }
};

// In a cluster the two blocks share the rows of A, in a weight gradient the columns of B: each fetches one half for
// both.
template <class C>
__device__ __forceinline__ void load_stage(const Layout<C>& at, int s, const CUtensorMap* map_a,
                                           const CUtensorMap* map_b, const Work& w, int k, uint32_t rank,
                                           Cache hint_a, Cache hint_b) {
  const uint32_t full = at.full(s);
  barrier_expect(full, C::kStageBytes);
  const int step = w.k_first + k;
  const int depth = w.k_begin + (step < w.k_depth ? step : step - w.k_depth) * kTileK;
  constexpr bool kShareB = C::kCluster == 2 && C::kOp == Op::kWeightGradient;
  constexpr bool kShareA = C::kCluster == 2 && !kShareB;
  // A in two halves of 64 rows (or of 64 columns of dy).
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int x = C::kOp == Op::kWeightGradient ? w.row + half * 64 : depth;
    const int y = C::kOp == Op::kWeightGradient ? depth : w.row + half * 64;
    if (!kShareA) load_2d(at.a(s) + half * 8192, map_a, full, x, y, hint_a);
    else if (half == static_cast<int>(rank)) load_2d_multicast(at.a(s) + half * 8192, map_a, full, x, y, 3, hint_a);
  }
  if constexpr (C::kOp == Op::kForward) {
    load_3d(at.b(s), map_b, full, depth, w.col, w.group, hint_b);
  } else {
    const int z = C::kOp == Op::kDataGradient ? w.group : 0;
#pragma unroll
    for (int j = 0; j < C::kTileN / 64; ++j) {
      if (!kShareB) load_3d(at.b(s) + j * 8192, map_b, full, w.col + j * 64, depth, z, hint_b);
      else if (j / (C::kTileN / 128) == static_cast<int>(rank))
        load_3d_multicast(at.b(s) + j * 8192, map_b, full, w.col + j * 64, depth, z, 3, hint_b);
    }
  }
}

template <class C>
__device__ __forceinline__ void multiply_stage(float (&acc)[C::kM64][C::kTileN / 2], uint32_t a, uint32_t b) {
  constexpr int kTransA = C::kOp == Op::kWeightGradient ? 1 : 0;
  constexpr int kTransB = C::kOp == Op::kForward ? 0 : 1;
  // 16 values of K further on: 32 bytes inside the swizzle atom, or 16 rows of 128 bytes. Units of 16 bytes.
  constexpr int kStepA = kTransA ? 128 : 2, kStepB = kTransB ? 128 : 2;
#pragma unroll
  for (int kk = 0; kk < kTileK / 16; ++kk)
#pragma unroll
    for (int mi = 0; mi < C::kM64; ++mi)
      wgmma<kTransA, kTransB>(acc[mi], full_descriptor(a + kk * kStepA + mi * (8192 >> 4)),
                              full_descriptor(b + kk * kStepB));
}

#endif  // sm_90a

template <class C>
__global__ void __launch_bounds__(C::kThreads, 1)
    gemm_kernel(const __grid_constant__ CUtensorMap map_a, const __grid_constant__ CUtensorMap map_b,
                const __grid_constant__ CUtensorMap map_out, const __grid_constant__ Params p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) uint8_t shared[];
  const Layout<C> at{smem_address(shared)};
  using Offset = typename C::Offset;
  Offset* offsets = reinterpret_cast<Offset*>(shared + Layout<C>::kOffsetsAt);
  const int warpgroup = uniform(static_cast<int>(threadIdx.x) / kWarpgroup);
  const int warp = uniform(static_cast<int>(threadIdx.x) / 32 % 4);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const uint32_t rank = C::kCluster == 1 ? 0 : cluster_rank();

  if (threadIdx.x == 0) {
    if ((at.base & 1023) != 0) __trap();
    for (int s = 0; s < C::kStages; ++s) {
      barrier_init(at.full(s), 1);
      barrier_init(at.empty(s), 4 * C::kTeamSize * C::kCluster);  // one arrival a warp
    }
    for (int g = 0; g < 2; ++g) barrier_init(at.turn(g), C::kTeamSize);
    for (int w = 0; w < Layout<C>::kSlopeBarriers; ++w) barrier_init(at.slopes(w), 1);
    barrier_init_fence();
    prefetch_map(&map_a);
    prefetch_map(&map_b);
    prefetch_map(&map_out);
  }
  for (int g = threadIdx.x; g <= p.groups; g += C::kThreads) {
    const int row = p.offsets != nullptr ? p.offsets[g] : g * p.rows;
    offsets[g] = static_cast<Offset>(C::kShares ? row : (row + kTileRows - 1) / kTileRows);
  }
  __syncthreads();
  uint8_t* order = shared + Layout<C>::kOrderAt;
  if constexpr (C::kShares) {
    // The groups by depth, the deepest first.
    for (int g = threadIdx.x; g < p.groups; g += C::kThreads) {
      int place = 0;
      for (int i = 0; i < p.groups; ++i) {
        const int more = offsets[i + 1] - offsets[i] - (offsets[g + 1] - offsets[g]);
        place += more > 0 || (more == 0 && i < g);
      }
      order[place] = static_cast<uint8_t>(g);
    }
    __syncthreads();
  }
  if constexpr (C::kCluster > 1) cluster_sync();

  const auto schedule_of = [&](int team, int teams) {
    if constexpr (C::kShares) return Shares<C>(p, offsets, order);
    else return Tiles<C>(p, offsets, static_cast<int>(rank), team, teams);
  };
  Work w;
  if (warpgroup == 0) {
    registers_shrink<C::kProducerRegisters>();
    if (warp == 0) {
      auto schedule = schedule_of(0, 1);
      // With equal shares all groups are under way at once. The narrower operand, which every gang of a group
      // reads, stays in the cache only if the other, of which each part is for one gang, passes through it (88 → 83
      // µs; elsewhere it hurts).
      Cache hint_a = Cache::kNormal, hint_b = Cache::kNormal;
      if constexpr (C::kShares) {
        if (!schedule.whole()) (p.m > p.n ? hint_a : hint_b) = Cache::kPass;
      }
      int s = 0;
      uint32_t phase = 0;
      while (schedule.next(w)) {
        for (int k = 0; k < w.k_iters; ++k) {
          barrier_wait(at.empty(s), phase ^ 1);
          if (elected()) load_stage<C>(at, s, &map_a, &map_b, w, k, rank, hint_a, hint_b);
          __syncwarp();
          if (++s == C::kStages) s = 0, phase ^= 1;
        }
      }
    }
    __syncwarp();
  } else {
    registers_grow<C::kConsumerRegisters>();
    const int team = (warpgroup - 1) / C::kTeamSize, member = (warpgroup - 1) % C::kTeamSize;
    const int consumer_warp = (warpgroup - 1) * 4 + warp;
    Consumer c{team,
               member,
               warp,
               lane,
               at.staging() + consumer_warp * C::kChunks * kChunkBytes,
               at.slopes(consumer_warp),
               reinterpret_cast<float*>(shared + Layout<C>::kSumsAt) + team * C::kTeamSize * 4 * C::kTileN,
               reinterpret_cast<float*>(shared + Layout<C>::kBiasAt) + team * 2 * C::kTileN};
    const uint32_t a0 = matrix_descriptor(at.a(0) + member * 8192, 8192);
    const uint32_t b0 = matrix_descriptor(at.b(0), 8192);
    const auto release = [&](int stage) {
      if constexpr (C::kCluster == 1) {
        if (lane == 0) barrier_arrive(at.empty(stage));
      } else {
        if (lane < C::kCluster) barrier_arrive_remote(at.empty(stage), lane);
      }
    };
    static_assert(!C::kShares || C::kTeams == 1);
    auto schedule = schedule_of(team, C::kTeams);
    uint32_t position = 0;  // stages taken so far by all teams
    uint32_t own = 0;       // tiles of this team
    for (uint32_t tile = team; schedule.next(w); tile += C::kTeams) {
      if constexpr (C::kTeams > 1) position = tile * w.k_iters;
      float bias = 0.0f;
      if constexpr (C::kHasBias) bias = load_bias<C>(c, p, w);
      if constexpr (C::kEpilogue == Epilogue::kGeluGradient) prefetch_slopes<C>(c, p, w);
      float acc[C::kM64][C::kTileN / 2];
#pragma unroll
      for (int mi = 0; mi < C::kM64; ++mi)
#pragma unroll
        for (int i = 0; i < C::kTileN / 2; ++i) acc[mi][i] = 0.0f;

      // Ping-pong: multiply in turns, so that the other team's epilogue falls into this one's multiplications.
      if (C::kTeams == 2 && tile > 0) barrier_wait(at.turn(team), (team == 0 ? own - 1 : own) & 1);
      int s = static_cast<int>(position % C::kStages);
      uint32_t phase = position / C::kStages & 1;
      position += w.k_iters;
      int previous = 0;
      for (int k = 0; k < w.k_iters; ++k) {
        barrier_wait(at.full(s), phase);
        wgmma_fence();
        const uint32_t step = s * (C::kStageBytes >> 4);
        multiply_stage<C>(acc, a0 + step, b0 + step);
        wgmma_commit();
        wgmma_wait<1>();  // the stage before this one has been read
        if (k > 0) release(previous);
        previous = s;
        if (++s == C::kStages) s = 0, phase ^= 1;
      }
      if (C::kTeams == 2 && warp == 0 && elected()) barrier_arrive(at.turn(1 - team));
      wgmma_wait<0>();
      if (w.k_iters > 0) release(previous);
      if constexpr (C::kShares) {
        if (w.tail) {
          give_part<C>(c, acc, p);
          continue;
        }
        if (w.end > 0) schedule.for_each_part(w.end, [&](int block) { add_part<C>(c, acc, p, block); });
      }
      epilogue<C>(c, acc, w, p, &map_out, own, bias);
      ++own;
    }
    if (elected()) store_wait_read<0>();
    __syncwarp();
  }
  // A block's shared memory must outlive the copies and arrivals that its neighbour sends there.
  if constexpr (C::kCluster > 1) cluster_sync();
#endif
}

}  // namespace glia::cuda::sm90
