#include "engine/core/command_line/phase.h"

#include <fmt/format.h>

#include <cstdio>

#include "engine/core/clock.h"
#include "engine/core/command_line/terminal.h"

namespace glia {

PhaseDisplay::PhaseDisplay(bool wanted, std::chrono::milliseconds patience) : patience_(patience) {
  if (wanted) thread_ = std::thread([this] { watch(); });
}

PhaseDisplay::~PhaseDisplay() {
  begin("");
  {
    const std::lock_guard guard(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void PhaseDisplay::begin(const std::string& what) {
  const std::lock_guard guard(mutex_);
  if (shown_) status_line(stderr, "");
  what_ = what, shown_ = false, since_ = Clock::now();
  done_ = of_ = 0;
}

void PhaseDisplay::show(bool terminal) {
  const double seconds = seconds_since(since_);
  const int64_t done = done_, of = of_;
  std::string text = fmt::format("{} … {:.0f} s", what_, seconds);
  if (of > 0) text += fmt::format(", {} of {} ({} %)", done, of, 100 * done / of);
  if (terminal) status_line(stderr, text);
  else fmt::print(stderr, "{}\n", text);
  std::fflush(stderr);
  shown_ = true;
}

// On a terminal one line that is written anew; into a pipe or file a line now and then, more and more rarely.
void PhaseDisplay::watch() {
  const bool terminal = is_terminal(stderr);
  std::unique_lock lock(mutex_);
  Clock::duration next{};
  Clock::time_point phase{};
  while (!stop_) {
    changed_.wait_for(lock, patience_ / 4);
    if (stop_ || what_.empty()) continue;
    if (phase != since_) phase = since_, next = patience_;
    const Clock::duration elapsed = Clock::now() - since_;
    if (elapsed < next) continue;
    next = terminal ? elapsed : 2 * elapsed;
    show(terminal);
  }
}

}  // namespace glia
