// Correctness and speed of engine/ops/products/sm90/gemm_sm90.h on a Hopper GPU, beside cuBLAS.
//   gemm_harness [PART]        checks whose name contains PART, each in a child process of its own (a hung or broken
//                              kernel ends only its case), then the times of what was right, beside cuBLAS
//   gemm_harness --case NAME   one case in this process; "sequence" times an expert layer's kernels in their real order
// Correctness: relative Frobenius error against float64 at most twice that of cuBLAS on the same data; outputs
// poisoned with NaN, rows past the last group and a sentinel behind every output must stay untouched, 20 runs must
// agree bit by bit.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

#include "engine/ops/products/sm90/gemm_sm90.h"
#include "tests/device/gemm_harness_cases.cuh"

namespace glia {

// The function of engine/device/cuda/backend.cpp that launch() needs; this program has no Context.
void check_launch(const char* kernel, cudaStream_t) {
  const cudaError_t status = cudaGetLastError();
  if (status != cudaSuccess) throw std::runtime_error(std::string(kernel) + ": " + cudaGetErrorString(status));
}

}  // namespace glia

using namespace glia::cuda;

namespace {

// One shape's buffers. `in` and `out` sides of the layer: x, slope_values [R, I]; dy [R, O].
struct Problem {
  Shape shape;
  std::vector<int> begin;  // [E + 1], padded
  int groups, rows, used;  // capacity and offsets[E]
  Buffer offsets, x, dy, w, bias, slopes, slope_values, workspace;
  RowGroups row_groups;

