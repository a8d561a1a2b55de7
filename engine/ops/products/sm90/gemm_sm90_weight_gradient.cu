// dW = dyᵀ x: launchers (grouped_products.h).
#include "engine/ops/products/sm90/gemm_sm90_launch.cuh"

namespace glia::cuda::sm90 {

constexpr std::size_t kFlagBytes = 1 << 15;

template <Epilogue epilogue>
void run_weight_gradient(const void* dy, const void* x, void* dw, Params p, GemmWorkspace workspace,
                         Stream stream) {
  using C = Config<Op::kWeightGradient, epilogue, Wide, 2>;
  const int blocks = clusters_on_device(1);
  require(workspace.bytes >= workspace_bytes(), "the workspace is too small");
  require(blocks * C::kTeamSize * 4 * sizeof(unsigned) <= kFlagBytes, "too many multiprocessors for the flags");
  require(blocks % 4 == 0, "wants a multiple of 4 multiprocessors");
  // Gangs of four tiles: below each other when these are few, otherwise two by two. The clusters in them share
  // columns.
  const int tiles_n = (p.n + C::kTileN - 1) / C::kTileN, tiles_m = (p.m + kTileRows - 1) / kTileRows;
  p.gang = 4;
  p.gang_rows = tiles_m < tiles_n || tiles_n == 1 ? 4 : 2;
  p.flags = static_cast<unsigned*>(workspace.data);
  p.parts = reinterpret_cast<float*>(static_cast<char*>(workspace.data) + kFlagBytes);
  const CUtensorMap map_a = make_map(dy, 2, p.m, p.rows, 1, kTileK);
  const CUtensorMap map_b = make_map(x, 3, p.n, p.rows, 1, kTileK);
  const CUtensorMap map_out = make_map(dw, 3, p.n, p.m, p.groups, 16);  // of use for bf16 only
  launch<C>(map_a, map_b, map_out, p, blocks / C::kCluster, stream);
}

std::size_t workspace_bytes() {
  return kFlagBytes + static_cast<std::size_t>(clusters_on_device(1)) * kTileRows * Wide::kTileN * sizeof(float);
}

void weight_gradient(const void* dy, const void* x, void* dw, bool dw_bf16, RowGroups groups, int outputs,
                     int inputs, GemmWorkspace workspace, Stream stream) {
  check_hopper_groups(groups, outputs, inputs);
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
  p.direct = static_cast<float*>(dw);
  if (dw_bf16) run_weight_gradient<Epilogue::kStore>(dy, x, dw, p, workspace, stream);
  else run_weight_gradient<Epilogue::kFloat>(dy, x, dw, p, workspace, stream);
}

}  // namespace glia::cuda::sm90
