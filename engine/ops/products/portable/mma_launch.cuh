// Host side of the portable products. Included by the gemm_portable_*.cu units only.
#pragma once

#include "engine/ops/products/grouped_launch.cuh"
#include "engine/ops/products/portable/gemm_portable.h"
#include "engine/ops/products/portable/mma_kernel.cuh"

namespace glia::cuda::portable {

template <class C> void launch(dim3 grid, const Params& params, Stream stream) {
  once_per_device<mma_kernel<C>>([] {
    check(cudaFuncSetAttribute(mma_kernel<C>, cudaFuncAttributeMaxDynamicSharedMemorySize, C::kSharedBytes),
          "products: cudaFuncSetAttribute");
    check(cudaFuncSetAttribute(mma_kernel<C>, cudaFuncAttributePreferredSharedMemoryCarveout,
                               cudaSharedmemCarveoutMaxShared),
          "products: cudaFuncSetAttribute");
  });
  cuda::launch("products/portable", mma_kernel<C>, {grid, kThreads, C::kSharedBytes}, stream, params);
}

// As many stages as let two blocks share a multiprocessor: 3 of 16 KB where it has 100 KB (sm_86, 89, 120), 5 where
// it has 164 KB or more (sm_80, 90, 100).
template <Op op, Epilogue epilogue> void launch_staged(dim3 grid, const Params& params, Stream stream) {
  using Deep = Config<op, epilogue, 5>;
  constexpr int kReserved = 1024;  // of a block, by the system
  if (device_value(cudaDevAttrMaxSharedMemoryPerMultiprocessor) >= 2 * (Deep::kSharedBytes + kReserved))
    launch<Deep>(grid, params, stream);
  else launch<Config<op, epilogue, 3>>(grid, params, stream);
}

inline unsigned tiles(int n) { return static_cast<unsigned>((n + kTile - 1) / kTile); }

// p with what every product has: operands, result, groups of rows and sizes. Errors: sizes that the kernels do not take.
inline Params with_operands(Params p, const void* a, const void* b, void* out, RowGroups g, int n, int k) {
  check_groups(g, n, k);
  p.a = static_cast<const __nv_bfloat16*>(a);
  p.b = static_cast<const __nv_bfloat16*>(b);
  p.out = out;
  p.offsets = g.offsets;
  p.groups = g.groups;
  p.rows = g.rows;
  p.n = n;
  p.k = k;
  return p;
}

// Forward (n = O, k = I) and data gradient (n = I, k = O): a [R, k], w [E, O, I], out [R, n].
template <Op op, Epilogue epilogue>
void run_rows(const void* a, const void* w, void* out, Params p, RowGroups g, int n, int k, Stream stream) {
  p = with_operands(p, a, w, out, g, n, k);
  if (g.rows == 0) return;
  launch_staged<op, epilogue>({tiles(n), tiles(g.rows), 1}, p, stream);
}

}  // namespace glia::cuda::portable
