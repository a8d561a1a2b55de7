// What a person sees while runs are under way: on a terminal a block of lines that is drawn again and again,
// elsewhere plain lines now and then. Thread-safe.
#pragma once
#include <cstdio>
#include <map>
#include <mutex>
#include <optional>
#include <string>

#include "engine/core/clock.h"
#include "experiments/records/metrics.h"

namespace glia {

struct RunProgress {
  int64_t step = 0, total = 0;
  double epoch = 0;
  results::NamedValues
      losses;  // of the last logged steps: loss, with the weighted parts in it, then its named parts
  std::optional<double> accuracy;  // of the last evaluation
  std::string split;               // it was made on
  double tokens_per_second = 0, seconds_left = 0;
};

class Progress {
 public:
  enum class Mode { kLive, kLines, kOff };
  // "auto": live where `out` is a terminal.
  static Mode mode_of(const std::string& text, std::FILE* out);

  Progress(Mode mode, std::FILE* out) : mode_(mode), out_(out) {}
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // Work is counted in any unit, the same for all runs: seconds by an estimate, or steps.
  void plan(int runs, double work);
  int start(const std::string& title, double work);
  void update(int run, const RunProgress& now, bool evaluated);
  // `line` stays on the screen. `done_here`: false for a run that another program did or does.
  void finish(int run, const std::string& line);
  void skip(double work, const std::string& line);  // planned, but not to be done
  double remaining(int run) const;                  // of its work; 0 once it is finished
  void say(const std::string& line);                // also when off

 private:
  struct Row {
    std::string title;
    double work = 0;
    RunProgress now;
    double done() const {
      return now.total > 0 ? work * static_cast<double>(now.step) / static_cast<double>(now.total) : 0;
    }
    Clock::time_point printed{};
    bool any = false;
  };
  std::string overall() const;
  void erase();
  void draw(bool force);
  void print(const std::string& line);

  const Mode mode_;
  std::FILE* out_;
  mutable std::mutex mutex_;
  std::map<int, Row> rows_;
  int next_ = 0, runs_ = 0, finished_ = 0, drawn_ = 0;
  double work_ = 0, work_done_ = 0,
         work_begun_ = 0;  // work_begun_: what was done of runs before they were resumed here
  Clock::time_point begin_ = Clock::now(), last_draw_{};
};

// With columns; where these are wider than `width` (0: any) a shorter line of fewer figures.
std::string progress_line(const std::string& title, const RunProgress& now, int width = 0);
std::string clock_text(double seconds);  // "0:07", "12:40", "1:02:33"
std::string short_count(double n);       // "950", "12.3k", "4.56M"

}  // namespace glia
