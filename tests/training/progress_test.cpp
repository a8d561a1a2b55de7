// Progress as a terminal shows it: a pseudo-terminal of a chosen size, and a screen that understands what is sent.
#include "experiments/training/progress.h"

#include <poll.h>
#include <pty.h>
#include <unistd.h>

#include <memory>

#include "engine/core/command_line/phase.h"
#include "engine/core/command_line/terminal.h"
#include "tests/test.h"

using namespace glia;
using namespace glia::test;

namespace {

// What stands on a terminal after `bytes`. All that is written here is one column wide a code point.
class Screen {
 public:
  Screen(int columns, int rows) : columns_(columns), rows_(rows) {}

  void show(const std::string& bytes) {
    for (size_t i = 0; i < bytes.size(); ++i) {
      const char c = bytes[i];
      if (c == '\x1b') {
        const size_t end = bytes.find_first_of("AJK", i);
        REQUIRE(end != std::string::npos);
        escape(bytes[end], std::atoi(bytes.c_str() + i + 2));
        i = end;
      } else if (c == '\n') {
        down();
      } else if (c == '\r') {
        column_ = 0;
      } else {
        put(c);
      }
    }
  }
  std::string text() const {
    std::string all;
    for (const std::string& line : lines_) all += line + "\n";
    return all;
  }
  int wraps = 0;    // lines that were wider than the screen
  int too_far = 0;  // times that the cursor was sent above the screen's first line

 private:
  void escape(char what, int n) {
    if (what == 'J' || what == 'K') {
      lines_[at_].resize(std::min(lines_[at_].size(), column_));
      if (what == 'J') lines_.resize(at_ + 1);
      return;
    }
    const size_t top = lines_.size() > size_t(rows_) ? lines_.size() - size_t(rows_) : 0;
    if (at_ - top < size_t(n)) ++too_far, at_ = top;
    else at_ -= size_t(n);
  }
  void down() {
    if (++at_ == lines_.size()) lines_.emplace_back();
    column_ = 0;
  }
  void put(char c) {
    if (column_ == 0) lines_[at_].clear(), width_of_[at_] = 0;
    if ((c & 0xc0) != 0x80 && ++width_of_[at_] > columns_) ++wraps;
    lines_[at_] += c;
    column_ = lines_[at_].size();
  }

  const int columns_, rows_;
  std::vector<std::string> lines_{""};
  std::map<size_t, int> width_of_;
  size_t at_ = 0, column_ = 0;
};

struct Terminal {
  Terminal(int columns, int rows) : screen(columns, rows) {
    winsize size{};
    size.ws_col = static_cast<unsigned short>(columns), size.ws_row = static_cast<unsigned short>(rows);
    int slave = -1;
    REQUIRE(::openpty(&master, &slave, nullptr, nullptr, &size) == 0);
    out = ::fdopen(slave, "w");
  }
  ~Terminal() { ::fclose(out), ::close(master); }
  void read() {
    std::fflush(out);
    char bytes[4096];
    pollfd ready{master, POLLIN, 0};
    while (::poll(&ready, 1, 20) > 0 && (ready.revents & POLLIN))
      screen.show(std::string(bytes, static_cast<size_t>(::read(master, bytes, sizeof bytes))));
  }
  int master = -1;
  std::FILE* out = nullptr;
  Screen screen;
};

RunProgress after(int64_t step) {
  RunProgress p;
  p.step = step, p.total = 376, p.epoch = 0.3, p.tokens_per_second = 12345, p.seconds_left = 75;
  p.losses = {{"loss", 0.53}, {"ce", 0.52}};
  p.accuracy = 0.9123, p.split = "validation";
  return p;
}

}  // namespace

TEST_CASE("progress: a block of lines fits any terminal and leaves nothing behind") {
  for (const auto& [columns, rows] : {std::pair{200, 50}, {120, 40}, {80, 24}, {40, 6}, {20, 3}, {9, 2}, {1, 1}}) {
    INFO(columns, " x ", rows);
    Terminal terminal(columns, rows);
    {
      Progress progress(Progress::Mode::kLive, terminal.out);
      progress.plan(8, 8);
      for (int i = 0; i < 8; ++i) progress.start("seed0/astrocyte-hiérarchique", 1);
      for (int64_t step = 50; step <= 350; step += 100)
        for (int run = 0; run < 8; ++run) progress.update(run, after(step), true);
      terminal.read();
      EXPECT(terminal.screen.wraps == 0);
      progress.say("a line that stays");  // draws again, without the pause between drawings
      terminal.read();
      const std::string shown = terminal.screen.text();
      if (columns >= 40) EXPECT(contains(shown, "350/376"));
      EXPECT(contains(shown, "left") == (columns >= 40));
      EXPECT(contains(shown, "tok/s") == (columns > 120));
      for (int run = 0; run < 8; ++run) progress.finish(run, "done");
      terminal.read();
    }
    terminal.read();
    EXPECT(terminal.screen.too_far == 0);
    const std::string left = terminal.screen.text();
    EXPECT(left == "a line that stays\ndone\ndone\ndone\ndone\ndone\ndone\ndone\ndone\n\n");
  }
}

TEST_CASE("progress: into a pipe go whole lines without control characters") {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  std::FILE* out = ::fdopen(ends[1], "w");
  EXPECT(Progress::mode_of("auto", out) == Progress::Mode::kLines);
  {
    Progress progress(Progress::Mode::kLines, out);
    progress.plan(1, 1);
    progress.start("seed0/dense", 1);
    progress.update(0, after(50), true);
    status_line(out, "nothing");
    progress.finish(0, "done");
  }
  ::fclose(out);
  char bytes[4096];
  const std::string text(bytes, static_cast<size_t>(::read(ends[0], bytes, sizeof bytes)));
  ::close(ends[0]);
  EXPECT(text.find_first_of("\x1b\r") == std::string::npos);
  EXPECT(std::count(text.begin(), text.end(), '\n') == 2);
  EXPECT(text.ends_with("done\n"));
  EXPECT(contains(text, "tok/s"));
}

TEST_CASE("terminal: a fitted line is cut between code points, by the columns that they take") {
  EXPECT(fitted("plain", 9) == "plain");
  EXPECT(fitted("plain", 3) == "pla");
  EXPECT(fitted("é→x", 2) == "é→");
  EXPECT(fitted("日本語", 5) == "日本");
  EXPECT(fitted("e\xCC\x81x", 1) == "e\xCC\x81");  // a combining accent takes none
  EXPECT(fitted("\xFF\xFEx", 2) == "\xFF\xFE");
  EXPECT(fitted("x", 0).empty());
  EXPECT(columns_of("e\xCC\x81日本\xFFx") == 7);
  EXPECT(columns_of("") == 0);
}
