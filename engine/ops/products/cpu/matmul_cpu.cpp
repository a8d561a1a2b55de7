// CPU products: oneDNN for float32 and bfloat16; float64 (gradient checks) and builds without oneDNN take a plain
// blocked kernel of our own.
#include <algorithm>
#include <vector>

#include "engine/core/check.h"
#include "engine/core/parallel.h"
#include "engine/device/cpu_threads.h"
#include "engine/ops/products/matmul_kernels.h"
#include "engine/ops/products/rows_apart.h"
#if GLIA_ONEDNN
#include <oneapi/dnnl/dnnl.h>
#include <oneapi/dnnl/dnnl.hpp>
#endif

namespace glia {

int& RowsApart::depth() {
  thread_local int depth = 0;
  return depth;
}

namespace cpu {
namespace {

// op(x) as an accumulator-typed [rows, columns] array.
template <class T> std::vector<Accumulator<T>> unpack(const T* x, int64_t rows, int64_t columns, bool transposed) {
  std::vector<Accumulator<T>> y(static_cast<size_t>(rows * columns));
  parallel_for(rows, std::max<int64_t>(1, 16384 / std::max<int64_t>(columns, 1)), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      for (int64_t j = 0; j < columns; ++j)
        y[i * columns + j] = static_cast<Accumulator<T>>(transposed ? x[j * rows + i] : x[i * columns + j]);
  });
  return y;
}

template <class T, class C> void gemm_plain(const GemmShape& s, const T* a, const T* b, C* c, const T* bias) {
  using Acc = Accumulator<T>;
  const std::vector<Acc> left = unpack(a, s.m, s.k, s.transpose_a), right = unpack(b, s.k, s.n, s.transpose_b);
  constexpr int64_t kRows = 4;  // rows that share a pass over op(B)
  parallel_for((s.m + kRows - 1) / kRows, 4, [&](int64_t begin, int64_t end) {
    std::vector<Acc> sums(static_cast<size_t>(kRows * s.n));
    for (int64_t block = begin; block < end; ++block) {
      const int64_t first = block * kRows, rows = std::min(kRows, s.m - first);
      std::fill(sums.begin(), sums.end(), Acc{0});
      for (int64_t k = 0; k < s.k; ++k)
        for (int64_t r = 0; r < rows; ++r) {
          const Acc x = left[(first + r) * s.k + k];
          const Acc* __restrict from = &right[k * s.n];
          Acc* __restrict to = &sums[r * s.n];
          for (int64_t j = 0; j < s.n; ++j) to[j] += x * from[j];
        }
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t j = 0; j < s.n; ++j)
          c[(first + r) * s.n + j] =
              static_cast<C>(sums[r * s.n + j] + (bias ? static_cast<Acc>(bias[j]) : Acc{0}));
    }
  });
}

#if GLIA_ONEDNN
template <class T>
constexpr auto kType = std::is_same_v<T, float> ? dnnl::memory::data_type::f32 : dnnl::memory::data_type::bf16;

// float32 takes oneDNN's BLAS-like call: as fast as its primitives, and nothing is made for a new shape. (Packed
// batches and groups of rows have new shapes at each step, and a primitive for one costs 0.1 to 0.3 ms, more than a
// small product.)
void gemm_float(const GemmShape& s, const float* a, const float* b, float* c, const float* bias) {
  if (bias)
    parallel_for(s.m, std::max<int64_t>(1, 16384 / s.n), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) std::copy_n(bias, s.n, c + i * s.n);
    });
  const dnnl_status_t status =
      dnnl_sgemm(s.transpose_a ? 'T' : 'N', s.transpose_b ? 'T' : 'N', s.m, s.n, s.k, 1.0f, a,
                 s.transpose_a ? s.m : s.k, b, s.transpose_b ? s.k : s.n, bias ? 1.0f : 0.0f, c, s.n);
  CHECK(status == dnnl_success, "matmul: dnnl_sgemm returned {}", static_cast<int>(status));
}

// Whole, or a row at a time where that is asked for.
void gemm_rows(const GemmShape& s, const float* a, const float* b, float* c, const float* bias) {
  if (!RowsApart::asked() || s.transpose_a) return gemm_float(s, a, b, c, bias);
  GemmShape row = s;
  row.m = 1;
  for (int64_t i = 0; i < s.m; ++i) gemm_float(row, a + i * s.k, b, c + i * s.n, bias);
}

// oneDNN 3 takes what oneDNN 2 wanted in a descriptor of its own.
template <class... Descs>
dnnl::matmul::primitive_desc matmul_of(const dnnl::engine& engine, const Descs&... descs) {
#if DNNL_VERSION_MAJOR >= 3
  return dnnl::matmul::primitive_desc(engine, descs...);
#else
  return dnnl::matmul::primitive_desc(dnnl::matmul::desc(descs...), engine);
#endif
}

// Primitives are cached by oneDNN itself, by shape.
template <class T, class C> void gemm_onednn(const GemmShape& s, const T* a, const T* b, C* c, const T* bias) {
  using dnnl::memory;
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);  // stateless handle of the library
  dnnl::stream stream(engine);
  const memory::desc a_desc({s.m, s.k}, kType<T>, s.transpose_a ? memory::dims{1, s.m} : memory::dims{s.k, 1});
  const memory::desc b_desc({s.k, s.n}, kType<T>, s.transpose_b ? memory::dims{1, s.k} : memory::dims{s.n, 1});
  const memory::desc c_desc({s.m, s.n}, kType<C>, memory::dims{s.n, 1});
  const memory::desc bias_desc({1, s.n}, kType<T>, memory::dims{s.n, 1});
  const dnnl::matmul product(bias ? matmul_of(engine, a_desc, b_desc, bias_desc, c_desc)
                                  : matmul_of(engine, a_desc, b_desc, c_desc));
  std::unordered_map<int, memory> arguments = {{DNNL_ARG_SRC, memory(a_desc, engine, const_cast<T*>(a))},
                                               {DNNL_ARG_WEIGHTS, memory(b_desc, engine, const_cast<T*>(b))},
                                               {DNNL_ARG_DST, memory(c_desc, engine, c)}};
  if (bias) arguments.emplace(DNNL_ARG_BIAS, memory(bias_desc, engine, const_cast<T*>(bias)));
  product.execute(stream, arguments);
  stream.wait();
}
#endif

}  // namespace

template <class T, class C> void gemm(const GemmShape& shape, const T* a, const T* b, C* c, const T* bias) {
  if (shape.m == 0 || shape.n == 0) return;
  for (int64_t i = 0; i < shape.batch; ++i) {
    const T *ai = a + i * shape.stride_a, *bi = b + i * shape.stride_b;
    C* ci = c + i * shape.stride_c;
    if constexpr (!std::is_same_v<T, double>) {
#if GLIA_ONEDNN
      if (shape.k > 0) {
        ask_for_threads_that_come();
        if constexpr (std::is_same_v<T, float> && std::is_same_v<C, float>) gemm_rows(shape, ai, bi, ci, bias);
        else gemm_onednn(shape, ai, bi, ci, bias);
        continue;
      }
#endif
    }
    gemm_plain(shape, ai, bi, ci, bias);
  }
}

template void gemm(const GemmShape&, const float*, const float*, float*, const float*);
template void gemm(const GemmShape&, const double*, const double*, double*, const double*);
template void gemm(const GemmShape&, const bfloat16*, const bfloat16*, bfloat16*, const bfloat16*);
template void gemm(const GemmShape&, const bfloat16*, const bfloat16*, float*, const bfloat16*);

}  // namespace cpu
}  // namespace glia
