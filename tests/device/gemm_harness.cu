// Correctness and speed of the grouped products (engine/ops/products/grouped_products.h): every set of kernels that
// this GPU has, beside cuBLAS.
//   gemm_harness [PART]        checks whose name (check/portable/gelu) contains PART, each in a child process of its own,
//                              then all times
//   gemm_harness --case NAME   one case in this process; "table" times every product of every set beside a loop of
//                              cuBLAS calls, "sequence" an expert layer's kernels in their real order
// Correctness: relative Frobenius error against float64 at most twice that of cuBLAS on the same data; outputs
// poisoned with NaN, rows past the last group and a sentinel behind every output must stay untouched, 20 runs must
// agree bit by bit.
#include <cstring>

#include "tests/device/gemm_harness_times.cuh"
#include "tests/device/harness_children.cuh"

namespace glia {

// The function of engine/device/cuda/backend.cpp that launch() needs; this program has no Context.
void check_launch(const char* kernel, cudaStream_t) {
  const cudaError_t status = cudaGetLastError();
  if (status != cudaSuccess) throw std::runtime_error(std::string(kernel) + ": " + cudaGetErrorString(status));
}

}  // namespace glia

namespace {

bool fail(bool bad, const char* what, unsigned long long n = 1) {
  if (bad) std::printf("    FAIL %s (%llu)\n", what, n);
  return bad;
}

// One kind against the reference, on one shape.
bool check(const GroupedProducts& set, Kind k, const Shape& shape, const Blas& blas) {
  Problem p(shape, 1000 + static_cast<uint64_t>(k));
  const int o = shape.outputs, i = shape.inputs, n = columns_of(k, shape);
  const size_t all = output_elements(k, p), wanted = is_weight(k) ? all : static_cast<size_t>(p.used) * n;
  Buffer ref(all * 8 + 8), pre_ref(k == Kind::kGelu ? all * 8 : 0), blas_out(all * 4), blas_bf(all * 2);
  if (is_weight(k)) {
    CUDA(cudaMemset(ref.data, 0, all * 8));
    CUDA(cudaMemset(blas_out.data, 0, all * 4));
  }
  run_blas(k, p, blas, blas_out.data, true, false);
  for (int g = 0; g < p.groups; ++g) {
    const size_t at = p.begin[g], elements = static_cast<size_t>(p.padded(g)) * n;
    const bf16 *x = p.x.as<bf16>() + at * i, *dy = p.dy.as<bf16>() + at * o;
    const bf16* w = p.w.as<bf16>() + static_cast<size_t>(g) * o * i;
    const float* bias = p.bias.as<float>() + static_cast<size_t>(g) * n;
    double* r = ref.as<double>() + (is_weight(k) ? static_cast<size_t>(g) * o * i : at * n);
    float* b = blas_out.as<float>() + (is_weight(k) ? static_cast<size_t>(g) * o * i : at * n);
    bf16* bb = blas_bf.as<bf16>() + (is_weight(k) ? static_cast<size_t>(g) * o * i : at * n);
    if (is_weight(k)) {
      if (p.padded(g) > 0) reference(dy, 1, o, x, 1, i, r, o, i, p.padded(g));
      finish(b, bb, 0, nullptr, nullptr, static_cast<size_t>(o) * i, i);
      continue;
    }
    if (is_data(k)) reference(dy, o, 1, w, 1, i, r, p.padded(g), i, o);
    else reference(x, i, 1, w, i, 1, r, p.padded(g), o, i);
    const int mode = k == Kind::kBias ? 1 : k == Kind::kGelu ? 2 : k == Kind::kDataGelu ? 3 : 0;
    const float* aux = p.slope_values.as<float>() + at * i;
    if (k == Kind::kGelu && elements > 0) {
      double* pr = pre_ref.as<double>() + at * n;
      CUDA(cudaMemcpy(pr, r, elements * 8, cudaMemcpyDeviceToDevice));
      finish(pr, nullptr, 1, bias, aux, elements, n);
    }
    finish(b, bb, mode, bias, aux, elements, n);
    finish(r, nullptr, mode, bias, aux, elements, n);
  }
  CUDA(cudaDeviceSynchronize());

  bool bad = false;
  std::string errors;
  const auto judge = [&](const char* what, Difference own, Difference yardstick) {
    char line[160];
    std::snprintf(line, sizeof line, " %s %.2e (cuBLAS %.2e)", what, own.relative(), yardstick.relative());
    errors += line;
    bad |= fail(own.bad > 0, "not finite", own.bad);
    // Float32 sums over very many rows that nobody splits round more often than cuBLAS's split ones.
    const double allowance = k == Kind::kWeightFloat && p.rows > 4096 ? 8 : 2;
    bad |= fail(own.relative() > allowance * yardstick.relative() + 1e-9, what);
    bad |= fail(own.worst > 2 * allowance * yardstick.worst + 1e-6, "worst element");
  };
  Outputs out(k, p), again(k, p);
  run(set, k, p, out, nullptr);
  CUDA(cudaDeviceSynchronize());
  const size_t size = k == Kind::kWeightFloat ? 4 : 2;
  if (k == Kind::kWeightFloat)
    judge("error", compare(out.main.as<float>(), ref.as<double>(), wanted),
          compare(blas_out.as<float>(), ref.as<double>(), wanted));
  else
    judge("error", compare(out.main.as<bf16>(), ref.as<double>(), wanted),
          compare(blas_bf.as<bf16>(), ref.as<double>(), wanted));
  if (k == Kind::kGelu && wanted > 0) {
    Buffer worst(4);
    CUDA(cudaMemset(worst.data, 0, 4));
    slope_error_kernel<<<1024, 256>>>(pre_ref.as<double>(), out.slopes.as<uint16_t>(), p.used, n, worst.as<int>());
    int millionths = 0;
    CUDA(cudaMemcpy(&millionths, worst.data, 4, cudaMemcpyDeviceToHost));
    bad |= fail(millionths > 200, "slopes, millionths", millionths);
    errors += " slopes' worst " + std::to_string(millionths) + "e-6";
  }
  for (const Buffer* b : {&out.main, &out.slopes}) {
    if (b->bytes == 0) continue;
    const size_t used = b == &out.main ? wanted * size : gemm_slope_bytes(p.used, n);
    const unsigned long long touched = mismatches(b->data + used, nullptr, b->bytes - used + Buffer::kSentinel);
    bad |= fail(touched > 0, "wrote past the end", touched);
  }
  if (k == Kind::kDataGelu) {
    // Column sums by group from the partials, against the float64 values.
    Buffer db(static_cast<size_t>(p.groups) * n * 4), sums(static_cast<size_t>(p.groups) * n * 8);
    std::vector<double> host(wanted + 1), want(static_cast<size_t>(p.groups) * n, 0.0);
    reduce_column_partials(out.partial.as<float>(), db.as<float>(), p.row_groups, n, nullptr);
    CUDA(cudaMemcpy(host.data(), ref.data, wanted * 8, cudaMemcpyDeviceToHost));
    for (int g = 0; g < p.groups; ++g)
      for (size_t r = p.begin[g]; r < static_cast<size_t>(p.begin[g + 1]); ++r)
        for (int c = 0; c < n; ++c) want[static_cast<size_t>(g) * n + c] += host[r * n + c];
    CUDA(cudaMemcpy(sums.data, want.data(), want.size() * 8, cudaMemcpyHostToDevice));
    const Difference d = compare(db.as<float>(), sums.as<double>(), want.size());
    bad |= fail(d.bad > 0 || d.relative() > 5e-5, "column sums");
    char line[64];
    std::snprintf(line, sizeof line, " sums %.1e", d.relative());
    errors += line;
    // The same through the stand-alone column sums of the stored values.
    Buffer partial((p.rows + 127) / 128 * static_cast<size_t>(n) * 4);
    column_partials(out.main.data, partial.as<float>(), p.row_groups, n, nullptr);
    db.poison();
    reduce_column_partials(partial.as<float>(), db.as<float>(), p.row_groups, n, nullptr);
    const Difference e = compare(db.as<float>(), sums.as<double>(), want.size());
    bad |= fail(e.bad > 0 || e.relative() > 5e-3, "stand-alone column sums");
  }
  if (k == Kind::kGelu) {
    run(set, k, p, again, nullptr, false);
    bad |= fail(mismatches(again.slopes.data, nullptr, again.slopes.bytes) > 0, "slopes written though not wanted");
    bad |= fail(mismatches(again.main.data, out.main.data, wanted * 2) > 0, "evaluation differs from training");
  }
  for (int round = 0; round < 20; ++round) {
    again.main.poison();
    again.partial.poison();
    run(set, k, p, again, nullptr);
    const unsigned long long d = mismatches(again.main.data, out.main.data, out.main.bytes) +
                                 mismatches(again.partial.data, out.partial.data, out.partial.bytes);
    if ((bad |= fail(d > 0, "not repeatable", d))) break;
  }
  std::printf("  %-4s %-8s %-8s %-28s%s\n", bad ? "BAD" : "ok", set.name, kind_name(k), shape.name, errors.c_str());
  return !bad;
}

// "check/<set>/<kind>" for everything that is to be checked here.
std::string check_name(const GroupedProducts& set, Kind k) {
  return "check/" + std::string(set.name) + "/" + kind_name(k);
}

template <class F> void for_each_check(F&& f) {
  for (const GroupedProducts* set : sets_here())
    for (int k = 0; k < static_cast<int>(Kind::kCount); ++k) f(*set, static_cast<Kind>(k));
}

// `name` is a check's, "table" or "sequence".
int run_case(const std::string& name) {
  cudaStream_t stream;
  CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  if (name == "table") {
    time_table(stream, Blas(stream));
    time_columns(stream);
    return 0;
  }
  if (name == "sequence") {
    for (const GroupedProducts* set : sets_here()) {
      time_sequence(*set, "balanced", kUsual, stream);
      time_sequence(*set, "one dead", kDead, stream);
      time_sequence(*set, "one large", kLarge, stream);
    }
    return 0;
  }
  bool ok = true;
  for_each_check([&](const GroupedProducts& set, Kind k) {
    if (name != check_name(set, k)) return;
    const Blas blas(nullptr);
    for (const Shape& s : check_shapes())
      if (&set != &kHopperProducts || s.counts.size() <= sm90::kMaxGroups) ok &= check(set, k, s, blas);
  });
  return ok ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  setvbuf(stdout, nullptr, _IOLBF, 0);
  if (argc == 3 && std::strcmp(argv[1], "--case") == 0) return run_case(argv[2]);
  const double start = now();
  std::vector<Child> checks, times;
  for_each_check([&](const GroupedProducts& set, Kind k) {
    const std::string name = check_name(set, k);
    if (argc == 1 || name.find(argv[1]) != std::string::npos) checks.push_back({.name = name, .seconds = 40});
  });
  run_children(checks, 7);
  int failures = 0;
  for (const Child& c : checks) failures += c.rc != 0;
  std::printf("checks took %.1f s, %d of %zu failed\n", now() - start, failures, checks.size());
  for (const char* name : {"table", "sequence"}) times.push_back({.name = name, .seconds = 30});
  run_children(times, 1);
  std::printf("%d check(s) failed, %.1f s in all\n", failures, now() - start);
  return failures != 0;
}
