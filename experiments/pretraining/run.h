// Pretraining from its first step to a folder that --init and transformers read.
//
// While it runs, the folder holds pretraining.json (what is computed, the plan, the text that was read), metrics.jsonl and a checkpoint;
// at the end model.safetensors, vocab.txt, tokenizer_config.json, README.md and, last of all, config.json. Since every number is a
// function of seed and step, a run that is killed and resumed ends with the bytes of an undisturbed one.
#pragma once

#include <cstdio>

#include "experiments/pretraining/options.h"
#include "experiments/training/ranks.h"
#include "experiments/training/training.h"

namespace glia {

// How a clock budget became a number of steps. Recorded at the start and used on resume, whatever the rate is then.
struct ClockPlan {
  int64_t steps = 0;
  double minutes = 0;  // 0: the steps were asked for
  double step_ms = 0, evaluation_ms = 0;
};
// The steps that fit into the minutes with their evaluations: `step_ms` is measured with all of a step's batches; with a ramp earlier
// ones have fewer.
int64_t steps_in(double minutes, const PretrainOptions& options, double step_ms, double evaluation_ms);
// What is trained for that many steps, on the corpus, which must outlive it.
TrainingPlan pretraining_plan(const PretrainOptions& options, const Corpus& corpus, const RunModel& model,
                              int64_t steps);
// Steps between evaluations: --eval-every, or a tenth of all.
int64_t evaluation_interval(const PretrainOptions& options, int64_t steps);

// The whole of ./experiments/pretrain after the command line. Returns the exit status.
// Of several ranks every process calls it; the first one writes.
int run_pretraining(const PretrainOptions& options, const std::string& command, std::FILE* out = stdout,
                    const Ranks& ranks = Ranks::alone());

}  // namespace glia
