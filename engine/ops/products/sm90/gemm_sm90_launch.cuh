// Host side of the Hopper GEMMs: tensor maps, launch, checks. Included by the gemm_sm90_*.cu units only.
#pragma once

#include <cudaTypedefs.h>
#include <cuda_runtime.h>

#include "engine/ops/products/grouped_launch.cuh"
#include "engine/ops/products/sm90/gemm_sm90_kernel.cuh"

namespace glia::cuda::sm90 {

// The driver's encoder, looked up once so that nothing links against libcuda (absent on machines without a GPU).
inline PFN_cuTensorMapEncodeTiled_v12000 map_encoder() {
  static const PFN_cuTensorMapEncodeTiled_v12000 encode = [] {
    void* f = nullptr;
    cudaDriverEntryPointQueryResult found;
#if CUDART_VERSION >= 12050
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000, cudaEnableDefault, &found),
          "cuTensorMapEncodeTiled");
#else
    check(cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &f, cudaEnableDefault, &found),
          "cuTensorMapEncodeTiled");
#endif
    require(found == cudaDriverEntryPointSuccess, "the driver has no cuTensorMapEncodeTiled");
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(f);
  }();
  return encode;
}

// bf16 [z, y, x] row-major, copied in boxes of 64 columns × box_y rows with the 128-byte swizzle. Outside the
// tensor loads give zeros and stores do nothing.
inline CUtensorMap make_map(const void* data, int rank, long long x, long long y, long long z, int box_y) {
  CUtensorMap map;
  const cuuint64_t sizes[3] = {static_cast<cuuint64_t>(x), static_cast<cuuint64_t>(y), static_cast<cuuint64_t>(z)};
  const cuuint64_t strides[2] = {static_cast<cuuint64_t>(x * 2), static_cast<cuuint64_t>(x * y * 2)};
  const cuuint32_t box[3] = {64, static_cast<cuuint32_t>(box_y), 1};
  const cuuint32_t steps[3] = {1, 1, 1};
  const CUresult status =
      map_encoder()(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, rank, const_cast<void*>(data), sizes, strides, box,
                    steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                    CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  require(status == CUDA_SUCCESS,
          "a tensor map was refused (null or unaligned pointer, or a size not a multiple of 8?)");
  return map;
}

inline int clusters_on_device(int cluster) { return device_value(cudaDevAttrMultiProcessorCount) / cluster; }

inline void check_hopper_groups(const RowGroups& g, int outputs, int inputs) {
  check_groups(g, outputs, inputs);
  require(g.groups <= kMaxGroups, "Hopper's kernels take at most 256 groups");
  require(g.rows <= 65535 * kTileRows, "Hopper's kernels count tiles of rows in 16 bits");
}

template <class C>
void launch(const CUtensorMap& a, const CUtensorMap& b, const CUtensorMap& out, const Params& params,
            long long units, Stream stream) {
  once_per_device<gemm_kernel<C>>([] {
    check(cudaFuncSetAttribute(gemm_kernel<C>, cudaFuncAttributeMaxDynamicSharedMemorySize, C::kSharedBytes),
          "gemm_sm90: cudaFuncSetAttribute");
  });
  const long long clusters = clusters_on_device(C::kCluster);
  const auto blocks = static_cast<unsigned>((units < clusters ? units : clusters) * C::kCluster);
  cuda::launch("gemm_sm90", gemm_kernel<C>, {blocks, C::kThreads, C::kSharedBytes, C::kCluster}, stream, a, b, out,
               params);
}

// Forward and data gradient: a [R, k], output [R, n]. The callers name the configuration that the harness found
// fastest at the sizes of an expert layer: Ping where an epilogue has much to do (99 and 106 µs against Wide's 110
// and 125), clusters of Ping or Quad where the depth is long (67 and 65 against 75 and 73).
template <class C>
void run_rows(const void* a, const void* w, void* out, Params params, RowGroups g, int outputs, int inputs,
              Stream stream) {
  constexpr Op op = C::kOp;
  check_hopper_groups(g, outputs, inputs);
  if (g.rows == 0) return;
  params.offsets = g.offsets;
  params.groups = g.groups;
  params.rows = g.rows;
  params.n = op == Op::kForward ? outputs : inputs;
  params.k = op == Op::kForward ? inputs : outputs;
  const CUtensorMap map_a = make_map(a, 2, params.k, g.rows, 1, 64);
  const CUtensorMap map_b = make_map(w, 3, inputs, outputs, g.groups, op == Op::kForward ? C::kTileN : kTileK);
  const CUtensorMap map_out = make_map(out, 3, params.n, g.rows, 1, 16);
  const long long units =
      static_cast<long long>((g.rows + kTileRows - 1) / kTileRows) * ((params.n + C::kUnitN - 1) / C::kUnitN);
  launch<C>(map_a, map_b, map_out, params, units, stream);
}

}  // namespace glia::cuda::sm90
