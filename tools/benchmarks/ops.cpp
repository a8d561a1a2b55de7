#include "tools/benchmarks/ops.h"

#include <fmt/format.h>
#if GLIA_ONEDNN
#include <oneapi/dnnl/dnnl.h>
#endif

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "engine/core/build_info.h"
#include "engine/core/file.h"
#include "engine/core/parallel.h"
#include "engine/device/graph.h"
#include "engine/ops/elementwise/random_fill.h"
#include "engine/ops/products/matmul.h"
#include "tools/benchmarks/op_list.h"
#include "tools/tool.h"

namespace glia {
namespace {

using Json = nlohmann::ordered_json;

struct Settings {
  std::string device, dtype, filter, json;
  int samples = 30;
  double seconds = 1;  // the most that one row's samples may take
  BenchSizes sizes;
};

struct Times {
  double median = 0, min = 0, max = 0;  // microseconds of one run
  size_t samples = 0;
};

class Bench {
 public:
  explicit Bench(const Settings& s)
      : settings_(s),
        context_(Device::parse(s.device), 1),
        gpu_(context_.device().is_cuda()),
        dtype_(s.dtype == "bfloat16" ? DType::kBFloat16 : DType::kFloat32) {}

  int run() {
    ceilings();
    fmt::print("{:<56} {:>9} {:>9} {:>9} {:>8} {:>8} {:>7} {:>8}\n", "op", "median us", "min", "max", "GFLOP/s",
               "GB/s", "% copy", "% matmul");
    direct();
    for (const BenchOp& op : bench_op_list(context_, settings_.sizes, static_cast<double>(size_of(dtype_))))
      if (op.name.find(settings_.filter) != std::string::npos) both_directions(op);
    if (rows_.empty()) fail_input("--filter: no op has '{}' in its name", settings_.filter);
    if (!settings_.json.empty())
      write_file_atomic(settings_.json, Json{{"commit", build_commit()},
                                             {"device", context_.backend().description()},
                                             {"dtype", name(dtype_)},
                                             {"copy_gb_per_s", copy_},
                                             {"matmul_gflops", matmul_},
                                             {"rows", rows_}}
                                                .dump(1) +
                                            "\n");
    return 0;
  }

 private:
  // `work` does `repeats` runs; the times are of one. `prepare` is not timed.
  template <class Prepare, class Work> Times sample(int64_t repeats, Prepare&& prepare, Work&& work) {
    std::vector<double> us;
    double total = 0;
    for (int i = 0; i < 2 + settings_.samples && (i < 5 || total < 1e6 * settings_.seconds); ++i) {
      prepare();
      const auto begin = mark_time(context_.backend());
      work();
      const auto end = mark_time(context_.backend());
      context_.synchronize();
      const double t = 1e3 * milliseconds_between(context_.backend(), begin.get(), end.get());
      total += t;
      if (i >= 2) us.push_back(t / static_cast<double>(repeats));  // two runs to warm up
    }
    std::sort(us.begin(), us.end());
    return {us[us.size() / 2], us.front(), us.back(), us.size()};
  }

  Tensor random(const Shape& shape, DType dtype, double std, uint32_t step) {
    const Tensor x = empty(context_, shape, dtype);
    fill_normal(x, {std, 1, purpose::kTest, step, false});
    return x;
  }

  // What this machine reaches on one large copy and one large product.
  void ceilings() {
    const int64_t bytes = gpu_ ? int64_t{1} << 30 : int64_t{256} << 20, n = gpu_ ? 8192 : 2048;
    {
      const Tensor from = zeros(context_, {bytes / 4}), to = zeros(context_, {bytes / 4});
      const auto nothing = [] {};
      const Times t = sample(1, nothing, [&] {
        if (gpu_) return context_.backend().copy(to.raw(), from.raw(), bytes, CopyKind::kDeviceToDevice);
        parallel_for(bytes, 1 << 20, [&](int64_t begin, int64_t end) {  // every core copies its share
          std::memcpy(static_cast<char*>(to.raw()) + begin, static_cast<char*>(from.raw()) + begin, end - begin);
        });
      });
      copy_ = 2e-3 * static_cast<double>(bytes) / t.min;
    }
    const Tensor a = random({n, n}, dtype_, 1, 1), b = random({n, n}, dtype_, 1, 2), c = empty_like(a);
    const auto nothing = [] {};
    const Times t = sample(1, nothing, [&] { matmul_into(a, b, c, false, true); });
    matmul_ = 2e-3 * static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n) / t.min;
    fmt::print(
        "{}, {}; commit {}\nceilings: copy {:.0f} GB/s (read + write, {} MiB), matmul {:.0f} GFLOP/s ({}^3)\n",
        context_.backend().description(), name(dtype_), build_commit(), copy_, bytes >> 20, matmul_, n);
    context_.allocator().trim();
  }

  // On a CPU: oneDNN called directly, the bar for our matmul.
  void direct() {
#if GLIA_ONEDNN
    if (gpu_ || dtype_ != DType::kFloat32 || std::string("onednn").find(settings_.filter) == std::string::npos)
      return;
    const BenchSizes& s = settings_.sizes;
    const Tensor x = random({s.T, s.H}, dtype_, 1, 1), w = random({s.F, s.H}, dtype_, 1, 2),
                 y = empty(context_, {s.T, s.F});
    const auto nothing = [] {};
    const Times t = sample(1, nothing, [&] {
      dnnl_sgemm('N', 'T', s.T, s.F, s.H, 1, x.data<float>(), s.H, w.data<float>(), s.H, 0, y.data<float>(), s.F);
    });
    report(fmt::format("oneDNN called directly [{}, {}] -> {}", s.T, s.H, s.F), "", t,
           {2.0 * static_cast<double>(s.T * s.H * s.F), 0});
#endif
  }

