// What the attention harness checks and times: cases on the host, plain attention, and the kernels on guarded arrays.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "engine/device/cuda/check.h"
#include "engine/ops/attention/attention_kernels.h"

namespace glia::harness {

constexpr int kGuard = 64;  // elements before and after every output
inline int failures = 0;

template <class T> class DeviceArray {
 public:
  explicit DeviceArray(size_t n) : n_(n) { CUDA_CHECK(cudaMalloc(&p_, std::max<size_t>(n, 1) * sizeof(T))); }
  explicit DeviceArray(const std::vector<T>& v) : DeviceArray(v.size()) { set(v); }
  DeviceArray(DeviceArray&& o) noexcept : p_(o.p_), n_(o.n_) { o.p_ = nullptr; }
  ~DeviceArray() { cudaFree(p_); }
  T* get() const { return p_; }
  void set(const std::vector<T>& v) {
    CUDA_CHECK(cudaMemcpy(p_, v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice));
  }
  void poison() { CUDA_CHECK(cudaMemset(p_, 0xff, n_ * sizeof(T))); }  // NaN in every floating type
  std::vector<T> host() const {
    std::vector<T> v(n_);
    CUDA_CHECK(cudaMemcpy(v.data(), p_, n_ * sizeof(T), cudaMemcpyDeviceToHost));
    return v;
  }

 private:
  T* p_ = nullptr;
  size_t n_;
};

struct Shape {
  const char* name;
  std::vector<int> lengths;
  int heads, d;
  bool causal, short_keys;
  double dropout;
  int tail = 37;
  bool general = false;  // the general kernels even where the tensor cores could
};

template <class T> struct Case {
  std::vector<int32_t> offsets{0}, key_lengths;
  uint32_t step = 11;
  AttentionArgs args;  // host pointers
  std::vector<T> qkv, dout;

  explicit Case(const Shape& s) {
    for (size_t i = 0; i < s.lengths.size(); ++i) {
      const int n = s.lengths[i];
      offsets.push_back(offsets.back() + n), args.max_length = std::max(args.max_length, n);
      key_lengths.push_back(i % 7 == 6 ? 0 : i % 3 == 0 ? n : std::max(1, n - 1 - static_cast<int>(i * 5 % 23)));
    }
    args.rows = offsets.back() + s.tail, args.sequences = static_cast<int>(s.lengths.size());
    args.heads = s.heads, args.head_size = s.d, args.causal = s.causal, args.dropout = s.dropout;
    args.key = {.seed = 0x1234567890ull, .purpose = purpose::kTest + 5, .step = &step};
    args.offsets = offsets.data(), args.key_lengths = s.short_keys ? key_lengths.data() : nullptr;
    fill(qkv, 3 * args.hidden(), 0), fill(dout, args.hidden(), 1);
  }
  Case(const Case&) = delete;

  void fill(std::vector<T>& x, int64_t width, uint32_t salt) {
    x.resize(args.rows * width);
    const size_t live = offsets.back() * width;
#pragma omp parallel for
    for (size_t i = 0; i < x.size(); ++i) {
      x[i] = i < live ? static_cast<T>(random_normal(9, purpose::kTest, salt, i) * 1.5) : static_cast<T>(NAN);
    }
  }
};

// Plain attention in dtype T: sums in the accumulator type, every op's result rounded to T.
template <class T> void plain(const Case<T>& c, std::vector<double>& out, std::vector<double>& dqkv) {
  using F = Accumulator<T>;
  const AttentionArgs& a = c.args;
  const int64_t h = a.hidden(), d = a.head_size;
  const auto round = [](F x) { return static_cast<F>(static_cast<T>(x)); };
  out.assign(a.rows * h, 0), dqkv.assign(3 * a.rows * h, 0);
#pragma omp parallel for schedule(dynamic)
  for (int task = 0; task < a.sequences * a.heads; ++task) {
    const int b = task / a.heads, head = task % a.heads;
    const int64_t start = a.offsets[b], n = a.offsets[b + 1] - start, keys = a.key_lengths ? a.key_lengths[b] : n;
    const auto q = [&](int64_t i, int part, int64_t x) {
      return static_cast<F>(c.qkv[(start + i) * 3 * h + part * h + head * d + x]);
    };
    const auto g = [&](int64_t i, int64_t x) { return static_cast<F>(c.dout[(start + i) * h + head * d + x]); };
    std::vector<F> p(n * n), m(n * n), ds(n * n);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t seen = a.causal ? std::min(keys, i + 1) : keys;
      F top = -std::numeric_limits<F>::infinity(), sum = 0, delta = 0;
      for (int64_t j = 0; j < seen; ++j) {
        F s = 0;
        for (int64_t x = 0; x < d; ++x) s += q(i, 0, x) * q(j, 1, x);
        p[i * n + j] = round(round(s) / std::sqrt(static_cast<F>(d)));
        top = std::max(top, p[i * n + j]);
        const uint64_t element = (static_cast<uint64_t>(start + i) * a.heads + head) * 1024 + j;
        const bool keep =
            random_bits(a.key.seed, a.key.purpose, *a.key.step, element) >= bernoulli_threshold(a.dropout);
        m[i * n + j] = a.dropout > 0 ? (keep ? static_cast<F>(1 / (1 - a.dropout)) : F(0)) : F(1);
      }
      for (int64_t j = 0; j < seen; ++j) sum += p[i * n + j] = std::exp(p[i * n + j] - top);
      for (int64_t j = 0; j < seen; ++j) {
        p[i * n + j] = round(p[i * n + j] / sum);
        F dp = 0;
        for (int64_t x = 0; x < d; ++x) dp += g(i, x) * q(j, 2, x);
        ds[i * n + j] = round(round(dp) * m[i * n + j]);
        delta += p[i * n + j] * ds[i * n + j];
      }
      for (int64_t j = 0; j < seen; ++j) {
        ds[i * n + j] = round(round(p[i * n + j] * (ds[i * n + j] - delta)) / std::sqrt(static_cast<F>(d)));
        m[i * n + j] = round(p[i * n + j] * m[i * n + j]);  // from here on P ∘ M
      }
      for (int64_t x = 0; x < d; ++x) {
        F o = 0, dq = 0;
        for (int64_t j = 0; j < seen; ++j) o += m[i * n + j] * q(j, 2, x), dq += ds[i * n + j] * q(j, 1, x);
        out[(start + i) * h + head * d + x] = static_cast<double>(round(o));
        dqkv[(start + i) * 3 * h + head * d + x] = static_cast<double>(round(dq));
      }
    }
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t x = 0; x < d; ++x) {
        F dk = 0, dv = 0;
        for (int64_t i = 0; i < n; ++i) dk += ds[i * n + j] * q(i, 0, x), dv += m[i * n + j] * g(i, x);
        dqkv[(start + j) * 3 * h + h + head * d + x] = static_cast<double>(round(dk));
        dqkv[(start + j) * 3 * h + 2 * h + head * d + x] = static_cast<double>(round(dv));
      }
    }
  }
}

