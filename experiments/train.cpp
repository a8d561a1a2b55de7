// Trains one configuration with every knob: ./experiments/train --help
#include "engine/comm/transport.h"
#include "engine/core/command_line/interrupt.h"
#include "engine/core/message.h"
#include "experiments/training/presets.h"
#include "experiments/training/schedule.h"

int main(int argc, char** argv) {
  glia::settle_threads(argv);
  if (glia::launch_place().process == 0) glia::explain_interrupts();  // of several processes one speaks
  glia::report_size_limits();
  glia::Ranks ranks;
  try {
    glia::CommandLine line = glia::parse_command_line(argc, argv, glia::Flag::kTrainOnly,
                                                      "Trains one configuration, by its name or by its parts.");
    if (line.done) return 0;
    if (line.given.insert("seeds").second) glia::set_value(line.options, glia::find_flag("seeds"), "1");
    ranks = glia::Ranks::join(line.options);
    const glia::Options options = glia::resolve(line);
    return glia::run_experiment(options, glia::find_study(options.study), {options.config},
                                glia::command_text(argc, argv), ranks);
  } catch (const std::exception& error) {
    ranks.end_all("train", glia::message_of(error));
    fmt::print(stderr, "train: {}\n", glia::message_of(error));
    return 2;
  }
}
