// The CUDA attention kernels on a GPU, without the rest of Glia: values and gradients against float64 on the CPU
// with the same dropout mask, guards, poisoned tails, bitwise repeats, graph replay, and times at the lengths of AG
// News.
//   tests/device/build_attention.sh && build/device/attention_harness [--references | --check | --time | --brief |
//   --sanitize | --profile]
// The rule: an error may be twice (gradients: three times) that of plain attention that rounds every op's result to
// the dtype.
#include "tests/device/attention_harness_times.cuh"

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

using namespace harness;

// Column sums, in parts, against the sums of what they are the sums of.
template <class T> void check_sums(const Case<T>& c, const std::vector<T>& dqkv, const std::vector<float>& sums) {
  const int64_t width = 3 * c.args.hidden(), parts = cuda::attention_sum_rows(c.args);
  bool close = true;
  for (int b = 0; b < c.args.sequences; ++b) {
    for (int64_t j = 0; j < width; ++j) {
      double got = 0, want = 0, size = 1e-6;
      for (int64_t part = 0; part < parts; ++part) got += sums[(b * parts + part) * width + j];
      for (int64_t r = c.offsets[b]; r < c.offsets[b + 1]; ++r) {
        const double x = static_cast<double>(dqkv[kGuard + r * width + j]);
        want += x, size += std::abs(x);
      }
      close &= std::abs(got - want) <= 1e-5 * size;
    }
  }
  expect(close, "column sums", "differ from the sums of dqkv");
}

// Columns first … first + count − 1 of the rows that `rows` names.     x [.., width] → [rows, count]
template <class T>
std::vector<T> picked(const std::vector<T>& x, const std::vector<int64_t>& rows, int64_t width, int64_t first,
                      int64_t count) {
  std::vector<T> y;
  for (const int64_t r : rows) y.insert(y.end(), &x[r * width + first], &x[r * width + first] + count);
  return y;
}

