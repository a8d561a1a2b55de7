// What the GEMM harness needs besides the kernels under test: device buffers with a sentinel, random data, a float64
// reference, comparison, timing by graph replay, and cuBLAS as the yardstick. Test code: prints and exits on errors.
#pragma once

#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#define CUDA(call)                                                                            \
  do {                                                                                        \
    const cudaError_t e_ = (call);                                                            \
    if (e_ != cudaSuccess) {                                                                  \
      std::printf("ERROR %s:%d %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(e_)); \
      std::fflush(stdout);                                                                    \
      std::_Exit(3);                                                                          \
    }                                                                                         \
  } while (0)
#define BLAS(call)                                                                          \
  do {                                                                                      \
    const cublasStatus_t e_ = (call);                                                       \
    if (e_ != CUBLAS_STATUS_SUCCESS) {                                                      \
      std::printf("ERROR %s:%d %s: %d\n", __FILE__, __LINE__, #call, static_cast<int>(e_)); \
      std::fflush(stdout);                                                                  \
      std::_Exit(3);                                                                        \
    }                                                                                       \
  } while (0)

using bf16 = __nv_bfloat16;

// Device memory filled with 0xff (NaN in every float format) and followed by a sentinel that must survive.
struct Buffer {
  static constexpr size_t kSentinel = 65536;
  uint8_t* data = nullptr;
  size_t bytes = 0;
  Buffer() = default;
  explicit Buffer(size_t n) : bytes(n) {
    CUDA(cudaMalloc(&data, n + kSentinel));
    poison();
  }
  Buffer(Buffer&& o) noexcept : data(o.data), bytes(o.bytes) { o.data = nullptr; }
  Buffer& operator=(Buffer&& o) noexcept {
    std::swap(data, o.data);
    std::swap(bytes, o.bytes);
    return *this;
  }
  ~Buffer() {
    if (data) cudaFree(data);
  }
  void poison() { CUDA(cudaMemset(data, 0xff, bytes + kSentinel)); }
  template <class T> T* as() const { return reinterpret_cast<T*>(data); }
};

__host__ __device__ inline uint32_t mix(uint64_t x) {
  x ^= x >> 31;
  x *= 0x7fb5d329728ea185ull;
  x ^= x >> 27;
  x *= 0x81dadef4bc2dd44dull;
  x ^= x >> 33;
  return static_cast<uint32_t>(x);
}
static __global__ void fill_kernel(bf16* p, float* q, size_t n, uint64_t seed, float scale) {
  for (size_t i = blockIdx.x * 256ull + threadIdx.x; i < n; i += gridDim.x * 256ull) {
    const float u =
        (static_cast<float>(mix(i * 0x9e3779b97f4a7c15ull + seed) >> 8) + 0.5f) * (2.0f / 16777216.0f) - 1.0f;
    if (p) p[i] = __float2bfloat16(u * scale);
    if (q) q[i] = u * scale;
  }
}
inline void fill(bf16* p, size_t n, uint64_t seed, float scale) {
  fill_kernel<<<1024, 256>>>(p, nullptr, n, seed, scale);
}
inline void fill(float* p, size_t n, uint64_t seed, float scale) {
  fill_kernel<<<1024, 256>>>(nullptr, p, n, seed, scale);
}

// c[i, j] = Σ_k a[i·ai + k·ak] b[j·bj + k·bk], float64 sums. Block (32, 32).
static __global__ void reference_kernel(const bf16* a, long long ai, long long ak, const bf16* b, long long bj,
                                        long long bk, double* c, int m, int n, int k) {
  __shared__ float sa[32][33], sb[32][33];
  const int tx = threadIdx.x, ty = threadIdx.y;
  const long long i = blockIdx.y * 32ll + ty, j = blockIdx.x * 32ll + tx;
  double sum = 0;
  for (int k0 = 0; k0 < k; k0 += 32) {
    // Whichever index is contiguous goes along x.
    const bool a_k = ak == 1, b_k = bk == 1;
    {
      const long long r = blockIdx.y * 32ll + (a_k ? ty : tx), kk = k0 + (a_k ? tx : ty);
      const float v = r < m && kk < k ? __bfloat162float(a[r * ai + kk * ak]) : 0.0f;
      (a_k ? sa[ty][tx] : sa[tx][ty]) = v;
    }
    {
      const long long r = blockIdx.x * 32ll + (b_k ? ty : tx), kk = k0 + (b_k ? tx : ty);
      const float v = r < n && kk < k ? __bfloat162float(b[r * bj + kk * bk]) : 0.0f;
      (b_k ? sb[ty][tx] : sb[tx][ty]) = v;
    }
    __syncthreads();
    for (int q = 0; q < 32; ++q) sum += static_cast<double>(sa[ty][q]) * sb[tx][q];
    __syncthreads();
  }
  if (i < m && j < n) c[i * n + j] = sum;
}
inline void reference(const bf16* a, long long ai, long long ak, const bf16* b, long long bj, long long bk,
                      double* c, int m, int n, int k) {
  if (m > 0)
    reference_kernel<<<dim3((n + 31) / 32, (m + 31) / 32), dim3(32, 32)>>>(a, ai, ak, b, bj, bk, c, m, n, k);
}

// What the epilogues do, in the type of the argument: mode 1 adds a bias, 2 also GELU, 3 multiplies by aux.
__device__ inline double gelu_of(double x) { return 0.5 * x * erfc(-x * 0.70710678118654752440); }
__device__ inline double gelu_derivative_of(double x) {
  return 0.5 * erfc(-x * 0.70710678118654752440) + x * 0.3989422804014327 * exp(-0.5 * x * x);
}
template <class T>
__global__ void finish_kernel(T* c, bf16* out, int mode, const float* bias, const float* aux, size_t elements,
                              int n) {
  for (size_t i = blockIdx.x * 256ull + threadIdx.x; i < elements; i += gridDim.x * 256ull) {
    double v = c[i];
    if (mode == 1 || mode == 2) v += bias[i % n];
    if (mode == 2) v = gelu_of(v);
    if (mode == 3) v *= aux[i];
    if (out != nullptr) out[i] = __float2bfloat16(static_cast<float>(v));
    else c[i] = static_cast<T>(v);
  }
}
template <class T>
void finish(T* c, bf16* out, int mode, const float* bias, const float* aux, size_t elements, int n) {
  if (elements > 0) finish_kernel<<<2048, 256>>>(c, out, mode, bias, aux, elements, n);
}

struct Difference {
  double error2 = 0, reference2 = 0, worst = 0;
  unsigned long long bad = 0;  // NaN or infinite
  double relative() const { return reference2 > 0 ? std::sqrt(error2 / reference2) : std::sqrt(error2); }
};
template <class T> __global__ void compare_kernel(const T* out, const double* ref, size_t n, Difference* d) {
  double e2 = 0, r2 = 0, worst = 0;
  unsigned long long bad = 0;
  for (size_t i = blockIdx.x * 256ull + threadIdx.x; i < n; i += gridDim.x * 256ull) {
    const double v = static_cast<double>(static_cast<float>(out[i])), e = v - ref[i];
    if (!isfinite(v)) ++bad;
    else e2 += e * e, worst = fmax(worst, fabs(e));
    r2 += ref[i] * ref[i];
  }
  atomicAdd(&d->error2, e2);
  atomicAdd(&d->reference2, r2);
  atomicAdd(&d->bad, bad);
  atomicMax(reinterpret_cast<unsigned long long*>(&d->worst),
            static_cast<unsigned long long>(__double_as_longlong(worst)));
}
template <class T> Difference compare(const T* out, const double* ref, size_t n) {
  static Difference* d = [] {
    Difference* p = nullptr;
    CUDA(cudaMalloc(&p, sizeof(Difference)));
    return p;
  }();
  Difference h;
  CUDA(cudaMemcpy(d, &h, sizeof h, cudaMemcpyHostToDevice));
  if (n > 0) compare_kernel<<<1024, 256>>>(out, ref, n, d);
  CUDA(cudaMemcpy(&h, d, sizeof h, cudaMemcpyDeviceToHost));
  return h;
}

// Bytes in [begin, end) that differ from b (or from 0xff).
static __global__ void mismatch_kernel(const uint8_t* a, const uint8_t* b, size_t n, unsigned long long* count) {
  unsigned long long c = 0;
  for (size_t i = blockIdx.x * 256ull + threadIdx.x; i < n; i += gridDim.x * 256ull) c += a[i] != (b ? b[i] : 0xff);
  if (c) atomicAdd(count, c);
}
inline unsigned long long mismatches(const uint8_t* a, const uint8_t* b, size_t n) {
  static unsigned long long* d = [] {
    unsigned long long* p = nullptr;
    CUDA(cudaMalloc(&p, 8));
    return p;
  }();
  CUDA(cudaMemset(d, 0, 8));
  if (n > 0) mismatch_kernel<<<1024, 256>>>(a, b, n, d);
  unsigned long long h = 0;
  CUDA(cudaMemcpy(&h, d, 8, cudaMemcpyDeviceToHost));
  return h;
}

// Milliseconds of each of `replays` replays of what body() puts on the stream, after `warm` that do not count; seen()
// follows each one that does.
inline std::vector<float> time_replays(
    cudaStream_t stream, const std::function<void()>& body, int warm, int replays,
    const std::function<void()>& seen = [] {}) {
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  body();
  CUDA(cudaStreamEndCapture(stream, &graph));
  CUDA(cudaGraphInstantiate(&exec, graph, 0));
  cudaEvent_t a, b;
  CUDA(cudaEventCreate(&a));
  CUDA(cudaEventCreate(&b));
  std::vector<float> times;
  for (int i = 0; i < warm + replays; ++i) {
    CUDA(cudaEventRecord(a, stream));
    CUDA(cudaGraphLaunch(exec, stream));
    CUDA(cudaEventRecord(b, stream));
    CUDA(cudaEventSynchronize(b));
    if (i < warm) continue;
    times.emplace_back();
    CUDA(cudaEventElapsedTime(&times.back(), a, b));
    seen();
  }
  CUDA(cudaEventDestroy(a));
  CUDA(cudaEventDestroy(b));
  CUDA(cudaGraphExecDestroy(exec));
  CUDA(cudaGraphDestroy(graph));
  return times;
}
inline float median(std::vector<float> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

// Median microseconds of one call: `count` calls with rotating buffer sets captured in a graph, replayed.
inline double time_graph(cudaStream_t stream, const std::function<void(int)>& call, int sets, int count = 12,
                         int replays = 21) {
  for (int i = 0; i < sets; ++i) call(i);
  CUDA(cudaStreamSynchronize(stream));
  const auto body = [&] {
    for (int i = 0; i < count; ++i) call(i % sets);
  };
  return median(time_replays(stream, body, 3, replays)) * 1000.0 / count;
}

struct Blas {
  cublasHandle_t handle = nullptr;
  void* workspace = nullptr;
  explicit Blas(cudaStream_t stream) {
    BLAS(cublasCreate(&handle));
    BLAS(cublasSetStream(handle, stream));
    CUDA(cudaMalloc(&workspace, 64 << 20));
    BLAS(cublasSetWorkspace(handle, workspace, 64 << 20));
  }
  // Row-major c[m, n] = op(a) op(b); transposed a is stored [k, m], transposed b [n, k].
  void gemm(bool ta, bool tb, int m, int n, int k, const void* a, const void* b, void* c, bool c_float) const {
    if (m == 0 || k == 0) return;
    const float one = 1, zero = 0;
    BLAS(cublasGemmEx(handle, tb ? CUBLAS_OP_T : CUBLAS_OP_N, ta ? CUBLAS_OP_T : CUBLAS_OP_N, n, m, k, &one, b,
                      CUDA_R_16BF, tb ? k : n, a, CUDA_R_16BF, ta ? m : k, &zero, c,
                      c_float ? CUDA_R_32F : CUDA_R_16BF, n, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
  }
};