struct Error {
  double relative = 0, largest = 0;  // ‖x − y‖ / ‖y‖ and max |x − y|
};
// Columns [from, to) of rows of `width`; x starts after its guard. NaN makes the error NaN, which no comparison
// passes.
template <class T>
Error error_of(const T* x, const std::vector<double>& y, int64_t rows, int64_t width, int64_t from, int64_t to) {
  double difference = 0, norm = 0, largest = 0;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = r * width + from; i < r * width + to; ++i) {
      const double a = static_cast<double>(x[i]);
      if (std::isinf(y[i]) && a == y[i]) continue;
      difference += (a - y[i]) * (a - y[i]), norm += y[i] * y[i];
      largest = std::abs(a - y[i]) > largest || std::isnan(a) ? std::abs(a - y[i]) : largest;
    }
  }
  return {std::sqrt(difference / std::max(norm, 1e-300)), largest};
}

template <class T> std::vector<double> in_double(const std::vector<T>& x) {
  std::vector<double> y(x.size());
  for (size_t i = 0; i < x.size(); ++i) y[i] = static_cast<double>(x[i]);
  return y;
}

inline void expect(bool ok, const char* name, const char* what) {
  if (!ok) std::printf("  FAILED %s: %s\n", name, what), ++failures;
}

template <class T> struct Run {
  std::vector<T> out, dqkv;  // with guards
  std::vector<Accumulator<T>> lse;
};