  explicit Problem(const Shape& s, uint64_t seed) : shape(s) {
    groups = s.counts.empty() ? 1 : static_cast<int>(s.counts.size());
    begin.push_back(0);
    for (int c : s.counts) begin.push_back(begin.back() + (c + 127) / 128 * 128);
    if (s.counts.empty()) begin.push_back(s.dense_rows);
    used = begin.back();
    rows = s.counts.empty() ? s.dense_rows : used + 256;  // spare rows that nobody may touch
    const size_t o = s.outputs, i = s.inputs;
    x = Buffer(rows * i * 2), dy = Buffer(rows * o * 2), w = Buffer(groups * o * i * 2);
    bias = Buffer(groups * std::max(o, i) * 4), slope_values = Buffer(rows * i * 4);
    slopes = Buffer(gemm_slope_bytes(rows, i));
    fill(w.as<bf16>(), groups * o * i, seed + 1, 1.7f / std::sqrt(static_cast<float>(i)));
    fill(bias.as<float>(), groups * o, seed + 2, 0.5f);
    fill(slope_values.as<float>(), used * i, seed + 3, 3.0f);
    encode_kernel<<<1024, 256>>>(slope_values.as<float>(), slopes.as<uint16_t>(), used, i);
    for (int g = 0; g < groups; ++g) {
      const int real = s.counts.empty() ? s.dense_rows : s.counts[g];
      const size_t pad = begin[g + 1] - begin[g] - real, at = begin[g];
      fill(x.as<bf16>() + at * i, real * i, seed + 10 + g, 1.0f);
      fill(dy.as<bf16>() + at * o, real * o, seed + 500 + g, 1.0f);
      CUDA(cudaMemset(x.as<bf16>() + (at + real) * i, 0, pad * i * 2));
      CUDA(cudaMemset(dy.as<bf16>() + (at + real) * o, 0, pad * o * 2));
    }
    if (!s.counts.empty()) {
      offsets = Buffer(begin.size() * 4);
      CUDA(cudaMemcpy(offsets.data, begin.data(), begin.size() * 4, cudaMemcpyHostToDevice));
    }
    workspace = Buffer(gemm_workspace_bytes());
    CUDA(cudaMemset(workspace.data, 0, workspace.bytes));
    row_groups = {s.counts.empty() ? nullptr : offsets.as<int>(), groups, rows};
    CUDA(cudaDeviceSynchronize());
  }
  int real(int g) const { return shape.counts.empty() ? shape.dense_rows : shape.counts[g]; }
  int padded(int g) const { return begin[g + 1] - begin[g]; }
  double flop() const {
    double rows_done = 0;
    for (int g = 0; g < groups; ++g) rows_done += real(g);
    return 2.0 * rows_done * shape.outputs * shape.inputs;
  }
};

enum class Kind { kForward, kBias, kGelu, kData, kDataGelu, kWeightFloat, kWeightBf16, kCount };
const char* kind_name(Kind k) {
  static const char* names[] = {"forward", "bias", "gelu", "dx", "dx_gelu", "dw_f32", "dw_bf16"};
  return names[static_cast<int>(k)];
}
bool is_weight(Kind k) { return k == Kind::kWeightFloat || k == Kind::kWeightBf16; }
bool is_data(Kind k) { return k == Kind::kData || k == Kind::kDataGelu; }
int columns_of(Kind k, const Shape& s) { return is_data(k) ? s.inputs : s.outputs; }
size_t output_elements(Kind k, const Problem& p) {
  if (is_weight(k)) return static_cast<size_t>(p.groups) * p.shape.outputs * p.shape.inputs;
  return static_cast<size_t>(p.rows) * columns_of(k, p.shape);
}

struct Outputs {
  Buffer main, slopes, partial;
  Outputs(Kind k, const Problem& p)
      : main(output_elements(k, p) * (k == Kind::kWeightFloat ? 4 : 2)),
        slopes(k == Kind::kGelu ? gemm_slope_bytes(p.rows, p.shape.outputs) : 0),
        partial(k == Kind::kDataGelu ? (p.rows + 127) / 128 * static_cast<size_t>(p.shape.inputs) * 4 : 0) {}
};

void run(Kind k, const Problem& p, Outputs& out, cudaStream_t stream, bool with_slopes = true) {
  const int o = p.shape.outputs, i = p.shape.inputs;
  const Bias bias = {p.bias.data, false};
  const GemmWorkspace space = {p.workspace.data, p.workspace.bytes};
  switch (k) {
    case Kind::kForward: return gemm_forward(p.x.data, p.w.data, {}, out.main.data, p.row_groups, o, i, stream);
    case Kind::kBias: return gemm_forward(p.x.data, p.w.data, bias, out.main.data, p.row_groups, o, i, stream);
    case Kind::kGelu:
      return gemm_forward_gelu(p.x.data, p.w.data, bias, with_slopes ? out.slopes.data : nullptr, out.main.data,
                               p.row_groups, o, i, stream);
    case Kind::kData: return gemm_data_gradient(p.dy.data, p.w.data, out.main.data, p.row_groups, o, i, stream);
    case Kind::kDataGelu:
      return gemm_data_gradient_gelu(p.dy.data, p.w.data, p.slopes.data, out.main.data, out.partial.as<float>(),
                                     p.row_groups, o, i, stream);
    default:
      return gemm_weight_gradient(p.dy.data, p.x.data, out.main.data, k == Kind::kWeightBf16, p.row_groups, o, i,
                                  space, stream);
  }
}

// cuBLAS's loop over the groups; real rows only when timing.
void run_blas(Kind k, const Problem& p, const Blas& blas, void* out, bool out_float, bool real_rows) {
  const size_t o = p.shape.outputs, i = p.shape.inputs, size = out_float ? 4 : 2;
  for (int g = 0; g < p.groups; ++g) {
    const size_t at = p.begin[g];
    const int m = real_rows ? p.real(g) : p.padded(g);
    const bf16 *x = p.x.as<bf16>() + at * i, *dy = p.dy.as<bf16>() + at * o, *w = p.w.as<bf16>() + g * o * i;
    if (is_weight(k))
      blas.gemm(true, false, o, i, m, dy, x, static_cast<uint8_t*>(out) + g * o * i * size, out_float);
    else if (is_data(k))
      blas.gemm(false, false, m, i, o, dy, w, static_cast<uint8_t*>(out) + at * i * size, out_float);
    else blas.gemm(false, true, m, o, i, x, w, static_cast<uint8_t*>(out) + at * o * size, out_float);
  }
}

bool fail(bool bad, const char* what, unsigned long long n = 1) {
  if (bad) std::printf("    FAIL %s (%llu)\n", what, n);
  return bad;
}

// One kind against the reference, on one shape.
bool check(Kind k, const Shape& shape, const Blas& blas) {
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
  run(k, p, out, nullptr);
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
    run(k, p, again, nullptr, false);
    bad |= fail(mismatches(again.slopes.data, nullptr, again.slopes.bytes) > 0, "slopes written though not wanted");
    bad |= fail(mismatches(again.main.data, out.main.data, wanted * 2) > 0, "evaluation differs from training");
  }
  for (int round = 0; round < 20; ++round) {
    again.main.poison();
    again.partial.poison();
    run(k, p, again, nullptr);
    const unsigned long long d = mismatches(again.main.data, out.main.data, out.main.bytes) +
                                 mismatches(again.partial.data, out.partial.data, out.partial.bytes);
    if ((bad |= fail(d > 0, "not repeatable", d))) break;
  }
  std::printf("  %-4s %-8s %-28s%s\n", bad ? "BAD" : "ok", kind_name(k), shape.name, errors.c_str());
  return !bad;
}

