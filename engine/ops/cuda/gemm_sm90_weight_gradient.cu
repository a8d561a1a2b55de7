// dW = dyᵀ x: launchers and the kernel that sums partial tiles (gemm_sm90.h).
#include "engine/ops/cuda/gemm_sm90_launch.cuh"

namespace glia::cuda {
namespace sm90 {

constexpr int kSumParts = 8;  // blocks per tile and rank

// With equal shares a tile may be cut at the border of two clusters. Every such tile is the sum of its parts in the order
// of depth; which parts those are follows from the offsets alone. Tiles that one cluster finished are left alone, tiles
// of empty groups become zero. Grid: (tiles of all groups, ranks, kSumParts).
template <class C, class T>
__global__ void __launch_bounds__(256) sum_shares(const Params p, T* dw, int clusters) {
  const int units_n = (p.n + C::kUnitN - 1) / C::kUnitN;
  const int tiles_m = (p.m + kTileRows - 1) / kTileRows;
  const int per_group = units_n * tiles_m;
  const int group = static_cast<int>(blockIdx.x) / per_group, tile = static_cast<int>(blockIdx.x) % per_group;
  const auto offset = [&](int g) { return p.offsets != nullptr ? p.offsets[g] : g * p.rows; };
  const auto steps = [](int row) { return (row + kTileK - 1) / kTileK; };
  const int first = steps(offset(group));
  const int depth = steps(offset(group + 1)) - first;
  const long long total = static_cast<long long>(steps(offset(p.groups))) * per_group;
  const auto share_begin = [&](int c) { return static_cast<int>(c * total / clusters); };

  const int begin = first * per_group + tile * depth, end = begin + depth;
  int c0 = 0;
  if (depth > 0) {
    c0 = static_cast<int>(static_cast<long long>(begin) * clusters / total);
    while (share_begin(c0) > begin) --c0;
    while (share_begin(c0 + 1) <= begin) ++c0;
    if (end <= share_begin(c0 + 1)) return;
  }
  const bool n_fast = units_n <= tiles_m;  // as Scheduler::place
  const int row0 = (n_fast ? tile / units_n : tile % tiles_m) * kTileRows;
  const int rank = static_cast<int>(blockIdx.y);
  const int col0 = (n_fast ? tile % units_n : tile / tiles_m) * C::kUnitN + rank * C::kTileN;
  constexpr int kTile = kTileRows * C::kTileN, kPart = kTile / kSumParts;
  for (int i = static_cast<int>(blockIdx.z) * kPart + 4 * static_cast<int>(threadIdx.x);
       i < (static_cast<int>(blockIdx.z) + 1) * kPart; i += 4 * 256) {
    const int row = row0 + i / C::kTileN, col = col0 + i % C::kTileN;
    if (row >= p.m || col >= p.n) continue;
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (depth > 0)
      for (int c = c0; c < clusters && share_begin(c) < end; ++c) {
        if (share_begin(c) == share_begin(c + 1)) continue;
        const long long slot = (2ll * c + (c == c0 ? 1 : 0)) * C::kCluster + rank;
        const float4 v = *reinterpret_cast<const float4*>(p.split + slot * kTile + i);
        sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
      }
    T* out = dw + (static_cast<long long>(group) * p.m + row) * p.n + col;
    if constexpr (sizeof(T) == 4)
      *reinterpret_cast<float4*>(out) = sum;
    else
      *reinterpret_cast<uint2*>(out) = make_uint2(pack_bf16(sum.x, sum.y), pack_bf16(sum.z, sum.w));
  }
}

template <Epilogue epilogue, class T>
void run_weight_gradient(GemmTile tile, Split split, const void* dy, const void* x, T* dw, Params p, CUstream_st* stream) {
  with_config<Op::kWeightGradient, epilogue>(tile, [&](auto config) {
    using C = decltype(config);
    const long long tiles = static_cast<long long>(p.groups) * ((p.m + kTileRows - 1) / kTileRows) *
                            ((p.n + C::kUnitN - 1) / C::kUnitN);
    const int clusters = clusters_on_device(C::kCluster);
    // Whole tiles when their last, partly filled round costs less than about a tenth; else equal shares and a sum.
    const long long rounds = (tiles + clusters - 1) / clusters;
    p.equal_shares = split == Split::kShares || (split == Split::kAuto && tiles * 10 < rounds * clusters * 9);
    const CUtensorMap map_a = make_map(dy, 2, p.m, p.rows, 1, kTileK);
    const CUtensorMap map_b = make_map(x, 3, p.n, p.rows, 1, kTileK);
    const CUtensorMap map_out = make_map(dw, 3, p.n, p.m, p.groups, 16);  // of use for bf16 only
    launch<C>(map_a, map_b, map_out, map_out, p, p.equal_shares ? clusters : tiles, stream);
    if (p.equal_shares) {
      sum_shares<C><<<dim3(static_cast<unsigned>(tiles), C::kCluster, kSumParts), 256, 0, stream>>>(p, dw, clusters);
      check(cudaGetLastError(), "gemm_sm90: sum of shares");
    }
  });
}

}  // namespace sm90

std::size_t gemm_weight_gradient_workspace() {
  // Two partial tiles a block, 128×256 float32 at most.
  return static_cast<std::size_t>(sm90::clusters_on_device(1)) * 2 * sm90::kTileRows * 256 * sizeof(float);
}

void gemm_weight_gradient(const void* dy, const void* x, void* dw, bool dw_bf16, RowGroups groups, int outputs,
                          int inputs, void* workspace, std::size_t workspace_bytes, CUstream_st* stream, GemmTile tile,
                          Split split) {
  using namespace sm90;
  check_groups(groups, outputs, inputs);
  require(workspace_bytes >= gemm_weight_gradient_workspace(), "the weight gradient's workspace is too small");
  if (groups.rows == 0) {
    const std::size_t bytes = static_cast<std::size_t>(groups.groups) * outputs * inputs * (dw_bf16 ? 2 : 4);
    check(cudaMemsetAsync(dw, 0, bytes, stream), "gemm_sm90: memset");
    return;
  }
  Params p = {};
  p.offsets = groups.offsets;
  p.groups = groups.groups;
  p.rows = groups.rows;
  p.m = outputs;
  p.n = inputs;
  p.split = static_cast<float*>(workspace);
  if (dw_bf16) {
    run_weight_gradient<sm90::Epilogue::kStore>(tile, split, dy, x, static_cast<__nv_bfloat16*>(dw), p, stream);
  } else {
    p.direct = static_cast<float*>(dw);
    run_weight_gradient<sm90::Epilogue::kFloat>(tile, split, dy, x, static_cast<float*>(dw), p, stream);
  }
}

}  // namespace glia::cuda
