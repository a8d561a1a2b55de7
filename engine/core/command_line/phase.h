// Tells a person on standard error what a program is busy with, when that takes more than a moment: a thread of its own
// looks at the clock, so that the work needs no calls to be seen.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>

namespace glia {

class PhaseDisplay {
 public:
  explicit PhaseDisplay(bool wanted = true, std::chrono::milliseconds patience = std::chrono::seconds(2));
  ~PhaseDisplay();
  PhaseDisplay(const PhaseDisplay&) = delete;
  PhaseDisplay& operator=(const PhaseDisplay&) = delete;

  // What begins now; "": nothing (a line on the terminal is wiped).
  void begin(const std::string& what);
  void step(int64_t done, int64_t of) { done_ = done, of_ = of; }  // of the phase; from any thread

 private:
  void watch();
  void show(bool terminal);
  const std::chrono::milliseconds patience_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string what_;
  std::chrono::steady_clock::time_point since_;
  std::atomic<int64_t> done_ = 0, of_ = 0;
  bool shown_ = false, stop_ = false;
  std::thread thread_;
};

}  // namespace glia