bool timed(Kind k, const Shape& s) {
  const bool up = s.outputs == 2048, down = s.inputs == 2048;
  if (k == Kind::kGelu) return up;
  if (k == Kind::kDataGelu) return down;
  if (k == Kind::kForward) return !s.counts.empty();
  return true;
}

void time_own(Kind k, cudaStream_t stream) {
  for (const Shape& s : time_shapes()) {
    if (!timed(k, s)) continue;
    std::vector<Problem> sets;
    std::vector<Outputs> outs;
    for (int i = 0; i < 3; ++i) sets.emplace_back(s, 7 + i), outs.emplace_back(k, sets.back());
    for (bool slopes : {true, false}) {
      if (!slopes && k != Kind::kGelu) continue;
      const double us = time_graph(
          stream, [&](int i) { run(k, sets[i], outs[i], stream, slopes); }, 3);
      std::printf("  time %-8s %-7s %-18s %7.1f us %6.0f TFLOP/s\n", kind_name(k), slopes ? "" : "h only", s.name,
                  us, sets[0].flop() / us / 1e6);
    }
  }
}

// The eight kernels of an expert layer as a training step runs them: forward through three layers and back, each
// with its own activations, so that every kernel finds the cache as its predecessor left it. One event between any
// two.
struct Layer {
  Problem up, down;  // up.x → up's outputs; down.x is h, down.dy is the gradient that comes in
  Outputs h, y, dpre, dw2, dw1, dx;
  Buffer partial, db;
  explicit Layer(const std::vector<int>& counts, uint64_t seed)
      : up({"", counts, 0, 2048, 512}, seed),
        down({"", counts, 0, 512, 2048}, seed + 100),
        h(Kind::kGelu, up),
        y(Kind::kBias, down),
        dpre(Kind::kDataGelu, down),
        dw2(Kind::kWeightBf16, down),
        dw1(Kind::kWeightBf16, up),
        dx(Kind::kData, up),
        partial((up.rows + 127) / 128 * 2048ull * 4),
        db(up.groups * 2048ull * 4) {}
};
void time_sequence(const char* name, const std::vector<int>& counts, cudaStream_t stream) {
  std::vector<Layer> layers;
  for (int i = 0; i < 3; ++i) layers.emplace_back(counts, 50 + i);
  const char* names[] = {"up", "down", "dpre", "dw2", "dw1", "columns", "dx"};
  constexpr int kKernels = 7;
  const auto call = [&](Layer& l, int kernel) {
    const int F = 2048, H = 512;
    const RowGroups g = l.up.row_groups;
    const GemmWorkspace space = {l.up.workspace.data, l.up.workspace.bytes};
    switch (kernel) {
      case 0:
        return gemm_forward_gelu(l.up.x.data, l.up.w.data, {l.up.bias.data}, l.h.slopes.data, l.h.main.data, g, F,
                                 H, stream);
      case 1: return gemm_forward(l.h.main.data, l.down.w.data, {l.down.bias.data}, l.y.main.data, g, H, F, stream);
      case 2:
        return gemm_data_gradient_gelu(l.down.dy.data, l.down.w.data, l.h.slopes.data, l.dpre.main.data,
                                       l.partial.as<float>(), g, H, F, stream);
      case 3:
        return gemm_weight_gradient(l.down.dy.data, l.h.main.data, l.dw2.main.data, true, g, H, F, space, stream);
      case 4:
        return gemm_weight_gradient(l.dpre.main.data, l.up.x.data, l.dw1.main.data, true, g, F, H, space, stream);
      case 5:
        reduce_column_partials(l.partial.as<float>(), l.db.as<float>(), g, F, stream);
        column_partials(l.down.dy.data, l.partial.as<float>(), g, H, stream);
        return reduce_column_partials(l.partial.as<float>(), l.db.as<float>(), g, H, stream);
      default: return gemm_data_gradient(l.dpre.main.data, l.up.w.data, l.dx.main.data, g, F, H, stream);
    }
  };
  std::vector<cudaEvent_t> events;
  const auto pass = [&](bool timed) {
    const auto mark = [&](size_t i) {
      if (!timed) return;
      while (events.size() <= i) {
        events.emplace_back();
        CUDA(cudaEventCreate(&events.back()));
      }
      CUDA(cudaEventRecordWithFlags(events[i], stream, cudaEventRecordExternal));
    };
    size_t at = 0;
    for (Layer& l : layers)
      for (int k = 0; k < 2; ++k) mark(at++), call(l, k);
    for (size_t i = layers.size(); i-- > 0;)
      for (int k = 2; k < kKernels; ++k) mark(at++), call(layers[i], k);
    mark(at);
  };
  pass(false);
  CUDA(cudaStreamSynchronize(stream));
  for (bool timed : {true, false}) {
    std::vector<float> each[kKernels];
    const std::vector<float> totals = time_replays(
        stream, [&] { pass(timed); }, 5, 35,
        [&] {
          for (size_t i = 0; timed && i + 1 < events.size(); ++i) {
            float ms = 0;
            CUDA(cudaEventElapsedTime(&ms, events[i], events[i + 1]));
            const size_t forward = 2 * layers.size();
            each[i < forward ? i % 2 : 2 + (i - forward) % 5].push_back(ms * 1000);
          }
        });
    std::printf("  sequence %-10s %s layer %7.1f us", name, timed ? "with events" : "bare       ",
                median(totals) * 1000 / static_cast<float>(layers.size()));
    for (int k = 0; timed && k < kKernels; ++k) std::printf("  %s %.1f", names[k], median(each[k]));
    std::printf("\n");
  }
}

