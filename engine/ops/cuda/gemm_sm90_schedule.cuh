// What a GEMM kernel computes (its configuration) and in which order its blocks take the tiles. Device only.
#pragma once

#include <cstdint>

#include "engine/ops/cuda/gemm_sm90.h"
#include "engine/ops/cuda/gemm_sm90_ptx.cuh"

namespace glia::cuda::sm90 {

enum class Op { kForward, kDataGradient, kWeightGradient };
enum class Epilogue { kStore, kBias, kBiasGelu, kGeluGradient, kFloat };

constexpr int kTileRows = 128;  // rows of a tile; groups start at multiples of it, so no tile spans two groups
constexpr int kTileK = 64;      // 64 bf16 = 128 bytes: one swizzle atom wide
constexpr int kWarpgroup = 128;
constexpr int kMaxGroups = 128;
constexpr int kSharedLimit = 232448;  // bytes a block may have on compute capability 9.0
constexpr int kSmallShared = 1024;    // barriers and the group offsets
constexpr int kChunkBytes = 2048;     // 16 rows × 64 columns of bf16: what one warp stages for one bulk store

// Who computes a tile. Two teams multiply in turns (ping-pong), so that the epilogue of one overlaps the multiplications
// of the other; a single team takes the larger tile.
struct Ping {
  static constexpr int kTeams = 2, kTeamSize = 1, kTileN = 128, kProducerRegisters = 40, kConsumerRegisters = 232;
};
struct Quad {  // as Ping, but two warpgroups a team: half the accumulators a thread, twice the warps in an epilogue
  static constexpr int kTeams = 2, kTeamSize = 2, kTileN = 128, kProducerRegisters = 24, kConsumerRegisters = 112;
};
struct Wide {
  static constexpr int kTeams = 1, kTeamSize = 2, kTileN = 256, kProducerRegisters = 40, kConsumerRegisters = 232;
};

// kCluster = 2: two blocks take neighbouring columns of the same rows and share the loads of A by multicast.
template <Op op, Epilogue epilogue, class Teams, int cluster>
struct Config : Teams {
  using Teams::kTeams, Teams::kTeamSize, Teams::kTileN;
  static constexpr Op kOp = op;
  static constexpr Epilogue kEpilogue = epilogue;
  static constexpr int kCluster = cluster;
  static constexpr int kConsumers = kTeams * kTeamSize;         // warpgroups that multiply
  static constexpr int kThreads = (1 + kConsumers) * kWarpgroup;  // and one that loads
  static constexpr int kUnitN = kTileN * cluster;               // columns that a cluster takes at once
  static constexpr int kM64 = kTileRows / 64 / kTeamSize;       // 64-row blocks of a warpgroup
  static constexpr int kHalves = kTileN / 64;                   // 64-column chunks of a tile
  static constexpr int kChunks = kM64 * kHalves;                // staging chunks of a warp
  static constexpr bool kHasBias = epilogue == Epilogue::kBias || epilogue == Epilogue::kBiasGelu;
  static constexpr int kABytes = kTileRows * 128;
  static constexpr int kBBytes = kTileN * 128;
  static constexpr int kStageBytes = kABytes + kBBytes;
  static constexpr int kStagingBytes = epilogue == Epilogue::kFloat ? 0 : kConsumers * 4 * kChunks * kChunkBytes;
  static constexpr int kSumBytes = epilogue == Epilogue::kGeluGradient ? kConsumers * 4 * kTileN * 4 : 0;
  static constexpr int kBiasBytes = kHasBias ? 2 * kTeams * kTileN * 4 : 0;
  static constexpr int kFree = kSharedLimit - kSmallShared - kStagingBytes - kSumBytes - kBiasBytes;
  static constexpr int kStages = kFree / kStageBytes < 8 ? kFree / kStageBytes : 8;
  static constexpr int kSharedBytes = kStages * kStageBytes + kStagingBytes + kSumBytes + kBiasBytes + kSmallShared;
  static_assert(kStages >= 3 && kSharedBytes <= kSharedLimit);
};

struct Params {
  const int* offsets;  // [groups + 1] on the device, or nullptr: one group of `rows` rows
  int groups;
  int rows;
  int m;  // weight gradient only: rows of a dW
  int n;  // columns of the output
  int k;  // depth, forward and data gradient
  const void* bias;
  int bias_bf16;
  int write_pre;    // forward with GELU: also store the pre-activation
  int equal_shares;  // weight gradient: cut the work into equal shares instead of whole tiles
  float* column_partial;  // [row tiles, n]
  float* direct;          // [groups, m, n] float32 weight gradient
  float* split;           // partial tiles of equal_shares
};

// One tile (or a part of its depth) for a cluster; col already includes the block's own rank.
struct Work {
  int group;
  int row;      // first row of the output tile (weight gradient: of dW[group])
  int col;
  int k_begin;  // weight gradient: first row of x and dy
  int k_iters;
  int slot;     // weight gradient: partial tile to write, or -1: the tile is complete
};

// The list of tiles of a cluster. The loading warp walks all of it, a team of a forward or data-gradient kernel only its
// own part (every `teams`-th, from `team` on); in a weight gradient everybody walks all, because depths differ.
// All lanes call together: what comes from memory is passed through uniform().
template <class C>
class Scheduler {
 public:
  __device__ Scheduler(const Params& p, const int* offsets, int cluster, int clusters, int rank, int team, int teams)
      : p_(p), offsets_(offsets), shift_(rank * C::kTileN) {
    units_n_ = (p.n + C::kUnitN - 1) / C::kUnitN;
    if constexpr (C::kOp == Op::kWeightGradient) {
      tiles_m_ = (p.m + kTileRows - 1) / kTileRows;
      per_group_ = tiles_m_ * units_n_;
      if (p.equal_shares) {
        const long long total = share_total(offsets, p.groups, per_group_);
        at_ = uniform(static_cast<int>(cluster * total / clusters));
        end_ = uniform(static_cast<int>((cluster + 1) * total / clusters));
        cluster_ = cluster;
      } else {
        at_ = cluster;
        step_ = clusters;
        end_ = p.groups * per_group_;
      }
    } else {
      // Columns run fastest: the row tiles in flight are few, so A leaves device memory once and W stays in L2.
      // at_ counts row tiles, unit_ the column units; both step without a division.
      const int first = cluster + team * clusters, stride = clusters * teams;
      at_ = first / units_n_, unit_ = first % units_n_;
      step_ = stride / units_n_, unit_step_ = stride % units_n_;
      end_ = uniform((offsets[p.groups] + kTileRows - 1) / kTileRows);
    }
  }

