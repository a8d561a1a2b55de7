#include "tools/benchmarks/pretrain.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "engine/core/build_info.h"
#include "experiments/pretraining/run.h"
#include "experiments/pretraining/text_feed.h"
#include "experiments/report/statistics.h"
#include "experiments/training/schedule.h"
#include "tools/benchmarks/command.h"
#include "tools/benchmarks/profile.h"
#include "tools/benchmarks/work.h"

namespace glia {
namespace {

int run(const PretrainOptions& o, int64_t steps) {
  const Study study = find_study(o.study);
  const RunModel model = run_model(o, configuration_of(study, o.config));
  const Corpus corpus = load_corpus(corpus_options(o), nullptr);
  Context context(Device::parse(o.device), static_cast<uint64_t>(o.seed));
  if (o.kernels != "auto") context.set_kernels(parse_kernels(o.kernels));
  const double ceiling =
      matmul_ceiling_tflops(context, o.precision == "bfloat16" ? DType::kBFloat16 : DType::kFloat32);
  context.allocator().trim();

  constexpr int64_t kEndless = 1 << 30;
  Trainer trainer(context, pretraining_plan(o, corpus, model, kEndless), o, model, static_cast<uint64_t>(o.seed),
                  {});
  context.allocator().reset_peak();                   // a replayed graph asks for nothing: its capture does
  trainer.timed_steps(std::min<int64_t>(steps, 10));  // plans, graphs, caches
  const int64_t tokens_before = trainer.tokens_done();
  const std::vector<double> times = trainer.timed_steps(steps);
  const double tokens = static_cast<double>(trainer.tokens_done() - tokens_before) / static_cast<double>(steps);
  const double ms = statistics::median(times);
  const int64_t masked = training_pieces(o, corpus).masking.rows;
  // Pieces are taken to have their whole length.
  const double length = static_cast<double>(o.max_length);
  const double flops =
      step_flops(trainer.model().config(), {tokens, tokens * length, static_cast<double>(masked), tokens / length},
                 trainer.model().config().bert.vocabulary, true);
  fmt::print("{}, {}, {:.0f} places a step, {} masked, {} parameters; {}; commit {}\n", model.name, o.precision,
             tokens, masked, trainer.model().parameters().count(), context.backend().description(), build_commit());
  fmt::print("step       {:.3f} ms median, {:.3f} min, {:.3f} max over {} steps\n", ms,
             *std::min_element(times.begin(), times.end()), *std::max_element(times.begin(), times.end()), steps);
  fmt::print(
      "speed      {:.0f} tokens/s, {:.3g} TFLOP a step, {:.4g} TFLOP/s = {:.1f} % of the {:.4g} that a large "
      "matmul reaches here\n",
      1e3 * tokens / ms, 1e-12 * flops, 1e-9 * flops / ms, 1e-7 * flops / ms / ceiling, ceiling);
  fmt::print("memory     {:.2f} GiB peak; bytes: {}\n",
             static_cast<double>(context.allocator().stats().peak) / (int64_t{1} << 30),
             context.allocator().report());
  const int64_t profiled = context.device().is_cuda() ? 10 : 2;
  fmt::print("{}", profile_text(profile_steps(context, trainer, profiled, !model.moe.dense()), ms));
  return 0;
}

}  // namespace
}  // namespace glia

int bench_pretrain(int argc, char** argv) {
  using namespace glia;
  return bench_main("bench pretrain", [&] {
    const BenchCommand bench = split_command("bench pretrain", argc, argv, {}, "--bench-steps");
    const std::vector<const char*> words = bench.pointers();
    const PretrainCommand command = parse_pretrain(static_cast<int>(words.size()), words.data());
    if (!command.done) return run(command.options, bench.steps);
    fmt::print("\nbench pretrain has --bench-steps N [50] beside the flags above, and writes nothing.\n");
    return 0;
  });
}