void time_blas(cudaStream_t stream, const Blas& blas) {
  for (Kind k : {Kind::kForward, Kind::kData, Kind::kWeightFloat, Kind::kWeightBf16})
    for (const Shape& s : time_shapes()) {
      if (!s.counts.empty() && s.counts != kUsual) continue;
      std::vector<Problem> sets;
      std::vector<Outputs> outs;
      for (int i = 0; i < 3; ++i) sets.emplace_back(s, 7 + i), outs.emplace_back(k, sets.back());
      const bool f = k == Kind::kWeightFloat;
      const double us = time_graph(
          stream, [&](int i) { run_blas(k, sets[i], blas, outs[i].main.data, f, true); }, 3);
      std::printf("  time %-8s %-13s %-18s %7.1f us %6.0f TFLOP/s", kind_name(k), "cuBLAS", s.name, us,
                  sets[0].flop() / us / 1e6);
      if (s.counts.empty()) {
        std::vector<const void*> a, b;
        std::vector<void*> c;
        for (int i = 0; i < 3; ++i) {
          a.push_back(is_weight(k) || is_data(k) ? sets[i].dy.data : sets[i].x.data);
          b.push_back(is_weight(k) ? sets[i].x.data : sets[i].w.data);
          c.push_back(outs[i].main.data);
        }
        const int o = s.outputs, i = s.inputs, r = s.dense_rows;
        double lt;
        if (is_weight(k)) lt = time_lt(stream, true, false, o, i, r, a, b, c, f, nullptr);
        else if (is_data(k)) lt = time_lt(stream, false, false, r, i, o, a, b, c, false, nullptr);
        else lt = time_lt(stream, false, true, r, o, i, a, b, c, false, sets[0].bias.data);
        std::printf("   Lt best of 8 %7.1f us %6.0f", lt, sets[0].flop() / lt / 1e6);
      }
      std::printf("\n");
    }
  // Stand-alone column sums.
  for (const Shape& s : time_shapes()) {
    std::vector<Problem> sets;
    std::vector<Buffer> partial, db;
    for (int i = 0; i < 3; ++i) {
      sets.emplace_back(s, 7 + i);
      partial.emplace_back((sets[i].rows + 127) / 128 * static_cast<size_t>(s.outputs) * 4);
      db.emplace_back(sets[i].groups * static_cast<size_t>(s.outputs) * 4);
    }
    const double first = time_graph(
        stream,
        [&](int i) {
          column_partials(sets[i].dy.data, partial[i].as<float>(), sets[i].row_groups, s.outputs, stream);
        },
        3);
    const double second = time_graph(
        stream,
        [&](int i) {
          reduce_column_partials(partial[i].as<float>(), db[i].as<float>(), sets[i].row_groups, s.outputs, stream);
        },
        3);
    std::printf("  time columns  %-13s %-18s %7.1f us, reduce %5.1f us\n", "", s.name, first, second);
  }
}

