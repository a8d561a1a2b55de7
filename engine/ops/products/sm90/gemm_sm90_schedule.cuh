// What a GEMM kernel computes (its configuration) and in which order its blocks take the tiles. Device only.
#pragma once

#include <cstdint>
#include <type_traits>

#include "engine/ops/products/sm90/gemm_sm90.h"
#include "engine/ops/products/sm90/gemm_sm90_ptx.cuh"

namespace glia::cuda::sm90 {

enum class Op { kForward, kDataGradient, kWeightGradient };
enum class Epilogue { kStore, kBias, kBiasGelu, kBiasGeluSlopes, kGeluGradient, kFloat };

constexpr int kTileRows = 128;  // rows of a tile; groups start at multiples of it, so no tile spans two groups
constexpr int kTileK = 64;      // 64 bf16 = 128 bytes: one swizzle atom wide
constexpr int kWarpgroup = 128;
constexpr int kSharedLimit = 232448;  // bytes a block may have on compute capability 9.0
constexpr int kChunkBytes = 2048;     // 16 rows × 64 columns of bf16: what one warp stages for one bulk store

// Who computes a tile. Two teams multiply in turns (ping-pong), so that the epilogue of one overlaps the
// multiplications of the other; a single team takes the larger tile.
struct Ping {
  static constexpr int kTeams = 2, kTeamSize = 1, kTileN = 128, kProducerRegisters = 40, kConsumerRegisters = 232;
};
struct Quad {  // as Ping, but two warpgroups a team: half the accumulators a thread, twice the warps in an epilogue
  static constexpr int kTeams = 2, kTeamSize = 2, kTileN = 128, kProducerRegisters = 24, kConsumerRegisters = 112;
};
struct Wide {
  static constexpr int kTeams = 1, kTeamSize = 2, kTileN = 256, kProducerRegisters = 40, kConsumerRegisters = 232;
};

// kCluster = 2: two blocks take neighbouring columns of the same rows and share the loads of A by multicast; in a
// weight gradient neighbouring rows of the same columns, and the loads of B.
template <Op op, Epilogue epilogue, class Teams, int cluster> struct Config : Teams {
  using Teams::kTeams, Teams::kTeamSize, Teams::kTileN;
  static constexpr Op kOp = op;
  static constexpr Epilogue kEpilogue = epilogue;
  static constexpr int kCluster = cluster;
  static constexpr int kConsumers = kTeams * kTeamSize;           // warpgroups that multiply
  static constexpr int kThreads = (1 + kConsumers) * kWarpgroup;  // and one that loads
  static constexpr int kUnitN = kTileN * cluster;                 // columns that a cluster takes at once
  static constexpr int kM64 = kTileRows / 64 / kTeamSize;         // 64-row blocks of a warpgroup
  static constexpr int kHalves = kTileN / 64;                     // 64-column chunks of a tile
  static constexpr int kChunks = kM64 * kHalves;                  // 16×64 chunks of a warp's part of a tile
  static constexpr bool kShares =
      op == Op::kWeightGradient;  // tiles differ in depth: Shares orders them, not Tiles
  // Where groups begin, in shared memory: rows where depths come of them, else tiles of rows, which take half the room (a
  // forward product has no byte to spare for its stages). Behind the barriers, with Shares' order of groups.
  using Offset = std::conditional_t<kShares, int, uint16_t>;
  static constexpr int kSmallShared = kShares ? 2048 : 1024;
  static constexpr bool kHasGelu = epilogue == Epilogue::kBiasGelu || epilogue == Epilogue::kBiasGeluSlopes;
  static constexpr bool kHasBias = epilogue == Epilogue::kBias || kHasGelu;
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
  int m;          // weight gradient only: rows of a dW
  int n;          // columns of the output
  int k;          // depth, forward and data gradient
  int gang;       // weight gradient: blocks that take neighbouring tiles at the same depth,
  int gang_rows;  // so many of them below each other
  const void* bias;
  int bias_bf16;
  uint4* slopes;          // GELU's, written or read
  float* column_partial;  // [row tiles, n]
  float* direct;          // [groups, m, n] float32 weight gradient
  unsigned* flags;        // weight gradient: [blocks, warps], zero between kernels
  float* parts;           // weight gradient: [blocks] tiles in the order of the accumulators
};

// One tile (or a part of its depth) for a block.
struct Work {
  int group;
  int row;  // first row of the output tile (weight gradient: of dW[group])
  int col;
  int k_begin;  // first value of the depth (weight gradient: first row of x and dy)
  int k_depth;  // steps of kTileK in the whole tile
  int k_first;  // the step to begin with; after the last one comes the first
  int k_iters;  // steps to take
  bool tail;    // weight gradient: not the beginning of the tile, goes to parts
  int end;      // weight gradient: where the tile ends if others hold the rest of it, otherwise 0
};

// Whole tiles in turns, for a team: every `teams`-th of its cluster's, from `team` on.
// Columns run fastest: the row tiles in flight are few, so A leaves device memory once and W stays in L2.
template <class C> class Tiles {
 public:
  // offsets: in tiles of rows.
  __device__ Tiles(const Params& p, const typename C::Offset* offsets, int rank, int team, int teams)
      : p_(p), offsets_(offsets), shift_(rank * C::kTileN), units_n_((p.n + C::kUnitN - 1) / C::kUnitN) {
    // row_ counts row tiles, unit_ the column units; both step without a division.
    const int cluster = static_cast<int>(blockIdx.x) / C::kCluster,
              clusters = static_cast<int>(gridDim.x) / C::kCluster;
    const int first = cluster + team * clusters, stride = clusters * teams;
    row_ = first / units_n_, unit_ = first % units_n_;
    step_ = stride / units_n_, unit_step_ = stride % units_n_;
    end_ = uniform(static_cast<int>(offsets[p.groups]));
  }

  __device__ bool next(Work& w) {
    if (row_ >= end_) return false;
    w.row = row_ * kTileRows;
    w.col = unit_ * C::kUnitN + shift_;
    while (row_ >= offsets_[group_ + 1]) ++group_;
    group_ = w.group = uniform(group_);
    w.k_begin = w.k_first = 0;
    w.k_depth = w.k_iters = (p_.k + kTileK - 1) / kTileK;
    w.tail = false;
    w.end = 0;
    row_ += step_;
    unit_ += unit_step_;
    if (unit_ >= units_n_) unit_ -= units_n_, ++row_;
    return true;
  }

 private:
  const Params& p_;
  const typename C::Offset* offsets_;
  int shift_, units_n_;
  int row_, step_, unit_, unit_step_, end_, group_ = 0;
};

// Weight gradients, by gangs of blocks that take neighbouring tiles at the same depth. Depths differ as the groups
// do, so there are two ways, and the offsets say which is faster (all blocks come to the same answer):
//   whole tiles in turns, the deepest first: best while the groups are about equal;
//   equal shares ("stream-K", Osama et al. 2023): all tiles are laid end to end and every gang gets as many steps
//   of kTileK.
// A tile that a cut goes through is begun by one gang and ended by its successors, who meet it first thing: they
// put their sums into `parts` and raise a flag, and the gang that holds the beginning, and comes to it last, adds
// them in the order of the cuts. Gangs with the later parts have the smaller block numbers: nobody waits for a
// block that cannot start. With shares the gangs of a group still go through its rows in step, as if by one clock:
// a tile begins at the row where the clock stands and goes round, so that a row that one block fetches serves
// others too (95 → 85 µs).
template <class C> class Shares {
 public:
  // In steps.
  static constexpr int kTileCost = 3;  // an epilogue
  static constexpr int kCutCost =
      28;  // of parts given and added, and of a worse order of loads: shares cost so much more
  static constexpr int kMinPart = 3;  // less than this is not worth being cut off

  // order: the groups, the deepest first.
  __device__ Shares(const Params& p, const int* offsets, const uint8_t* order)
      : p_(p), offsets_(offsets), order_(order), rank_(static_cast<int>(blockIdx.x) % p.gang) {
    const int tiles_m = (p.m + kTileRows - 1) / kTileRows, tiles_n = (p.n + C::kTileN - 1) / C::kTileN;
    const int across = p.gang / p.gang_rows;
    units_n_ = (tiles_n + across - 1) / across;
    units_ = (tiles_m + p.gang_rows - 1) / p.gang_rows * units_n_;
    gangs_ = static_cast<int>(gridDim.x) / p.gang;
    gang_ = gangs_ - 1 - static_cast<int>(blockIdx.x) / p.gang;
    int total = 0, full = 0;
    for (; full < p.groups && depth(full) > 0; ++full) total += cost(full);
    share_ = total / gangs_, extra_ = total % gangs_;
    int longest = 0;  // of the gangs' lists of whole tiles
    for (int gang = static_cast<int>(threadIdx.x) % 32; gang < gangs_; gang += 32) {
      int sum = 0;
      for (int at = gang, turn = 0; at < full * units_; at = turned(gang, ++turn))
        sum += depth_of(at / units_) + kTileCost;
      longest = max(longest, sum);
    }
    longest = __reduce_max_sync(0xffffffffu, longest);
    whole_ = longest <= share_ + kCutCost;
    at_ = whole_ ? gang_ : cut(gang_);
    end_ = whole_ ? full * units_ : cut(gang_ + 1);
    empty_ = full * units_ + gang_;
  }

  __device__ bool next(Work& w) {
    // Tiles of empty groups are zero; they come first, behind the first loads.
    w.k_begin = w.k_depth = w.k_first = w.k_iters = w.end = 0;
    w.tail = false;
    if (empty_ < p_.groups * units_) {
      place(w, empty_ / units_, empty_ % units_);
      empty_ += gangs_;
      return true;
    }
    if (at_ >= end_) return false;
    if (whole_) {
      const int i = at_ / units_;
      place(w, i, at_ % units_);
      w.k_depth = w.k_iters = depth(i);
      at_ = turned(gang_, ++turn_);
      return true;
    }
    while (at_ >= begin_ + depth(at_group_) * units_) {
      cost_begin_ += cost(at_group_);
      begin_ += depth(at_group_++) * units_;
    }
    const int d = depth(at_group_), unit = (at_ - begin_) / d, before = (at_ - begin_) % d;
    place(w, at_group_, unit);
    int gang = gang_;  // who begins this tile, and when
    while (before > 0 && cut(gang) > at_ - before) --gang;
    w.k_depth = d;
    w.k_first = uniform((before + max(cost_begin_ + unit * (d + kTileCost) - cost_cut(gang), 0)) % d);
    w.k_iters = min(d - before, end_ - at_);
    w.tail = before > 0;
    w.end = before == 0 && w.k_iters < d ? at_ + d : 0;
    at_ += w.k_iters;
    return true;
  }

  __device__ bool whole() const { return whole_; }

  // Calls f(block) for the blocks that hold the rest of a tile, in the order of the cuts.
  template <class F> __device__ void for_each_part(int end, F&& f) const {
    int from = end_;
    for (int g = gang_ + 1; from < end; ++g) {
      const int to = cut(g + 1);
      if (to > from) f((gangs_ - 1 - g) * p_.gang + rank_);
      from = to;
    }
  }

 private:
  // By place in the order of depth.
  __device__ int depth_of(int i) const {
    const int g = order_[i];
    return (offsets_[g + 1] - offsets_[g] + kTileK - 1) / kTileK;
  }
  __device__ int depth(int i) const { return uniform(depth_of(i)); }
  __device__ int cost(int i) const { return (depth(i) + kTileCost) * units_; }
  // Whole tiles: the turns of a gang run to and fro through the list, so that who had a deeper tile has a less deep
  // one next.
  __device__ int turned(int gang, int turn) const {
    return turn * gangs_ + (turn % 2 == 0 ? gang : gangs_ - 1 - gang);
  }
  // Where the share of a gang begins: in steps and epilogues, and in steps alone.
  __device__ int cost_cut(int gang) const { return gang * share_ + min(gang, extra_); }
  __device__ int cut(int gang) const {
    int left = cost_cut(gang), begin = 0;
    for (int i = 0; i < p_.groups; ++i) {
      const int d = depth(i);
      if (d == 0) break;
      if (left < (d + kTileCost) * units_) {
        const int unit = left / (d + kTileCost), before = left % (d + kTileCost);
        return uniform(begin + unit * d + (before < kMinPart ? 0 : before > d - kMinPart ? d : before));
      }
      left -= (d + kTileCost) * units_;
      begin += d * units_;
    }
    return uniform(begin);
  }
  __device__ void place(Work& w, int i, int unit) const {
    w.group = uniform(order_[i]);
    w.k_begin = uniform(offsets_[w.group]);
    w.row = uniform(unit / units_n_ * p_.gang_rows + rank_ % p_.gang_rows) * kTileRows;
    w.col = uniform(unit % units_n_ * (p_.gang / p_.gang_rows) + rank_ / p_.gang_rows) * C::kTileN;
  }

  const Params& p_;
  const int* offsets_;
  const uint8_t* order_;
  int rank_, units_n_, units_, gangs_, gang_, share_, extra_;
  bool whole_;
  int at_, end_, empty_, turn_ = 0, at_group_ = 0, begin_ = 0, cost_begin_ = 0;
};

}  // namespace glia::cuda::sm90