// First rows alone against attention whose output's gradient is zero in all other rows.
void check_first(const Shape& s) {
  Case<bfloat16> c(s);
  const AttentionArgs& a = c.args;
  const int64_t h = a.hidden(), live = c.offsets.back(), sequences = a.sequences;
  const std::vector<int64_t> first(c.offsets.begin(), c.offsets.end() - 1);
  std::vector<int64_t> all(a.rows), living(live);
  std::iota(all.begin(), all.end(), 0), std::iota(living.begin(), living.end(), 0);
  for (int64_t r = 0; r < live; ++r)
    if (std::find(first.begin(), first.end(), r) == first.end()) std::fill_n(&c.dout[r * h], h, bfloat16(0.0f));
  std::vector<double> qkv = in_double(c.qkv), dout = in_double(c.dout), out(a.rows * h), lse(a.rows * a.heads),
                      dqkv(3 * a.rows * h), plain_out, plain_dqkv;
  cpu::attention_forward<double>(a, qkv.data(), out.data(), lse.data());
  cpu::attention_backward<double>(a, qkv.data(), out.data(), lse.data(), dout.data(), dqkv.data());
  plain(c, plain_out, plain_dqkv);

  Device<bfloat16> device(c, false);
  DeviceArray<bfloat16> q(picked(c.qkv, first, 3 * h, 0, h)), kv(picked(c.qkv, all, 3 * h, h, 2 * h)),
      own_dout(picked(c.dout, first, h, 0, h)), to_out(sequences * h), to_dq(sequences * h), to_dkv(a.rows * 2 * h);
  DeviceArray<float> to_lse(sequences * a.heads), to_sums(sequences * 3 * h);
  to_out.poison(), to_dq.poison(), to_dkv.poison(), to_lse.poison(), to_sums.poison();
  cuda::attention_first_forward(device.args, q.get(), kv.get(), to_out.get(), to_lse.get(), nullptr);
  cuda::attention_first_backward(device.args, q.get(), kv.get(), to_out.get(), to_lse.get(), own_dout.get(),
                                 to_dq.get(), to_dkv.get(), to_sums.get(), nullptr);
  CUDA_CHECK(cudaDeviceSynchronize());

  std::printf("%-34s", s.name);
  const auto rule = [&](const char* what, const auto& x, const std::vector<double>& y, const std::vector<double>& p,
                        double factor) {
    const int64_t n = static_cast<int64_t>(y.size());
    const double mine = error_of(x.data(), y, 1, n, 0, n).relative,
                 other = error_of(p.data(), y, 1, n, 0, n).relative;
    std::printf(" %s %.1e/%.1e", what, mine, other);
    double norm = 0;  // a first row that sees itself alone has no gradient of its query
    for (const double v : y) norm += v * v;
    const double floor =
        sizeof(x[0]) == 4 ? 2e-7 : 0;  // what float32 rounds where plain attention's sums are exact
    expect(mine <= std::max(factor * other, floor) || (norm < 1e-12 && !std::isnan(mine)), s.name, what);
  };
  const auto sums_of = [&](const std::vector<double>& x) {
    std::vector<double> sums(sequences * 3 * h);
    for (int64_t b = 0; b < sequences; ++b)
      for (int64_t r = c.offsets[b]; r < c.offsets[b + 1]; ++r)
        for (int64_t i = 0; i < 3 * h; ++i) sums[b * 3 * h + i] += x[r * 3 * h + i];
    return sums;
  };
  const std::vector<bfloat16> dkv = to_dkv.host();
  rule("first out", to_out.host(), picked(out, first, h, 0, h), picked(plain_out, first, h, 0, h), 2);
  rule("dq", to_dq.host(), picked(dqkv, first, 3 * h, 0, h), picked(plain_dqkv, first, 3 * h, 0, h), 3);
  rule("dkv", dkv, picked(dqkv, living, 3 * h, h, 2 * h), picked(plain_dqkv, living, 3 * h, h, 2 * h), 3);
  rule("sums", to_sums.host(), sums_of(dqkv), sums_of(plain_dqkv), 3);
  std::printf("\n");
  bool zero = true;
  for (int64_t i = live * 2 * h; i < a.rows * 2 * h; ++i) zero &= static_cast<float>(dkv[i]) == 0.0f;
  expect(zero, s.name, "the tail is not zero");
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
  if (cuda::attention_path<T>(a) != cuda::AttentionPath::kGeneral && !s.general) {
    device.keeps = true;
    const Run<T> kept = device.run();
    expect(same_bits(r.out, kept.out, 0, r.out.size()) && same_bits(r.dqkv, kept.dqkv, 0, r.dqkv.size()), s.name,
           "other bits when forward's dropout bits are kept");
    check_sums(c, r.dqkv, device.sums.host());
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
  names.reserve(200);
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
  for (int d : {32, 64, 96, 128}) {
    for (int bits = 0; bits < 8; ++bits) {
      const bool causal = bits & 1, keys = bits & 2, dropout = bits & 4;
      if (quick && bits != 0 && bits != 7) continue;
      const std::string end =
          std::string(causal ? " causal" : "") + (keys ? " keys" : "") + (dropout ? " p=0.1" : "");
      const double p = dropout ? 0.1 : 0.0;
      names.push_back("bf16 D" + std::to_string(d) + " long" + end);
      // A sequence of every number of tiles, and lengths at their borders; the seventh has no key where keys are short.
      check<bfloat16>(
          {names.back().c_str(),
           quick ? std::vector<int>{130, 1, 64} : std::vector<int>{512, 1, 129, 192, 64, 300, 65, 0, 257, 128},
           bits == 0 ? 3 : 2, d, causal, keys, p},
          repeats);
      if (d != 64) {
        names.push_back("bf16 D" + std::to_string(d) + " short" + end);
        check<bfloat16>(
            {names.back().c_str(), quick ? std::vector<int>{1, 17, 64, 65, 128} : mixed, 3, d, causal, keys, p},
            repeats);
      }
      names.push_back("bf16 D" + std::to_string(d) + " first" + end);
      check_first({names.back().c_str(), {64, 1, 17, 300, 2, 128}, 3, d, causal, keys, p});
    }
  }
  if (!quick) check<bfloat16>({"bf16 D64 of 1024", {1024, 7}, 1, 64, true, false, 0.1}, repeats);
  std::vector<int> many;  // more sequences than a block has threads
  for (int i = 0; i < 300; ++i) many.push_back(i % 50 == 7 ? 0 : i % 11 == 3 ? 66 + i % 40 : 1 + i % 20);
  if (!quick) check<bfloat16>({"bf16 short, 300 sequences", many, 3, 64, false, false, 0.1}, repeats);
  check<bfloat16>({"bf16 short, general kernel", mixed, 4, 64, true, true, 0.1, 37, true}, repeats);
  check<bfloat16>({"bf16 D64 long, general kernel", {1, 129, 300, 64}, 2, 64, false, false, 0.1, 37, true},
                  repeats);
  check<bfloat16>({"bf16 D40", {33, 129, 2}, 3, 40, false, true, 0.0}, repeats);
  check<float>({"float32 D64", mixed, 2, 64, false, false, 0.1}, repeats);
  check<float>({"float32 D64 causal keys", mixed, 2, 64, true, true, 0.0}, repeats);
  check<float>({"float32 D128 long", {200, 1, 31}, 2, 128, true, false, 0.2}, repeats);
  check<double>({"float64 D17", mixed, 2, 17, true, true, 0.1}, repeats);
  check<double>({"float64 D128", {60, 3, 33}, 2, 128, false, false, 0.1}, repeats);
  check_graph();
}

// One forward and one backward launch, for a profiler.
void profile() {
  const Case<bfloat16> c({"profile", agnews_lengths(), 8, 64, false, false, 0.1});
  Device<bfloat16> device(c, false);
  for (int i = 0; i < 2; ++i) device.launch(nullptr);
  CUDA_CHECK(cudaDeviceSynchronize());
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
  std::printf(glia::harness::failures ? "%d FAILURES\n" : "attention harness: all held\n", glia::harness::failures);
  return glia::harness::failures ? 1 : 0;
}
