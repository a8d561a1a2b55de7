#include "engine/ops/rows/column_sum.h"

#include <vector>

#include "engine/core/parallel.h"
#include "engine/tensor.h"

namespace glia {
namespace {

void run(const Tensor& x, const int32_t* offsets, const Tensor& out, int64_t groups) {
  const int64_t rows = x.size(0), n = x.size(1);
  const auto launch = [&]<class T, class Out>(TypeTag<T>, TypeTag<Out>) {
    on_device(
        x.context(), "column_sum", [&] { cpu::column_sum(x.data<T>(), offsets, out.data<Out>(), rows, n, groups); },
        [&](auto& cuda) {
          constexpr DType kSum = dtype_of<Accumulator<T>>();
          Tensor partial = empty(x.context(), {groups, cuda::kColumnSumChunks, n}, kSum);
          cuda::column_sum(x.data<T>(), offsets, partial.data<Accumulator<T>>(), out.data<Out>(), rows, n, groups,
                           cuda.stream);
        });
  };
  dispatch_floating(x.dtype(), "column_sum", [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (out.dtype() == x.dtype()) launch(tag, tag);
    else launch(tag, TypeTag<Accumulator<T>>{});
  });
}

}  // namespace

void column_sum(const Tensor& x, const Tensor& out) {
  CHECK(x.rank() == 2 && out.shape() == Shape{x.size(1)}, "column_sum: wants x [R, N] and out [N], got {} and {}",
        x.shape(), out.shape());
  run(x, nullptr, out, 1);
}

void grouped_column_sum(const Tensor& x, const Tensor& offsets, const Tensor& out) {
  CHECK(x.rank() == 2 && offsets.rank() == 1 && offsets.size(0) >= 1 &&
            out.shape() == (Shape{offsets.size(0) - 1, x.size(1)}),
        "grouped_column_sum: wants x [R, N], offsets [E + 1] and out [E, N], got {}, {} and {}", x.shape(),
        offsets.shape(), out.shape());
  run(x, offsets.data<int32_t>(), out, out.size(0));
}

namespace cpu {

template <class T, class Out>
void column_sum(const T* x, const int32_t* offsets, Out* out, int64_t rows, int64_t n, int64_t groups) {
  using A = Accumulator<T>;
  constexpr int64_t kChunk = 128;
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t begin = offsets ? offsets[g] : 0, end = offsets ? offsets[g + 1] : rows;
    const int64_t chunks = (end - begin + kChunk - 1) / kChunk;
    std::vector<A> partial(static_cast<size_t>(chunks * n), A{0});
    parallel_for(chunks, 1, [&](int64_t first, int64_t last) {
      for (int64_t c = first; c < last; ++c) {
        A* __restrict sum = &partial[c * n];
        for (int64_t r = begin + c * kChunk; r < std::min(end, begin + (c + 1) * kChunk); ++r) {
          const T* __restrict row = x + r * n;
          for (int64_t j = 0; j < n; ++j) sum[j] += static_cast<A>(row[j]);
        }
      }
    });
    for (int64_t j = 0; j < n; ++j) {
      A total = 0;
      for (int64_t c = 0; c < chunks; ++c) total += partial[c * n + j];
      out[g * n + j] = static_cast<Out>(total);
    }
  }
}

template void column_sum(const float*, const int32_t*, float*, int64_t, int64_t, int64_t);
template void column_sum(const double*, const int32_t*, double*, int64_t, int64_t, int64_t);
template void column_sum(const bfloat16*, const int32_t*, bfloat16*, int64_t, int64_t, int64_t);
template void column_sum(const bfloat16*, const int32_t*, float*, int64_t, int64_t, int64_t);

}  // namespace cpu
}  // namespace glia
