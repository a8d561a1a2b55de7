// CUDA products through cuBLASLt. Row-major C = op(A) op(B) is column-major Cᵀ = op(B)ᵀ op(A)ᵀ, so the operands change
// places. The algorithm that the heuristic names for a shape is kept with the device's handles.
#include <cublasLt.h>
#include <cublas_v2.h>

#include <map>
#include <tuple>
#include <type_traits>

#include "engine/device/cuda/launch.cuh"
#include "engine/ops/products/matmul_kernels.h"

namespace glia::cuda {
namespace {

#define BLAS_CHECK(call)                                                                                        \
  do {                                                                                                          \
    const cublasStatus_t status_ = (call);                                                                      \
    if (status_ != CUBLAS_STATUS_SUCCESS) fail_cuda(#call, cublasGetStatusString(status_), __FILE__, __LINE__); \
  } while (0)

template <class T>
constexpr cudaDataType_t kType = std::is_same_v<T, float>    ? CUDA_R_32F
                                 : std::is_same_v<T, double> ? CUDA_R_64F
                                                             : CUDA_R_16BF;

struct Plan {
  cublasLtMatmulDesc_t product = nullptr;
  cublasLtMatrixLayout_t left = nullptr, right = nullptr, result = nullptr;
  cublasLtMatmulAlgo_t algorithm{};
  ~Plan() {
    cublasLtMatrixLayoutDestroy(left);
    cublasLtMatrixLayoutDestroy(right);
    cublasLtMatrixLayoutDestroy(result);
    cublasLtMatmulDescDestroy(product);
  }
};

using Key = std::tuple<int64_t, int64_t, int64_t, bool, bool, int64_t, int, int, bool, uint32_t>;
using Plans = std::map<Key, Plan>;

uint32_t alignment_of(std::initializer_list<const void*> pointers) {
  uintptr_t bits = 256;
  for (const void* p : pointers) bits |= reinterpret_cast<uintptr_t>(p);
  return static_cast<uint32_t>(bits & (~bits + 1));
}

cublasLtMatrixLayout_t make_layout(cudaDataType_t type, int64_t rows, int64_t columns, int64_t batch,
                                   int64_t stride) {
  cublasLtMatrixLayout_t layout = nullptr;
  BLAS_CHECK(cublasLtMatrixLayoutCreate(&layout, type, rows, columns, rows));
  const int32_t count = static_cast<int32_t>(batch);
  BLAS_CHECK(cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count));
  BLAS_CHECK(cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride,
                                              sizeof stride));
  return layout;
}

template <class T, class C>
void make_plan(Plan& plan, CudaHandles& cuda, const GemmShape& s, bool bias, uint32_t alignment) {
  const bool wide = std::is_same_v<T, double>;
  const cublasComputeType_t compute = wide ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F;
  BLAS_CHECK(cublasLtMatmulDescCreate(&plan.product, compute, wide ? CUDA_R_64F : CUDA_R_32F));
  const cublasOperation_t op_left = s.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N,
                          op_right = s.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
  BLAS_CHECK(cublasLtMatmulDescSetAttribute(plan.product, CUBLASLT_MATMUL_DESC_TRANSA, &op_left, sizeof op_left));
  BLAS_CHECK(cublasLtMatmulDescSetAttribute(plan.product, CUBLASLT_MATMUL_DESC_TRANSB, &op_right, sizeof op_right));
  if (bias) {
    const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    const cudaDataType_t type = kType<C>;
    BLAS_CHECK(
        cublasLtMatmulDescSetAttribute(plan.product, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &type, sizeof type));
    BLAS_CHECK(
        cublasLtMatmulDescSetAttribute(plan.product, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue));
  }
  plan.left = s.transpose_b ? make_layout(kType<T>, s.k, s.n, s.batch, s.stride_b)
                            : make_layout(kType<T>, s.n, s.k, s.batch, s.stride_b);
  plan.right = s.transpose_a ? make_layout(kType<T>, s.m, s.k, s.batch, s.stride_a)
                             : make_layout(kType<T>, s.k, s.m, s.batch, s.stride_a);
  plan.result = make_layout(kType<C>, s.n, s.m, s.batch, s.stride_c);

  cublasLtMatmulPreference_t preference = nullptr;
  BLAS_CHECK(cublasLtMatmulPreferenceCreate(&preference));
  const uint64_t workspace = cuda.workspace_bytes;
  BLAS_CHECK(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                                  sizeof workspace));
  for (const auto attribute :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
    BLAS_CHECK(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &alignment, sizeof alignment));
  cublasLtMatmulHeuristicResult_t found{};
  int count = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      cuda.blas_lt, plan.product, plan.left, plan.right, plan.result, plan.result, preference, 1, &found, &count);
  cublasLtMatmulPreferenceDestroy(preference);
  BLAS_CHECK(status);
  if (count == 0) fail_cuda("cublasLtMatmulAlgoGetHeuristic", "no algorithm for this product", __FILE__, __LINE__);
  plan.algorithm = found.algo;
}

}  // namespace