  __device__ bool next(Work& w) {
    if (at_ >= end_) return false;
    if constexpr (C::kOp == Op::kWeightGradient) {
      if (p_.equal_shares)
        next_share(w);
      else
        next_gradient_tile(w);
    } else {
      w.row = at_ * kTileRows;
      w.col = unit_ * C::kUnitN + shift_;
      while (w.row >= offsets_[group_ + 1]) ++group_;
      group_ = w.group = uniform(group_);
      w.k_begin = 0;
      w.k_iters = (p_.k + kTileK - 1) / kTileK;
      w.slot = -1;
      at_ += step_;
      unit_ += unit_step_;
      if (unit_ >= units_n_) unit_ -= units_n_, ++at_;
    }
    return true;
  }

  // Steps of kTileK rows in all tiles of all groups together.
  static __device__ long long share_total(const int* offsets, int groups, int per_group) {
    return static_cast<long long>((offsets[groups] + kTileK - 1) / kTileK) * per_group;
  }

 private:
  __device__ void place(Work& w, int tile) {
    // The shorter side runs fastest, so that the blocks in flight share as much of the longer operand as they can.
    const bool n_fast = units_n_ <= tiles_m_;
    w.row = (n_fast ? tile / units_n_ : tile % tiles_m_) * kTileRows;
    w.col = (n_fast ? tile % units_n_ : tile / tiles_m_) * C::kUnitN + shift_;
  }
  __device__ void next_gradient_tile(Work& w) {
    w.group = at_ / per_group_;
    place(w, at_ % per_group_);
    w.k_begin = uniform(offsets_[w.group]);
    w.k_iters = (uniform(offsets_[w.group + 1]) - w.k_begin + kTileK - 1) / kTileK;
    w.slot = -1;
    at_ += step_;
  }
  __device__ void next_share(Work& w) {
    const auto steps = [&](int row) { return (row + kTileK - 1) / kTileK; };
    while (at_ >= steps(offsets_[group_ + 1]) * per_group_) ++group_;
    group_ = uniform(group_);
    const int begin_row = uniform(offsets_[group_]);
    const int first = steps(begin_row);
    const int depth = steps(uniform(offsets_[group_ + 1])) - first;
    const int inside = at_ - first * per_group_;
    const int tile = inside / depth;
    const int begin = inside % depth;
    const int iters = min(depth - begin, end_ - at_);
    w.group = group_;
    place(w, tile);
    w.k_begin = begin_row + begin * kTileK;
    w.k_iters = iters;
    w.slot = iters == depth ? -1 : 2 * cluster_ + (begin == 0 ? 1 : 0);
    at_ += iters;
  }

  const Params& p_;
  const int* offsets_;
  int shift_;
  int units_n_ = 0, tiles_m_ = 0, per_group_ = 0;
  int at_ = 0, step_ = 0, end_ = 0, unit_ = 0, unit_step_ = 0, cluster_ = 0, group_ = 0;
};

}  // namespace glia::cuda::sm90