// "check/<kind>" for all kinds.
std::vector<std::string> check_names() {
  std::vector<std::string> names;
  for (int k = 0; k < static_cast<int>(Kind::kCount); ++k)
    names.push_back("check/" + std::string(kind_name(static_cast<Kind>(k))));
  return names;
}

// `name` is one of check_names, "blas", "sequence", or "time" with the checked cases to time behind it, separated
// by commas.
int run_case(const std::string& name) {
  cudaStream_t stream;
  CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  if (name == "blas") {
    time_blas(stream, Blas(stream));
    return 0;
  }
  if (name == "sequence") {
    time_sequence("balanced", kUsual, stream);
    time_sequence("one dead", kDead, stream);
    time_sequence("one large", kLarge, stream);
    return 0;
  }
  bool ok = true;
  const bool timing = name.rfind("time", 0) == 0;
  for (int k = 0; k < static_cast<int>(Kind::kCount); ++k) {
    const std::string own = "check/" + std::string(kind_name(static_cast<Kind>(k)));
    if (timing) {
      if ((name + ",").find(own + ",") != std::string::npos) time_own(static_cast<Kind>(k), stream);
    } else if (name == own) {
      const Blas blas(nullptr);
      for (const Shape& s : check_shapes()) ok &= check(static_cast<Kind>(k), s, blas);
    }
  }
  return ok ? 0 : 1;
}

struct Child {
  std::string name;
  pid_t pid = 0;
  int rc = -1, seconds = 0;
  double start = 0;
  FILE* log = nullptr;
};

double now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// Runs the children, `parallel` at a time, each at most its seconds; prints their output in order.
void run_children(std::vector<Child>& children, int parallel) {
  size_t started = 0, printed = 0;
  int running = 0;
  while (printed < children.size()) {
    while (running < parallel && started < children.size()) {
      Child& c = children[started++];
      c.log = tmpfile();
      c.start = now();
      std::fflush(stdout);
      c.pid = fork();
      if (c.pid == 0) {
        dup2(fileno(c.log), 1);
        dup2(fileno(c.log), 2);
        execl("/proc/self/exe", "gemm_harness", "--case", c.name.c_str(), static_cast<char*>(nullptr));
        std::_Exit(4);
      }
      ++running;
    }
    usleep(5000);
    for (size_t i = printed; i < started; ++i) {
      Child& c = children[i];
      int status = 0;
      if (c.rc >= 0) continue;
      if (waitpid(c.pid, &status, WNOHANG) == c.pid) {
        c.rc = WIFEXITED(status) ? WEXITSTATUS(status) : 5;
      } else if (now() - c.start > c.seconds) {
        kill(c.pid, SIGKILL);
        waitpid(c.pid, &status, 0);
        c.rc = 124;
      } else {
        continue;
      }
      --running;
    }
    while (printed < started && children[printed].rc >= 0) {
      Child& c = children[printed++];
      char buffer[4096];
      rewind(c.log);
      for (size_t n; (n = fread(buffer, 1, sizeof buffer, c.log)) > 0;) fwrite(buffer, 1, n, stdout);
      std::fclose(c.log);
      if (c.rc != 0)
        std::printf("CASE %s ended with %d%s\n", c.name.substr(0, 60).c_str(), c.rc,
                    c.rc == 124 ? " (timeout)" : "");
      std::fflush(stdout);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  setvbuf(stdout, nullptr, _IOLBF, 0);
  if (argc == 3 && std::strcmp(argv[1], "--case") == 0) return run_case(argv[2]);
  const double start = now();
  std::vector<Child> checks, times(1), blas(1), sequence(1);
  for (const std::string& name : check_names())
    if (argc == 1 || name.find(argv[1]) != std::string::npos) checks.push_back({.name = name, .seconds = 30});
  run_children(checks, 6);
  int failures = 0;
  times[0].name = "time", times[0].seconds = 30;
  for (const Child& c : checks) {
    if (c.rc == 0) times[0].name += "," + c.name;
    failures += c.rc != 0;
  }
  std::printf("checks took %.1f s, %d of %zu failed\n", now() - start, failures, checks.size());
  blas[0].name = "blas", blas[0].seconds = 20;
  run_children(blas, 1);
  run_children(times, 1);
  sequence[0].name = "sequence", sequence[0].seconds = 20;
  run_children(sequence, 1);
  std::printf("%d check(s) failed, %.1f s in all\n", failures, now() - start);
  return failures != 0;
}
