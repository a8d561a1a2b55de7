#include "experiments/training/progress.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "engine/core/command_line/terminal.h"

namespace glia {

Progress::Mode Progress::mode_of(const std::string& text, std::FILE* out) {
  if (text == "live") return Mode::kLive;
  if (text == "lines") return Mode::kLines;
  if (text == "off") return Mode::kOff;
  return is_terminal(out) ? Mode::kLive : Mode::kLines;
}

std::string clock_text(double seconds) {
  if (!(seconds >= 0) || seconds > 1e8) return "-:--";
  const auto s = static_cast<int64_t>(std::lround(seconds));
  if (s >= 3600) return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
  return fmt::format("{}:{:02}", s / 60, s % 60);
}

std::string short_count(double n) {
  if (n >= 1e6) return fmt::format("{:.3g}M", n / 1e6);
  if (n >= 1e3) return fmt::format("{:.3g}k", n / 1e3);
  return fmt::format("{:.0f}", n);
}

namespace {

// What a narrow terminal has room for: how far, how good, how long.
std::string short_line(const std::string& title, const RunProgress& p, int width) {
  std::string tail = fmt::format(" {}/{}", p.step, p.total);
  const auto append = [&](const std::string& part) {
    if (static_cast<int>(tail.size() + part.size()) + 12 <= width) tail += part;
  };
  append(fmt::format(" left {}", clock_text(p.seconds_left)));
  if (p.accuracy) append(fmt::format(" {:.4f}", *p.accuracy));
  append(fmt::format(" loss {:.4f}", p.losses.get("loss", 0)));
  return fitted(title, std::max(0, width - static_cast<int>(tail.size()))) + tail;
}

}  // namespace

std::string progress_line(const std::string& title, const RunProgress& p, int width) {
  std::string line = fmt::format("{:<29} {:>5}/{:<5} ep {:<5.2f}", title, p.step, p.total, p.epoch);
  // The parts that the table knows have columns of their own in every line, so that lines stand below each other.
  for (const results::MetricRow* row : results::metric_rows(results::Stage::step))
    if (row->column)
      line += p.losses.contains(row->name) ? fmt::format(" {} {:<7.4f}", row->label, p.losses.get(row->name))
                                           : std::string(std::string(row->label).size() + 9, ' ');
  for (const auto& [name, value] : p.losses)
    if (!results::metric_row(results::Stage::step, name)) line += fmt::format(" {} {:<7.4f}", name, value);
  line += p.accuracy ? fmt::format(" {:>4} {:.4f}", p.split == "validation" ? "val" : p.split, *p.accuracy)
                     : std::string(12, ' ');
  line += fmt::format(" {:>6} tok/s  left {}", short_count(p.tokens_per_second), clock_text(p.seconds_left));
  return width > 0 && fitted(line, width) != line ? short_line(title, p, width) : line;
}

Progress::~Progress() {
  const std::lock_guard lock(mutex_);
  erase();
}

void Progress::plan(int runs, double work) {
  const std::lock_guard lock(mutex_);
  runs_ += runs;
  work_ += work;
  begin_ = Clock::now();
}

std::string Progress::overall() const {
  double done = work_done_;
  for (const auto& [id, row] : rows_) done += row.done();
  const double elapsed = seconds_since(begin_), here = done - work_begun_;
  const double left = here > 0 ? elapsed * (work_ - done) / here : -1;
  return fmt::format("{} of {} runs done, {:.0f} % of the work, {} gone, {} left", finished_, runs_,
                     work_ > 0 ? 100 * done / work_ : 100.0, clock_text(elapsed), clock_text(left));
}

void Progress::erase() {
  if (drawn_ > 0) fmt::print(out_, "\x1b[{}A\r\x1b[J", drawn_);
  drawn_ = 0;
}

void Progress::draw(bool force) {
  if (mode_ != Mode::kLive) return;
  const auto now = Clock::now();
  if (!force && now - last_draw_ < std::chrono::milliseconds(100)) return;
  last_draw_ = now;
  erase();
  // Never more than fits: what has scrolled or wrapped could not be wiped.
  const TerminalSize size = terminal_size(out_);
  const int width = size.columns - 1;
  const auto line = [&](const std::string& text) {
    fmt::print(out_, "{}\n", fitted(text, width));
    ++drawn_;
  };
  for (const auto& [id, row] : rows_) {
    if (drawn_ + 2 >= size.rows) break;
    line(row.any ? progress_line(row.title, row.now, width) : row.title + "  starting");
  }
  if (size.rows > 1) line(overall());
  std::fflush(out_);
}

void Progress::print(const std::string& line) {
  erase();
  fmt::print(out_, "{}\n", line);
  std::fflush(out_);
}

int Progress::start(const std::string& title, double work) {
  const std::lock_guard lock(mutex_);
  Row& row = rows_[next_];
  row.title = title;
  row.work = work;
  draw(true);
  return next_++;
}

void Progress::update(int run, const RunProgress& now, bool evaluated) {
  const std::lock_guard lock(mutex_);
  Row& row = rows_.at(run);
  // What a resumed run brings along was not done in this program's time.
  const bool resumed = !row.any && now.tokens_per_second == 0;
  row.now = now;
  if (resumed) work_begun_ += row.done();
  row.any = true;
  const auto time = Clock::now();
  if (mode_ == Mode::kLines && now.tokens_per_second > 0 &&
      (evaluated || time - row.printed > std::chrono::seconds(5))) {
    row.printed = time;
    fmt::print(out_, "{} | {}\n", progress_line(row.title, now), overall());
    std::fflush(out_);
  }
  draw(false);
}

void Progress::finish(int run, const std::string& line) {
  const std::lock_guard lock(mutex_);
  work_done_ += rows_.at(run).work;
  rows_.erase(run);
  ++finished_;
  if (mode_ != Mode::kOff) print(line);
  draw(true);
}

void Progress::skip(double work, const std::string& line) {
  const std::lock_guard lock(mutex_);
  --runs_;
  work_ -= work;
  if (mode_ != Mode::kOff && !line.empty()) print(line);
  draw(true);
}

double Progress::remaining(int run) const {
  const std::lock_guard lock(mutex_);
  const auto row = rows_.find(run);
  return row == rows_.end() ? 0 : row->second.work - row->second.done();
}

void Progress::say(const std::string& line) {
  const std::lock_guard lock(mutex_);
  print(line);
  draw(true);
}

}  // namespace glia
