#include "engine/ops/routing/noise/jitter_kernels.h"
#include "engine/ops/rows/packs.cuh"

namespace glia::cuda {
namespace {

template <class From, class To> struct Jitter {
  JitterRule rule;
  const From* x;
  To* y;
  // Four columns of a row, which share a block, or one.
  template <int W> __device__ void operator()(Width<W>, int64_t i) const {
    using A = Accumulator<From>;
    const int64_t row = i / rule.columns, n = i % rule.columns;
    const PhiloxBlock block = jitter_block(rule, row, n / 4 * 4);
    A v[W];
    load<W>(x + i, v);
#pragma unroll
    for (int k = 0; k < W; ++k) v[k] *= jitter_factor<A>(rule, block.word[W == 4 ? k : n % 4]);
    store<W>(y + i, v);
  }
};

}  // namespace

template <class From, class To> void jitter(const JitterRule& r, const From* x, To* y, Stream stream) {
  for_each_pack<4>("jitter", r.rows * r.columns, r.columns % 4 == 0 && aligned16(x, y), stream,
                   Jitter<From, To>{r, x, y});
}

template void jitter(const JitterRule&, const float*, float*, Stream);
template void jitter(const JitterRule&, const double*, double*, Stream);
template void jitter(const JitterRule&, const bfloat16*, float*, Stream);
template void jitter(const JitterRule&, const float*, bfloat16*, Stream);

}  // namespace glia::cuda