// Device copies of a case, with guarded, poisoned outputs.
template <class T> struct Device {
  using F = Accumulator<T>;
  const Case<T>& c;
  bool general;
  bool keeps = false;  // as the fused op calls it: forward leaves its dropout bits, backward column sums
  DeviceArray<int32_t> offsets, key_lengths;
  DeviceArray<uint32_t> step, kept;
  DeviceArray<T> qkv, dout, out, dqkv;
  DeviceArray<F> lse;
  DeviceArray<float> sums;
  DeviceArray<char> workspace;
  AttentionArgs args;

  Device(const Case<T>& c, bool general)
      : c(c),
        general(general),
        offsets(c.offsets),
        key_lengths(c.key_lengths),
        step(std::vector<uint32_t>{c.step}),
        kept(static_cast<size_t>(c.args.rows) * c.args.heads * cuda::attention_kept_words(c.args)),
        qkv(c.qkv),
        dout(c.dout),
        out(c.dout.size() + 2 * kGuard),
        dqkv(c.qkv.size() + 2 * kGuard),
        lse(static_cast<size_t>(c.args.rows) * c.args.heads + 2 * kGuard),
        sums(static_cast<size_t>(c.args.sequences) * cuda::attention_sum_rows(c.args) * 3 * c.args.hidden()),
        workspace(static_cast<size_t>(c.args.rows) * c.args.heads * sizeof(F)),
        args(c.args) {
    args.offsets = offsets.get(), args.key.step = step.get();
    if (c.args.key_lengths) args.key_lengths = key_lengths.get();
  }
  void forward(cudaStream_t stream) {
    T* o = out.get() + kGuard;
    F* l = lse.get() + kGuard;
    if (general) return cuda::attention_forward_general<T>(args, qkv.get(), o, l, stream);
    if constexpr (sizeof(T) == 2) {
      if (keeps) return cuda::attention_forward_tensor(args, qkv.get(), o, l, kept.get(), stream);
    }
    cuda::attention_forward<T>(args, qkv.get(), o, l, stream);
  }
  void backward(cudaStream_t stream) {
    T *o = out.get() + kGuard, *dq = dqkv.get() + kGuard;
    F* l = lse.get() + kGuard;
    if (general)
      return cuda::attention_backward_general<T>(args, qkv.get(), o, l, dout.get(), dq,
                                                 reinterpret_cast<F*>(workspace.get()), stream);
    if constexpr (sizeof(T) == 2) {
      if (keeps)
        return cuda::attention_backward_tensor(args, qkv.get(), o, l, kept.get(), dout.get(), dq, sums.get(),
                                               reinterpret_cast<float*>(workspace.get()), stream);
    }
    cuda::attention_backward<T>(args, qkv.get(), o, l, dout.get(), dq, workspace.get(), stream);
  }
  void launch(cudaStream_t stream) { forward(stream), backward(stream); }
  Run<T> run() {
    out.poison(), dqkv.poison(), lse.poison(), workspace.poison(), kept.poison(), sums.poison();
    launch(nullptr);
    CUDA_CHECK(cudaDeviceSynchronize());
    return {out.host(), dqkv.host(), lse.host()};
  }
};

template <class T> bool guards_hold(const std::vector<T>& x) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(x.data());
  const size_t n = x.size() * sizeof(T), guard = kGuard * sizeof(T);
  for (size_t i = 0; i < guard; ++i) {
    if (bytes[i] != 0xff || bytes[n - 1 - i] != 0xff) return false;
  }
  return true;
}
template <class T> bool same_bits(const std::vector<T>& x, const std::vector<T>& y, size_t from, size_t count) {
  return std::memcmp(x.data() + from, y.data() + from, count * sizeof(T)) == 0;
}

}  // namespace glia::harness
