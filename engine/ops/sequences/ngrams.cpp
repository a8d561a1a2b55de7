#include "engine/ops/sequences/ngrams.h"

#include <limits>

#include "engine/core/parallel.h"
#include "engine/ops/checks.h"
#include "engine/ops/sequences/ngrams_kernels.h"

namespace glia {

Tensor ngram_rows(const Tensor& ids, const Sequences& q, int64_t n, int64_t buckets) {
  check_index("ngram_rows", "ids", ids, {q.tokens}, q.offsets.context());
  CHECK(n >= 2 && buckets >= 1 && buckets <= std::numeric_limits<int32_t>::max(),
        "ngram_rows: wants n >= 2 and 1 <= buckets < 2^31, got {} and {}", n, buckets);
  const Tensor row = empty_like(ids);
  const NgramShape shape{
      q.tokens, n, buckets, ids.data<int32_t>(), q.sequence_of.data<int32_t>(), q.offsets.data<int32_t>()};
  on_device(
      ids.context(), "ngram_rows", [&] { cpu::ngram_rows(shape, row.data<int32_t>()); },
      [&](auto& cuda) { cuda::ngram_rows(shape, row.data<int32_t>(), cuda.stream); });
  return row;
}

namespace cpu {

void ngram_rows(const NgramShape& s, int32_t* row) {
  parallel_for(s.rows, 1024, [=](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) row[t] = ngram_row(s, t);
  });
}

}  // namespace cpu
}  // namespace glia
