// Times of the attention kernels in replayed graphs, on rotated buffers.
#pragma once
#include <functional>

#include "tests/device/attention_harness_cases.cuh"

namespace glia::harness {

struct Timing {
  double median, least, most;
};
// Times of one item in µs: `body(i, stream)` is captured `items` times into a graph, which is replayed.
inline Timing time_graph(int items, const std::function<void(int, cudaStream_t)>& body) {
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

struct Timed {
  const char* name;
  const std::vector<int>& lengths;
  int heads, d;
  double dropout;
  bool causal = false, general = false, padded = false, keeps = true;
  int sets = 4;
};
// Forward and backward of one case beside its floors: the bytes at the copy's rate, or the products (a causal case has
// half of them) at what mma.sync can do.
inline void time_case(const Timed& x) {
  constexpr int kItems = 16;
  constexpr double kBytesPerUs = 3.0e6, kFlopPerUs = 620e6;  // of an H100
  Shape s{x.name, x.lengths, x.heads, x.d, x.causal, false, x.dropout};
  double used = 0, pairs = 0;
  for (int n : x.lengths) used += n, pairs += static_cast<double>(n) * n * (x.causal ? 0.5 : 1.0);
  s.tail = (static_cast<int>(used) + 511) / 512 * 512 - static_cast<int>(used);
  Case<bfloat16> c(s);
  std::vector<int32_t> real;
  if (x.padded) {  // every sequence fills its row; the keys have the real lengths
    for (size_t i = 0; i < x.lengths.size(); ++i)
      real.push_back(std::clamp(20 + static_cast<int>(i * 37 % 70), 10, 128));
    c.key_lengths = real, c.args.key_lengths = c.key_lengths.data();
  }
  std::vector<Device<bfloat16>> buffers;
  for (int i = 0; i < x.sets; ++i) buffers.emplace_back(c, x.general), buffers.back().keeps = x.keeps;
  const int items = x.general ? 2 : kItems;
  const Timing f = time_graph(items, [&](int i, cudaStream_t stream) { buffers[i % x.sets].forward(stream); });
  const Timing b = time_graph(items, [&](int i, cudaStream_t stream) { buffers[i % x.sets].backward(stream); });
  const double row = 2.0 * x.heads * x.d * c.args.rows, flop = 4.0 * pairs * x.heads * x.d;
  const double floor_f = std::max(4 * row / kBytesPerUs, flop / kFlopPerUs),
               floor_b = std::max(8 * row / kBytesPerUs, 2.5 * flop / kFlopPerUs);
  std::printf(
      "%-34s T=%5d %2d x %3d p=%.1f%s fwd %7.1f (%.1f-%.1f) floor %5.1f  bwd %7.1f (%.1f-%.1f) floor %5.1f µs\n",
      x.name, c.args.rows, x.heads, x.d, x.dropout, x.causal ? " causal" : "       ", f.median, f.least, f.most,
      floor_f, b.median, b.least, b.most, floor_b);
}

inline std::vector<int> agnews_lengths() {  // mean 52, deviation about 20, in [10, 128]
  std::vector<int> lengths;
  for (int i = 0; i < 192; ++i) {
    lengths.push_back(std::clamp(static_cast<int>(std::lround(52.3 + 20 * random_normal(3, 1, 0, i))), 10, 128));
  }
  lengths[17] = 128, lengths[101] = 121;
  return lengths;
}

inline void time_all(bool brief) {
  {
    DeviceArray<char> a(512 << 20), b(512 << 20);
    a.poison();
    const Timing t = time_graph(2, [&](int, cudaStream_t s) {
      CUDA_CHECK(cudaMemcpyAsync(b.get(), a.get(), 512 << 20, cudaMemcpyDeviceToDevice, s));
    });
    std::printf("copy of 512 MiB: %.0f GB/s (read and written)\n", 2.0 * (512 << 20) / t.median / 1e3);
  }
  const std::vector<int> agnews = agnews_lengths(), long_rows(20, 512);
  const auto general = [](Timed x) {
    x.general = true, x.sets = 2;
    return x;
  };
  Timed drawn_twice{"AG News lengths, bits drawn twice", agnews, 12, 32, 0.1};
  drawn_twice.keeps = false;
  time_case({"AG News lengths", agnews, 8, 64, 0.1});
  time_case({"AG News lengths", agnews, 12, 32, 0.1});
  time_case(drawn_twice);
  time_case(general({"AG News lengths, general", agnews, 12, 32, 0.1}));
  for (const auto& [heads, d] : {std::pair{8, 64}, {12, 32}, {8, 96}, {8, 128}})
    for (const double p : {0.0, 0.1}) time_case({"20 x 512", long_rows, heads, d, p});
  time_case({"20 x 512", long_rows, 8, 64, 0.0, true});
  time_case(general({"20 x 512, general", long_rows, 8, 64, 0.1}));
  if (brief) return;
  const std::vector<int> longest(10, 1024), full(192, 128);
  std::vector<int> mixed;
  for (int i = 0; i < 48; ++i) mixed.push_back(40 + i * 97 % 470);
  Timed cached{"AG News lengths, in the cache", agnews, 8, 64, 0.1},
      padded{"padded 192 x 128, key lengths", full, 8, 64, 0.1};
  cached.sets = 1, padded.sets = 2, padded.padded = true;
  time_case({"10 x 1024", longest, 8, 64, 0.1});
  time_case({"48 of 40 to 510", mixed, 8, 64, 0.1});
  time_case({"AG News lengths", agnews, 8, 64, 0.0});
  time_case(cached);
  time_case(padded);
  time_case(general({"AG News lengths, general", agnews, 8, 64, 0.1}));
}

}  // namespace glia::harness
