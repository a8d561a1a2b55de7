// The CUDA attention kernels on a GPU, without the rest of Glia: values and gradients against float64 on the CPU
// with the same dropout mask, guards, poisoned tails, bitwise repeats, graph replay, and times at the lengths of AG
// News.
//   tests/device/build_attention.sh && build/device/attention_harness [--references | --check | --time | --brief |
//   --sanitize | --profile]
// The rule: an error may be twice (gradients: three times) that of plain attention that rounds every op's result to
// the dtype.
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "engine/device/cuda/check.h"
#include "engine/ops/attention/attention_kernels.h"

namespace glia {

// The two functions of engine/device/cuda/backend.cpp that kernels need; this program has no Context.
void fail_cuda(const char* what, const char* error, const char* file, int line) {
  std::printf("%s: %s (%s:%d)\n", what, error, file, line);
  std::exit(2);
}
void check_launch(const char* kernel, cudaStream_t) {
  const cudaError_t status = cudaGetLastError();
  if (status != cudaSuccess) fail_cuda(kernel, cudaGetErrorString(status), __FILE__, __LINE__);
}

namespace {

constexpr int kGuard = 64;  // elements before and after every output
int failures = 0;

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

void expect(bool ok, const char* name, const char* what) {
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
  bool keeps = false;  // forward leaves its dropout bits for backward
  DeviceArray<int32_t> offsets, key_lengths;
  DeviceArray<uint32_t> step, kept;
  DeviceArray<T> qkv, dout, out, dqkv;
  DeviceArray<F> lse;
  DeviceArray<char> workspace;
  AttentionArgs args;

  Device(const Case<T>& c, bool general)
      : c(c),
        general(general),
        offsets(c.offsets),
        key_lengths(c.key_lengths),
        step(std::vector<uint32_t>{c.step}),
        kept(static_cast<size_t>(c.args.rows) * c.args.heads * 4),
        qkv(c.qkv),
        dout(c.dout),
        out(c.dout.size() + 2 * kGuard),
        dqkv(c.qkv.size() + 2 * kGuard),
        lse(static_cast<size_t>(c.args.rows) * c.args.heads + 2 * kGuard),
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
      if (keeps) return cuda::attention_forward_sm80(args, qkv.get(), o, l, kept.get(), stream);
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
        return cuda::attention_backward_sm80(args, qkv.get(), o, l, kept.get(), dout.get(), dq, nullptr, stream);
    }
    cuda::attention_backward<T>(args, qkv.get(), o, l, dout.get(), dq, workspace.get(), stream);
  }
  void launch(cudaStream_t stream) { forward(stream), backward(stream); }
  Run<T> run() {
    out.poison(), dqkv.poison(), lse.poison(), workspace.poison(), kept.poison();
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

template <class T> void check(const Shape& s, int repeats) {
  const Case<T> c(s);
  const AttentionArgs& a = c.args;
  const int64_t h = a.hidden(), live = c.offsets.back();
  std::vector<double> qkv = in_double(c.qkv), dout = in_double(c.dout), out(a.rows * h), lse(a.rows * a.heads),
                      dqkv(3 * a.rows * h);
  cpu::attention_forward<double>(a, qkv.data(), out.data(), lse.data());
  cpu::attention_backward<double>(a, qkv.data(), out.data(), lse.data(), dout.data(), dqkv.data());
  std::vector<double> plain_out, plain_dqkv;
  plain(c, plain_out, plain_dqkv);

  Device<T> device(c, s.general);
  const Run<T> r = device.run();
  const T *o = r.out.data() + kGuard, *dq = r.dqkv.data() + kGuard;
  std::printf("%-34s", s.name);
  // Double has no plain implementation to compare with: rounding of a few hundred terms.
  const double floor = sizeof(T) == 8 ? 1e-13 : sizeof(T) == 4 ? 2e-7 : 0.0;
  const auto rule = [&](const char* what, const T* x, const std::vector<double>& y, const std::vector<double>& p,
                        int64_t width, int64_t from, int64_t to, double factor) {
    const Error mine = error_of(x, y, live, width, from, to), other = error_of(p.data(), y, live, width, from, to);
    std::printf(" %s %.1e/%.1e", what, mine.relative, other.relative);
    expect(mine.relative <= std::max(factor * other.relative, floor), s.name, what);
    expect(mine.largest <= std::max(factor * other.largest, floor * 100), s.name,
           (std::string(what) + " (largest)").c_str());
  };
  rule("out", o, out, plain_out, h, 0, h, 2);
  rule("dq", dq, dqkv, plain_dqkv, 3 * h, 0, h, 3);
  rule("dk", dq, dqkv, plain_dqkv, 3 * h, h, 2 * h, 3);
  rule("dv", dq, dqkv, plain_dqkv, 3 * h, 2 * h, 3 * h, 3);
  const Error e = error_of(r.lse.data() + kGuard, lse, live, a.heads, 0, a.heads);
  std::printf(" lse %.0e\n", e.relative);
  expect(e.relative < (sizeof(T) == 8 ? 1e-14 : 1e-6), s.name, "lse");
  expect(guards_hold(r.out) && guards_hold(r.dqkv) && guards_hold(r.lse), s.name, "a guard was written");
  bool zero = true;
  for (int64_t i = live * h; i < a.rows * h; ++i) zero &= static_cast<float>(o[i]) == 0.0f;
  for (int64_t i = 3 * live * h; i < 3 * a.rows * h; ++i) zero &= static_cast<float>(dq[i]) == 0.0f;
  expect(zero, s.name, "the tail is not zero");

  for (int i = 0; i < repeats; ++i) {
    const Run<T> again = device.run();
    if (!same_bits(r.out, again.out, 0, r.out.size()) || !same_bits(r.dqkv, again.dqkv, 0, r.dqkv.size()) ||
        !same_bits(r.lse, again.lse, 0, r.lse.size())) {
      expect(false, s.name, "other bits when repeated");
      break;
    }
  }
  if (sizeof(T) == 2 && cuda::attention_path<T>(a) == cuda::AttentionPath::kTensorCores && !s.general) {
    device.keeps = true;
    const Run<T> kept = device.run();
    expect(same_bits(r.out, kept.out, 0, r.out.size()) && same_bits(r.dqkv, kept.dqkv, 0, r.dqkv.size()), s.name,
           "other bits when forward's dropout bits are kept");
  }
  if (repeats == 0) return;

  Shape roomy = s;  // another capacity: the same bits
  roomy.tail += 200;
  const Case<T> c2(roomy);
  Device<T> device2(c2, s.general);
  const Run<T> r2 = device2.run();
  expect(same_bits(r.out, r2.out, kGuard, live * h) && same_bits(r.dqkv, r2.dqkv, kGuard, 3 * live * h), s.name,
         "the capacity changes the bits");
}

// A captured graph replays with the step that is in memory then.
void check_graph() {
  const Shape s{"graph replay", {40, 100, 7}, 4, 64, false, false, 0.1};
  Case<bfloat16> c(s);
  Device<bfloat16> device(c, false);
  const Run<bfloat16> first = device.run();
  cudaStream_t stream;
  CUDA_CHECK(cudaStreamCreate(&stream));
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  device.launch(stream);
  CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
  CUDA_CHECK(cudaGraphInstantiate(&exec, graph, 0));
  const auto replay = [&](uint32_t step) {
    device.step.set({step}), device.out.poison(), device.dqkv.poison();
    CUDA_CHECK(cudaGraphLaunch(exec, stream));
    CUDA_CHECK(cudaStreamSynchronize(stream));
    return Run<bfloat16>{device.out.host(), device.dqkv.host(), device.lse.host()};
  };
  const Run<bfloat16> same = replay(c.step), other = replay(c.step + 1);
  expect(
      same_bits(first.out, same.out, 0, first.out.size()) && same_bits(first.dqkv, same.dqkv, 0, first.dqkv.size()),
      s.name, "a replay differs from a launch");
  expect(!same_bits(first.out, other.out, 0, first.out.size()), s.name, "the step is not read at replay");
  ++c.step;
  Device<bfloat16> fresh(c, false);
  const Run<bfloat16> want = fresh.run();
  expect(
      same_bits(want.out, other.out, 0, want.out.size()) && same_bits(want.dqkv, other.dqkv, 0, want.dqkv.size()),
      s.name, "a replay with another step differs from a launch with it");
  std::printf("%-34s done\n", s.name);
  CUDA_CHECK(cudaGraphExecDestroy(exec));
  CUDA_CHECK(cudaGraphDestroy(graph));
  CUDA_CHECK(cudaStreamDestroy(stream));
}

// The plain implementation against the kernels' reference, both in double: needs no GPU.
void check_references() {
  for (int bits = 0; bits < 8; ++bits) {
    const Shape s{"references",    {1, 20, 7, 3, 9, 2, 6, 5}, 3, 10, (bits & 1) != 0,
                  (bits & 2) != 0, bits & 4 ? 0.3 : 0.0,      5};
    const Case<double> c(s);
    const int64_t h = c.args.hidden(), live = c.offsets.back();
    std::vector<double> out(c.args.rows * h), lse(c.args.rows * c.args.heads), dqkv(3 * c.args.rows * h), out2,
        dqkv2;
    cpu::attention_forward<double>(c.args, c.qkv.data(), out.data(), lse.data());
    cpu::attention_backward<double>(c.args, c.qkv.data(), out.data(), lse.data(), c.dout.data(), dqkv.data());
    plain(c, out2, dqkv2);
    expect(error_of(out.data(), out2, live, h, 0, h).relative < 1e-13, s.name, "out");
    expect(error_of(dqkv.data(), dqkv2, live, 3 * h, 0, 3 * h).relative < 1e-13, s.name, "dqkv");
  }
}

void check_all(bool quick) {
  const std::vector<int> mixed = {1, 128, 2, 64, 15, 127, 16, 65, 17, 63, 33, 96, 48, 81, 32, 112, 97, 5};
  static std::vector<std::string> names;  // Shape keeps a pointer
  names.reserve(64);
  for (int heads : {8, 3}) {
    for (int bits = 0; bits < 8; ++bits) {
      const bool causal = bits & 1, keys = bits & 2, dropout = bits & 4;
      if (quick && (heads == 8 || bits == 1 || bits == 2 || bits == 4)) continue;
      names.push_back("bf16 short A" + std::to_string(heads) + (causal ? " causal" : "") + (keys ? " keys" : "") +
                      (dropout ? " p=0.1" : ""));
      check<bfloat16>({names.back().c_str(), quick ? std::vector<int>{1, 17, 64, 65, 128} : mixed, heads, 64,
                       causal, keys, dropout ? 0.1 : 0.0},
                      quick ? 0 : 20);
    }
  }
  const int repeats = quick ? 0 : 3;
  std::vector<int> many;  // more sequences than a block has threads
  for (int i = 0; i < 300; ++i) many.push_back(i % 50 == 7 ? 0 : i % 11 == 3 ? 66 + i % 40 : 1 + i % 20);
  if (!quick) check<bfloat16>({"bf16 short, 300 sequences", many, 3, 64, false, false, 0.1}, repeats);
  check<bfloat16>({"bf16 short, general kernel", mixed, 4, 64, true, true, 0.1, 37, true}, repeats);
  check<bfloat16>({"bf16 D64 long", {1, 129, 300, 64}, 2, 64, false, false, 0.1}, repeats);
  check<bfloat16>({"bf16 D40", {33, 129, 2}, 3, 40, false, true, 0.0}, repeats);
  check<float>({"float32 D64", mixed, 2, 64, false, false, 0.1}, repeats);
  check<float>({"float32 D64 causal keys", mixed, 2, 64, true, true, 0.0}, repeats);
  check<float>({"float32 D128 long", {200, 1, 31}, 2, 128, true, false, 0.2}, repeats);
  check<double>({"float64 D17", mixed, 2, 17, true, true, 0.1}, repeats);
  check<double>({"float64 D128", {60, 3, 33}, 2, 128, false, false, 0.1}, repeats);
  check_graph();
}

// ---- times
// --------------------------------------------------------------------------------------------------------

struct Timing {
  double median, least, most;
};
// Times of one item in µs: `body(i, stream)` is captured `items` times into a graph, which is replayed.
Timing time_graph(int items, const std::function<void(int, cudaStream_t)>& body) {
  cudaStream_t stream;
  CUDA_CHECK(cudaStreamCreate(&stream));
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  for (int i = 0; i < items; ++i) body(i, stream);
  CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
  CUDA_CHECK(cudaGraphInstantiate(&exec, graph, 0));
  cudaEvent_t begin, end;
  CUDA_CHECK(cudaEventCreate(&begin));
  CUDA_CHECK(cudaEventCreate(&end));
  std::vector<double> times;
  for (int i = 0; i < 25; ++i) {
    CUDA_CHECK(cudaEventRecord(begin, stream));
    CUDA_CHECK(cudaGraphLaunch(exec, stream));
    CUDA_CHECK(cudaEventRecord(end, stream));
    CUDA_CHECK(cudaStreamSynchronize(stream));
    float ms;
    CUDA_CHECK(cudaEventElapsedTime(&ms, begin, end));
    if (i >= 5) times.push_back(ms * 1e3 / items);
  }
  CUDA_CHECK(cudaEventDestroy(begin));
  CUDA_CHECK(cudaEventDestroy(end));
  CUDA_CHECK(cudaGraphExecDestroy(exec));
  CUDA_CHECK(cudaGraphDestroy(graph));
  CUDA_CHECK(cudaStreamDestroy(stream));
  std::sort(times.begin(), times.end());
  return {times[times.size() / 2], times.front(), times.back()};
}

void time_case(const char* name, const std::vector<int>& lengths, double dropout, bool general, int sets,
               bool padded, bool keeps = true) {
  constexpr int kHeads = 8, kD = 64, kItems = 16;
  Shape s{name, lengths, kHeads, kD, false, false, dropout};
  const int used = [&] {
    int n = 0;
    for (int x : lengths) n += x;
    return n;
  }();
  s.tail = (used + 511) / 512 * 512 - used;
  Case<bfloat16> c(s);
  std::vector<int32_t> real;
  if (padded) {  // every sequence fills its row; the keys have the real lengths
    for (size_t i = 0; i < lengths.size(); ++i)
      real.push_back(std::clamp(20 + static_cast<int>(i * 37 % 70), 10, 128));
    c.key_lengths = real, c.args.key_lengths = c.key_lengths.data();
  }
  std::vector<Device<bfloat16>> buffers;
  for (int i = 0; i < sets; ++i) buffers.emplace_back(c, general), buffers.back().keeps = keeps;
  const auto forward = [&](int i, cudaStream_t stream) { buffers[i % sets].forward(stream); };
  const auto backward = [&](int i, cudaStream_t stream) { buffers[i % sets].backward(stream); };
  const Timing f = time_graph(kItems, forward), b = time_graph(kItems, backward);
  const double h = kHeads * kD, row = 2.0 * h * c.args.rows;
  std::printf(
      "%-36s T=%5d p=%.1f sets=%d  fwd %6.1f µs (%.1f-%.1f, %4.0f GB/s)  bwd %6.1f µs (%.1f-%.1f, %4.0f GB/s)\n",
      name, c.args.rows, dropout, sets, f.median, f.least, f.most, 4 * row / f.median / 1e3, b.median, b.least,
      b.most, 8 * row / b.median / 1e3);
}

std::vector<int> agnews_lengths() {  // mean 52, deviation about 20, in [10, 128]
  std::vector<int> lengths;
  for (int i = 0; i < 192; ++i) {
    lengths.push_back(std::clamp(static_cast<int>(std::lround(52.3 + 20 * random_normal(3, 1, 0, i))), 10, 128));
  }
  lengths[17] = 128, lengths[101] = 121;
  return lengths;
}

// One forward and one backward launch, for a profiler.
void profile() {
  const Case<bfloat16> c({"profile", agnews_lengths(), 8, 64, false, false, 0.1});
  Device<bfloat16> device(c, false);
  for (int i = 0; i < 2; ++i) device.launch(nullptr);
  CUDA_CHECK(cudaDeviceSynchronize());
}

void time_all(bool brief) {
  {
    DeviceArray<char> a(512 << 20), b(512 << 20);
    a.poison();
    const Timing t = time_graph(2, [&](int, cudaStream_t s) {
      CUDA_CHECK(cudaMemcpyAsync(b.get(), a.get(), 512 << 20, cudaMemcpyDeviceToDevice, s));
    });
    std::printf("copy of 512 MiB: %.0f GB/s (read and written)\n", 2.0 * (512 << 20) / t.median / 1e3);
  }
  const std::vector<int> agnews = agnews_lengths();
  time_case("AG News lengths", agnews, 0.0, false, 4, false);
  time_case("AG News lengths, bits drawn twice", agnews, 0.1, false, 4, false, false);
  time_case("AG News lengths", agnews, 0.1, false, 4, false);
  time_case("AG News lengths, in the cache", agnews, 0.1, false, 1, false);
  std::vector<int> sorted = agnews;
  std::sort(sorted.rbegin(), sorted.rend());
  time_case("AG News lengths, longest first", sorted, 0.1, false, 4, false);
  time_case("all 64", std::vector<int>(160, 64), 0.1, false, 4, false);
  if (brief) return;
  time_case("all 128", std::vector<int>(80, 128), 0.1, false, 4, false);
  time_case("padded 192 x 128, key lengths", std::vector<int>(192, 128), 0.1, false, 2, true);
  time_case("AG News lengths, general kernels", agnews, 0.1, true, 2, false);
}

}  // namespace
}  // namespace glia

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  glia::check_references();
  if (mode == "--references") {
  } else if (mode == "--profile") {
    glia::profile();
  } else if (mode == "--sanitize") {
    glia::check_all(true);
  } else {
    if (mode != "--time" && mode != "--brief") glia::check_all(false);
    if (mode != "--check") glia::time_all(mode == "--brief");
  }
  std::printf(glia::failures ? "%d FAILURES\n" : "attention harness: all held\n", glia::failures);
  return glia::failures ? 1 : 0;
}
