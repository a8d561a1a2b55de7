// Runs over several devices: none is left with most of the last ones.
#include "experiments/training/balance.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "tests/test.h"

using namespace glia;
using namespace glia::test;

namespace {

struct Running {
  size_t device;
  double left;
};

// When the last of `runs` ends, taken in their order by `slots` workers a device; the runs on a device share it evenly.
double end_of(const std::vector<double>& runs, size_t devices, size_t slots, bool balanced) {
  std::vector<Running> running;
  size_t next = 0;
  double now = 0;
  const auto count = [&](size_t d) { return std::ranges::count(running, d, &Running::device); };
  while (next < runs.size() || !running.empty()) {
    for (size_t slot = 0; slot < slots; ++slot)
      for (size_t d = 0; d < devices; ++d) {
        if (next == runs.size() || count(d) >= static_cast<int64_t>(slots)) continue;
        std::vector<double> left(devices);
        for (const Running& r : running) left[r.device] += r.left;
        const double waiting = std::accumulate(runs.begin() + static_cast<int64_t>(next), runs.end(), 0.0);
        if (!balanced || is_turn_of(d, left, runs[next], waiting)) running.push_back({d, runs[next++]});
      }
    REQUIRE(!running.empty());  // whatever is left, somebody may begin it
    double step = std::numeric_limits<double>::infinity();
    for (const Running& r : running) step = std::min(step, r.left * static_cast<double>(count(r.device)));
    now += step;
    std::vector<int64_t> shares(devices);
    for (size_t d = 0; d < devices; ++d) shares[d] = count(d);
    for (Running& r : running) r.left -= step / static_cast<double>(shares[r.device]);
    std::erase_if(running, [](const Running& r) { return r.left <= 1e-9; });
  }
  return now;
}

}  // namespace

TEST_CASE("schedule: devices are through at about the same time") {
  // Nine configurations of five seeds, two of them dense.
  std::vector<double> ablation;
  for (int i = 0; i < 45; ++i) ablation.push_back(i % 9 < 2 ? 0.55 : 1 + 0.01 * (i % 7));
  for (const size_t devices : {1u, 2u, 3u, 4u, 8u})
    for (const size_t slots : {1u, 2u, 6u})
      for (size_t runs : {1u, 2u, 13u, 45u}) {
        const std::vector<double> some(ablation.begin(), ablation.begin() + static_cast<int64_t>(runs));
        const double whole = std::accumulate(some.begin(), some.end(), 0.0), longest = std::ranges::max(some);
        INFO(devices, " devices, ", slots, " slots, ", runs, " runs");
        const double ends = end_of(some, devices, slots, true);
        EXPECT(ends <= whole / static_cast<double>(devices) + longest + 1e-6);
        EXPECT(ends <= end_of(some, devices, slots, false) + longest / 2);
      }
  // As measured: the device that has slots free first would take the last four, and the other one none.
  std::vector<double> uneven;
  for (int i = 0; i < 12; ++i) uneven.push_back(i % 2 == 0 ? 0.9 : 1);
  for (int i = 0; i < 4; ++i) uneven.push_back(1);
  EXPECT(end_of(uneven, 2, 6, false) == doctest::Approx(9.4));
  EXPECT(end_of(uneven, 2, 6, true) == doctest::Approx(8));
}

TEST_CASE("schedule: who may begin the next run") {
  EXPECT(is_turn_of(0, std::vector<double>{5}, 1, 1));
  EXPECT(is_turn_of(1, std::vector<double>{3, 2}, 1, 1));   // the least
  EXPECT(!is_turn_of(0, std::vector<double>{3, 2}, 1, 1));  // the last one
  EXPECT(is_turn_of(0, std::vector<double>{3, 2}, 1, 3));   // enough is left for the other
  EXPECT(is_turn_of(0, std::vector<double>{2, 2}, 1, 1));
  EXPECT(contains(error_of([] { is_turn_of(2, std::vector<double>{0, 0}, 1, 1); }), "wants a device below 2"));
}