  std::vector<Var> make(const BenchOp& op, uint32_t set) {
    std::vector<Var> vars;
    for (const BenchInput& input : op.inputs) {
      const bool master = input.kind == BenchInput::Kind::kMaster;
      const Tensor value = random(input.shape, master ? DType::kFloat32 : dtype_, input.std, ++set * 97);
      Var v = input.gradient ? Var::parameter(value) : Var(value);
      if (master && dtype_ != DType::kFloat32 && input.gradient) v.set_copy(cast(value, dtype_));
      vars.push_back(std::move(v));
    }
    return vars;
  }

  // Every run of a sample has inputs of its own, 256 MB together, so that no cache holds them. On a GPU a sample is
  // the replay of one graph, so that the host's launches are not timed.
  void both_directions(const BenchOp& op) {
    int64_t bytes = 0;
    for (const BenchInput& input : op.inputs) bytes += input.shape.numel() * size_of(dtype_);
    const int64_t sets = std::clamp<int64_t>((int64_t{256} << 20) / std::max<int64_t>(bytes, 1), 1, gpu_ ? 16 : 4);
    std::vector<std::vector<Var>> inputs;
    for (int64_t i = 0; i < sets; ++i) inputs.push_back(make(op, static_cast<uint32_t>(i * 31)));

    const auto forward = [&] {
      const NoGrad no_grad(context_);
      for (const auto& x : inputs) op.run(context_, x);
    };
    std::vector<Var> outputs;
    std::vector<Tensor> dy;
    const auto record_all = [&] {
      outputs.clear();
      for (auto& x : inputs) {
        for (Var& v : x)
          if (v.requires_grad()) v.clear_grad();
        outputs.push_back(op.run(context_, x));
        if (dy.size() < inputs.size()) dy.push_back(random(outputs.back().shape(), outputs.back().dtype(), 1, 7));
      }
    };
    const auto backward_all = [&] {
      for (size_t i = 0; i < outputs.size(); ++i) backward(outputs[i], dy[i]);
    };
    const auto nothing = [] {};
    if (gpu_ && !op.waits) {
      forward();
      const auto graph = capture_graph(context_, forward);
      report(op.name, "", sample(sets, nothing, [&] { graph->replay(); }), op.forward);
      if (op.backward.flops + op.backward.bytes == 0) return;
      record_all();
      backward_all();  // eagerly once, so that plans exist
      record_all();
      const auto gradient = capture_graph(context_, backward_all);
      report(op.name, "gradient", sample(sets, nothing, [&] { gradient->replay(); }), op.backward);
    } else {
      report(op.name, "", sample(sets, nothing, forward), op.forward);
      if (op.backward.flops + op.backward.bytes > 0)
        report(op.name, "gradient", sample(sets, record_all, backward_all), op.backward);
    }
    outputs.clear(), inputs.clear(), dy.clear();
    context_.allocator().trim();
  }

  void report(const std::string& op, const char* direction, const Times& t, const BenchCost& cost) {
    const double gflops = 1e-3 * cost.flops / t.median, gb = 1e-3 * cost.bytes / t.median;
    const auto number = [](double v, int digits) {
      return v > 0 ? fmt::format("{:.{}f}", v, digits) : std::string("-");
    };
    fmt::print("{:<56} {:>9.1f} {:>9.1f} {:>9.1f} {:>8} {:>8} {:>7} {:>8}\n", *direction ? "  gradient" : op,
               t.median, t.min, t.max, number(gflops, 0), number(gb, 1), number(100 * gb / copy_, 0),
               number(100 * gflops / matmul_, 0));
    std::fflush(stdout);
    rows_.push_back({{"op", op},
                     {"direction", *direction ? direction : "forward"},
                     {"median_us", t.median},
                     {"min_us", t.min},
                     {"max_us", t.max},
                     {"samples", t.samples},
                     {"gflops", gflops},
                     {"gb_per_s", gb},
                     {"percent_of_copy", 100 * gb / copy_},
                     {"percent_of_matmul", 100 * gflops / matmul_}});
  }

  const Settings settings_;
  Context context_;
  const bool gpu_;
  const DType dtype_;
  double copy_ = 0, matmul_ = 0;  // GB/s, GFLOP/s
  Json rows_ = Json::array();
};

}  // namespace
}  // namespace glia

int bench_ops(int argc, char** argv) {
  using namespace glia;
  Settings s;
  s.device = cuda_device_count() > 0 ? "cuda" : "cpu";
  CLI::App app(
      "Times each op at the experiment's shapes, beside the largest copy and matmul rates of this machine.",
      "bench ops");
  app.add_option("--device", s.device, "cpu, cuda or cuda:N")->capture_default_str();
  app.add_option("--dtype", s.dtype, "float32 or bfloat16 [bfloat16 on a GPU, else float32]")
      ->check(CLI::IsMember({"float32", "bfloat16"}));
  app.add_option("--filter", s.filter, "only ops whose name contains this");
  app.add_option("--samples", s.samples, "timed runs of each row")
      ->capture_default_str()
      ->check(CLI::Range(3, 100000));
  app.add_option("--seconds", s.seconds, "the most that one row's samples may take")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1e6));
  app.add_option("--rows", s.sizes.T, "tokens in a batch")->capture_default_str()->check(CLI::Range(256, 1 << 20));
  app.add_option("--json", s.json, "write the results to this file too");
  return run_tool("bench ops", app, argc, argv, [&] {
    if (s.dtype.empty()) s.dtype = s.device.starts_with("cuda") ? "bfloat16" : "float32";
    return Bench(s).run();
  });
}
