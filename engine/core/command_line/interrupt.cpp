#include "engine/core/command_line/interrupt.h"

#include <signal.h>
#include <unistd.h>

#include <string_view>

namespace glia {
namespace {

// Only what may be called in a handler: no formatting, no locks. Nothing is saved here, since runs survive any kill.
void explain(int signal) {
  constexpr std::string_view kText =
      "\nstopped; the same command goes on: what is finished is skipped, the rest begins at its last checkpoint\n";
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, kText.data(), kText.size());
  ::signal(signal, SIG_DFL);
  ::raise(signal);
}

}  // namespace

void explain_interrupts() {
  for (const int signal : {SIGINT, SIGTERM}) {
    struct sigaction action {};
    if (::sigaction(signal, nullptr, &action) != 0 || action.sa_handler == SIG_IGN) continue;
    action.sa_handler = explain;
    ::sigaction(signal, &action, nullptr);
  }
}

void report_size_limits() { ::signal(SIGXFSZ, SIG_IGN); }

}  // namespace glia
