#include "engine/device/cuda/launch.cuh"
#include "engine/ops/routing/noise/random_rows_kernels.h"

namespace glia::cuda {

template <class A> void random_rows(const RandomRows& r, A* y, Stream stream) {
  for_each("random_rows", r.rows * r.columns, stream, [=] __device__(int64_t i) {
    y[i] = static_cast<A>(random_of_row(r, row_number(r, i / r.columns), i % r.columns));
  });
}

template void random_rows(const RandomRows&, float*, Stream);
template void random_rows(const RandomRows&, double*, Stream);

}  // namespace glia::cuda
