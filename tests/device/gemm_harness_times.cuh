// Times of the grouped products, medians of replayed graphs over rotated buffers.
#pragma once
#include "tests/device/gemm_harness_problem.cuh"

namespace {

// Which products a training step has at these shapes.
bool timed(Kind k, const Shape& s) {
  const bool up = s.outputs > 2 * s.inputs, down = s.inputs > s.outputs;
  if (k == Kind::kGelu) return up;
  if (k == Kind::kDataGelu) return down;
  if (k == Kind::kForward) return !s.counts.empty();
  return true;
}

// cuBLAS's product alone, without bias, GELU, slopes and sums.
double time_blas(Kind k, const std::vector<Problem>& problems, std::vector<Outputs>& outs, cudaStream_t stream,
                 const Blas& blas) {
  return time_graph(
      stream, [&](int i) { run_blas(k, problems[i], blas, outs[i].main.data, k == Kind::kWeightFloat, true); }, 3);
}

// A row a product and shape, µs: each set's kernel, a loop of cuBLAS calls, and the loop's time in per cent of each
// set's. 100 and more: as fast as cuBLAS's bare product.
void time_table(cudaStream_t stream, const Blas& blas) {
  const auto sets = sets_here();
  std::printf("  %-9s %-20s", "product", "shape");
  for (const GroupedProducts* set : sets) std::printf(" %9s", set->name);
  std::printf(" %9s   per cent of cuBLAS's rate\n", "cuBLAS");
  for (int kind = 0; kind < static_cast<int>(Kind::kCount); ++kind) {
    const Kind k = static_cast<Kind>(kind);
    for (const Shape& s : time_shapes()) {
      if (!timed(k, s)) continue;
      std::vector<Problem> problems;
      std::vector<Outputs> outs;
      for (int i = 0; i < 3; ++i) problems.emplace_back(s, 7 + i), outs.emplace_back(k, problems.back());
      std::printf("  %-9s %-20s", kind_name(k), s.name);
      std::vector<double> own;
      for (const GroupedProducts* set : sets) {
        own.push_back(time_graph(
            stream, [&](int i) { run(*set, k, problems[i], outs[i], stream); }, 3));
        std::printf(" %9.1f", own.back());
      }
      const double theirs = time_blas(k, problems, outs, stream, blas);
      std::printf(" %9.1f  ", theirs);
      for (const double us : own) std::printf(" %4.0f", 100 * theirs / us);
      std::printf("   (%.0f TFLOP/s)\n", problems[0].flop() / own.back() / 1e6);
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
void time_sequence(const GroupedProducts& set, const char* name, const std::vector<int>& counts,
                   cudaStream_t stream) {
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
        return set.forward_gelu(l.up.x.data, l.up.w.data, {l.up.bias.data}, l.h.slopes.data, l.h.main.data, g, F, H,
                                stream);
      case 1: return set.forward(l.h.main.data, l.down.w.data, {l.down.bias.data}, l.y.main.data, g, H, F, stream);
      case 2:
        return set.data_gradient_gelu(l.down.dy.data, l.down.w.data, l.h.slopes.data, l.dpre.main.data,
                                      l.partial.as<float>(), g, H, F, stream);
      case 3:
        return set.weight_gradient(l.down.dy.data, l.h.main.data, l.dw2.main.data, true, g, H, F, space, stream);
      case 4:
        return set.weight_gradient(l.dpre.main.data, l.up.x.data, l.dw1.main.data, true, g, F, H, space, stream);
      case 5:
        reduce_column_partials(l.partial.as<float>(), l.db.as<float>(), g, F, stream);
        column_partials(l.down.dy.data, l.partial.as<float>(), g, H, stream);
        return reduce_column_partials(l.partial.as<float>(), l.db.as<float>(), g, H, stream);
      default: return set.data_gradient(l.dpre.main.data, l.up.w.data, l.dx.main.data, g, F, H, stream);
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
    std::printf("  sequence %-8s %-10s %s layer %7.1f us", set.name, name, timed ? "with events" : "bare       ",
                median(totals) * 1000 / static_cast<float>(layers.size()));
    for (int k = 0; timed && k < kKernels; ++k) std::printf("  %s %.1f", names[k], median(each[k]));
    std::printf("\n");
  }
}

// Stand-alone column sums.
void time_columns(cudaStream_t stream) {
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

}  // namespace
