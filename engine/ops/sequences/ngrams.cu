#include "engine/device/cuda/launch.cuh"
#include "engine/ops/sequences/ngrams_kernels.h"

namespace glia::cuda {

void ngram_rows(const NgramShape& s, int32_t* row, Stream stream) {
  for_each("ngram_rows", s.rows, stream, [=] __device__(int64_t t) { row[t] = ngram_row(s, t); });
}

}  // namespace glia::cuda