template <class T, class C>
void gemm(CudaHandles& cuda, const GemmShape& s, const T* a, const T* b, C* c, const C* bias, bool add) {
  if (s.m == 0 || s.n == 0 || s.batch == 0) return;
  const int64_t elements = s.batch == 1 ? s.m * s.n : 0;
  if (s.k == 0) {
    for_each("matmul/empty", s.m * s.n * s.batch, cuda.stream,
             [=] __device__(int64_t i) { c[i] = add ? c[i] : static_cast<C>(0.0f); });
  } else {
    // cuBLASLt adds a bias to products of bfloat16 only; the other types get a pass of their own.
    const bool fused = bias && std::is_same_v<T, bfloat16>;
    if (!cuda.gemm_plans) cuda.gemm_plans = std::make_shared<Plans>();
    auto& plans = *static_cast<Plans*>(cuda.gemm_plans.get());
    const uint32_t alignment = alignment_of({a, b, c});
    const auto [entry, is_new] = plans.try_emplace(
        Key{s.m, s.n, s.k, s.transpose_a, s.transpose_b, s.batch, kType<T>, kType<C>, fused, alignment});
    Plan& plan = entry->second;
    if (is_new) {
      try {
        make_plan<T, C>(plan, cuda, s, fused, alignment);
      } catch (...) {
        plans.erase(entry);
        throw;
      }
    }
    if (fused)
      BLAS_CHECK(
          cublasLtMatmulDescSetAttribute(plan.product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias));
    const double one_double = 1, kept_double = add;
    const float one_float = 1, kept_float = add;
    const void* one = std::is_same_v<T, double> ? static_cast<const void*>(&one_double) : &one_float;
    const void* kept = std::is_same_v<T, double> ? static_cast<const void*>(&kept_double) : &kept_float;
    BLAS_CHECK(cublasLtMatmul(cuda.blas_lt, plan.product, one, b, plan.left, a, plan.right, kept, c, plan.result, c,
                              plan.result, &plan.algorithm, cuda.workspace, cuda.workspace_bytes, cuda.stream));
    if (fused) return;
  }
  if (bias) {
    using A = Accumulator<T>;
    const int64_t n = s.n;
    for_each("matmul/bias", elements, cuda.stream, [=] __device__(int64_t i) {
      c[i] = static_cast<C>(static_cast<A>(c[i]) + static_cast<A>(bias[i % n]));
    });
  }
}

template void gemm(CudaHandles&, const GemmShape&, const float*, const float*, float*, const float*, bool);
template void gemm(CudaHandles&, const GemmShape&, const double*, const double*, double*, const double*, bool);
template void gemm(CudaHandles&, const GemmShape&, const bfloat16*, const bfloat16*, bfloat16*, const bfloat16*,
                   bool);
template void gemm(CudaHandles&, const GemmShape&, const bfloat16*, const bfloat16*, float*, const float*, bool);

}  // namespace glia::cuda
