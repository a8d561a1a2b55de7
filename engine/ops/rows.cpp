#include "engine/ops/rows.h"

#include <limits>
#include <numeric>
#include <vector>

#include "engine/core/parallel.h"
#include "engine/ops/checks.h"
#include "engine/ops/rows_kernels.h"

namespace glia {
namespace {

// The pairs of types that rows are moved between: a type and itself, bfloat16 and its float32 master.
template <class F>
void dispatch_pair(const char* op, DType from, DType to, F&& f) {
  const auto both_bfloat16 = [](DType a, DType b) { return a == DType::kFloat32 && b == DType::kBFloat16; };
  if (both_bfloat16(from, to)) return f(TypeTag<float>{}, TypeTag<bfloat16>{});
  if (both_bfloat16(to, from)) return f(TypeTag<bfloat16>{}, TypeTag<float>{});
  CHECK(from == to, "{}: {} rows cannot become {}; wants the same dtype, or bfloat16 with float32", op, from, to);
  dispatch_floating(from, op, [&](auto tag) { f(tag, tag); });
}

void gather_into(const char* op, const Tensor& x, const Tensor& index, const Tensor& y) {
  const int64_t h = x.size(0) ? x.numel() / x.size(0) : 0;
  dispatch_pair(op, x.dtype(), y.dtype(), [&]<class T, class Out>(TypeTag<T>, TypeTag<Out>) {
    const int32_t* i = index.data<int32_t>();
    on_device(x.context(), op, [&] { cpu::gather_rows(x.data<T>(), i, y.data<Out>(), x.size(0), y.size(0), h); },
              [&](auto& cuda) { cuda::gather_rows(x.data<T>(), i, y.data<Out>(), x.size(0), y.size(0), h, cuda.stream); });
  });
}

void scatter_into(const char* op, const Tensor& x, const Tensor& index, const Tensor& y) {
  const int64_t rows = x.size(0), n = y.size(0), h = n ? y.numel() / n : 0;
  dispatch_pair(op, x.dtype(), y.dtype(), [&]<class T, class Out>(TypeTag<T>, TypeTag<Out>) {
    const int32_t* i = index.data<int32_t>();
    on_device(x.context(), op, [&] { cpu::scatter_rows(x.data<T>(), i, y.data<Out>(), n, rows, h); },
              [&](auto& cuda) {
                using A = Accumulator<T>;
                Context& context = x.context();
                const int64_t bytes = cuda::sort_workspace(rows, n);
                const int64_t chunks = (rows + cuda::kScatterChunk - 1) / cuda::kScatterChunk;
                Tensor keys = empty(context, {rows}, DType::kInt32), order = empty_like(keys);
                Tensor workspace = empty(context, {(bytes + 3) / 4}, DType::kInt32);
                Tensor partial = empty(context, {chunks, 2, h}, accumulation_dtype(x.dtype()));
                cuda::sort_by_index(i, keys.data<int32_t>(), order.data<int32_t>(), rows, n, workspace.raw(), cuda.stream);
                Tensor(y).zero();
                cuda::scatter_rows(x.data<T>(), keys.data<int32_t>(), order.data<int32_t>(), partial.data<A>(), y.data<Out>(), n,
                                   rows, h, cuda.stream);
              });
  });
}

// y[m] = x[index[m]];  dx[n] = Σ_{m: index[m] = n} dy[m].
Var gather(const char* op, const Var& x, const Tensor& index, DType dtype) {
  CHECK(index.rank() == 1, "{}: wants indices int32 [M], got {} {}", op, index.dtype(), index.shape());
  check_index(op, "indices", index, {index.size(0)}, x.context());
  Tensor y = empty(x.context(), x.shape().with(0, index.size(0)), dtype);
  gather_into(op, x.value(), index, y);
  return record(op, y, {x}, [op, index](const Tensor& dy, Grads& in) {
    Tensor dx = in.buffer(0);
    scatter_into(op, dy, index, dx);
    in.add(0, dx);
  });
}

}  // namespace

Var gather_rows(const Var& x, const Tensor& index) {
  CHECK(x.rank() >= 1, "gather_rows: wants x [N, ..], got {}", x.shape());
  return gather("gather_rows", x, index, x.dtype());
}

Var embedding(const Var& table, const Tensor& ids, DType dtype) {
  CHECK(table.rank() == 2, "embedding: wants a table [V, H], got {}", table.shape());
  return gather("embedding", table, ids, dtype);
}

// y[offsets[b] + p] = table[p];  dtable[p] = Σ_b dy[offsets[b] + p].
Var position_embedding(const Var& table, const Sequences& s, DType dtype) {
  CHECK(table.rank() == 2, "position_embedding: wants a table [P, H], got {}", table.shape());
  const int64_t n = table.size(0), h = table.size(1);
  Tensor y = empty(table.context(), {s.tokens, h}, dtype);
  dispatch_pair("position_embedding", table.dtype(), dtype, [&]<class T, class Out>(TypeTag<T>, TypeTag<Out>) {
    const int32_t *of = s.sequence_of.data<int32_t>(), *offsets = s.offsets.data<int32_t>();
    const T* from = table.value().data<T>();
    on_device(table.context(), "position_embedding",
              [&] { cpu::position_rows(from, of, offsets, y.data<Out>(), n, s.tokens, h); },
              [&](auto& cuda) { cuda::position_rows(from, of, offsets, y.data<Out>(), n, s.tokens, h, cuda.stream); });
  });
  return record("position_embedding", y, {table}, [s, n, h](const Tensor& dy, Grads& in) {
    Tensor dx = in.buffer(0);
    dispatch_pair("position_embedding", dy.dtype(), dx.dtype(), [&]<class T, class Out>(TypeTag<T>, TypeTag<Out>) {
      const int32_t* offsets = s.offsets.data<int32_t>();
      on_device(dy.context(), "position_embedding/gradient",
                [&] { cpu::position_sums(dy.data<T>(), offsets, dx.data<Out>(), n, s.count, s.max_length, h); },
                [&](auto& cuda) {
                  cuda::position_sums(dy.data<T>(), offsets, dx.data<Out>(), n, s.count, s.max_length, h, cuda.stream);
                });
    });
    in.add(0, dx);
  });
}

// y[n] = Σ_{m: index[m] = n} x[m];  dx[m] = dy[index[m]].
Var scatter_rows(const Var& x, const Tensor& index, int64_t rows) {
  CHECK(x.rank() >= 1 && rows >= 0, "scatter_rows: wants x [M, ..] and rows >= 0, got {} and {}", x.shape(), rows);
  check_index("scatter_rows", "indices", index, {x.size(0)}, x.context());
  Tensor y = empty(x.context(), x.shape().with(0, rows), x.dtype());
  scatter_into("scatter_rows", x.value(), index, y);
  return record("scatter_rows", y, {x}, [index](const Tensor& dy, Grads& in) {
    Tensor dx = in.buffer(0);
    gather_into("scatter_rows", dy, index, dx);
    in.add(0, dx);
  });
}

namespace cpu {

template <class T, class Out>
void gather_rows(const T* x, const int32_t* index, Out* y, int64_t n, int64_t rows, int64_t h) {
  using A = Accumulator<T>;
  parallel_for(rows, std::max<int64_t>(1, (1 << 14) / std::max<int64_t>(1, h)), [=](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
      const int64_t i = index[m];
      Out* to = y + m * h;
      if (i >= 0 && i < n) {
        const T* from = x + i * h;
#pragma GCC ivdep
        for (int64_t j = 0; j < h; ++j) to[j] = static_cast<Out>(static_cast<A>(from[j]));
      } else {
        std::fill(to, to + h, static_cast<Out>(i == -1 ? 0.0f : std::numeric_limits<float>::quiet_NaN()));
      }
    }
  });
}

template <class T, class Out>
void scatter_rows(const T* x, const int32_t* index, Out* y, int64_t n, int64_t rows, int64_t h) {
  using A = Accumulator<T>;
  // A counting sort: members of target i are order[start[i]] … order[start[i + 1] − 1], ascending.
  std::vector<int32_t> start(static_cast<size_t>(n) + 1, 0), order(static_cast<size_t>(rows));
  for (int64_t m = 0; m < rows; ++m)
    if (index[m] >= 0 && index[m] < n) ++start[index[m] + 1];
  std::partial_sum(start.begin(), start.end(), start.begin());
  std::vector<int32_t> next(start.begin(), start.end() - 1);
  for (int64_t m = 0; m < rows; ++m)
    if (index[m] >= 0 && index[m] < n) order[next[index[m]]++] = static_cast<int32_t>(m);
  parallel_for(n, std::max<int64_t>(1, (1 << 13) / std::max<int64_t>(1, h)), [&, h](int64_t begin, int64_t end) {
    std::vector<A> sum(static_cast<size_t>(h));
    for (int64_t i = begin; i < end; ++i) {
      Out* to = y + i * h;
      if (start[i] == start[i + 1]) {
        std::fill(to, to + h, static_cast<Out>(0.0f));
        continue;
      }
      std::fill(sum.begin(), sum.end(), A{0});
      A* s = sum.data();
      for (int32_t k = start[i]; k < start[i + 1]; ++k) {
        const T* from = x + order[k] * h;
#pragma GCC ivdep
        for (int64_t j = 0; j < h; ++j) s[j] += static_cast<A>(from[j]);
      }
      for (int64_t j = 0; j < h; ++j) to[j] = static_cast<Out>(s[j]);
    }
  });
}

template <class T, class Out>
void position_rows(const T* table, const int32_t* sequence_of, const int32_t* offsets, Out* y, int64_t n, int64_t tokens, int64_t h) {
  using A = Accumulator<T>;
  parallel_for(tokens, std::max<int64_t>(1, (1 << 14) / std::max<int64_t>(1, h)), [=](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t b = sequence_of[t], p = b < 0 ? -1 : t - offsets[b];
      Out* to = y + t * h;
      if (p < 0 || p >= n) {
        std::fill(to, to + h, static_cast<Out>(p < 0 ? 0.0f : std::numeric_limits<float>::quiet_NaN()));
        continue;
      }
      const T* from = table + p * h;
#pragma GCC ivdep
      for (int64_t j = 0; j < h; ++j) to[j] = static_cast<Out>(static_cast<A>(from[j]));
    }
  });
}

