// Trains all configurations over the seeds and ends with the table: ./experiments/run_all --help
#include "engine/comm/transport.h"
#include "engine/core/command_line/interrupt.h"
#include "engine/core/message.h"
#include "experiments/training/presets.h"
#include "experiments/training/schedule.h"

int main(int argc, char** argv) {
  glia::settle_threads(argv);
  if (glia::launch_place().process == 0) glia::explain_interrupts();  // of several processes one speaks
  glia::report_size_limits();
  try {
    const glia::CommandLine line =
        glia::parse_command_line(argc, argv, glia::Flag::kRunAll,
                                 "Trains the configurations over the seeds, side by side where there is room, and "
                                 "prints the table of accuracies and\n"
                                 "specialisations. Killed and started again it goes on where it was.");
    if (line.done) return 0;
    const glia::Options options = glia::of_this_process(glia::resolve(line));
    const glia::Study study = glia::find_study(options.study);
    return glia::run_experiment(options, study, glia::parse_configs(options.configs, study),
                                glia::command_text(argc, argv));
  } catch (const std::exception& error) {
    fmt::print(stderr, "run_all: {}\n", glia::message_of(error));
    return 2;
  }
}
