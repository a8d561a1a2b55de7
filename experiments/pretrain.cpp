// Masked-LM pretraining: weights of one's own in minutes: ./experiments/pretrain --help
#include "engine/comm/transport.h"
#include "engine/core/command_line/interrupt.h"
#include "engine/core/message.h"
#include "experiments/pretraining/run.h"
#include "experiments/training/schedule.h"

int main(int argc, char** argv) {
  glia::settle_threads(argv);
  if (glia::launch_place().process == 0) glia::explain_interrupts();  // of several processes one speaks
  glia::report_size_limits();
  glia::Ranks ranks;
  try {
    const glia::PretrainCommand command = glia::parse_pretrain(argc, argv);
    if (command.done) return 0;
    ranks = glia::Ranks::join(command.options);
    return glia::run_pretraining(command.options, glia::command_text(argc, argv), stdout, ranks);
  } catch (const std::exception& error) {
    ranks.end_all("pretrain", glia::message_of(error));
    fmt::print(stderr, "pretrain: {}\n", glia::message_of(error));
    return 2;
  }
}