template <class T, class Out>
void position_sums(const T* dy, const int32_t* offsets, Out* dtable, int64_t n, int64_t sequences, int64_t longest, int64_t h) {
  using A = Accumulator<T>;
  parallel_for(n, 1, [=](int64_t begin, int64_t end) {
    std::vector<A> sum(static_cast<size_t>(h));
    for (int64_t p = begin; p < end; ++p) {
      A* s = sum.data();
      std::fill(s, s + h, A{0});
      for (int64_t b = 0; b < sequences && p < longest; ++b) {
        const int64_t t = offsets[b] + p;
        if (t >= offsets[b + 1]) continue;
        const T* from = dy + t * h;
#pragma GCC ivdep
        for (int64_t j = 0; j < h; ++j) s[j] += static_cast<A>(from[j]);
      }
      for (int64_t j = 0; j < h; ++j) dtable[p * h + j] = static_cast<Out>(s[j]);
    }
  });
}

#define INSTANTIATE(T, Out)                                                                     \
  template void gather_rows(const T*, const int32_t*, Out*, int64_t, int64_t, int64_t);         \
  template void scatter_rows(const T*, const int32_t*, Out*, int64_t, int64_t, int64_t);        \
  template void position_rows(const T*, const int32_t*, const int32_t*, Out*, int64_t, int64_t, int64_t); \
  template void position_sums(const T*, const int32_t*, Out*, int64_t, int64_t, int64_t, int64_t);
INSTANTIATE(float, float)
INSTANTIATE(double, double)
INSTANTIATE(bfloat16, bfloat16)
INSTANTIATE(float, bfloat16)
INSTANTIATE(bfloat16, float)
#undef INSTANTIATE

}  // namespace cpu
}  // namespace glia
