// What of the machine a program takes: its GPUs, runs side by side, threads that sleep, its share where it is one of several.
#include <omp.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "experiments/training/schedule.h"

namespace glia {

std::vector<Device> devices_of(const Options& options) {
  std::vector<Device> devices;
  if (options.device == "cuda" && cuda_device_count() > 1)
    for (int i = 0; i < cuda_device_count(); ++i) devices.push_back(Device::cuda(i));
  else devices.push_back(Device::parse(options.device));
  return devices;
}

int64_t jobs_of(const Options& options, size_t devices) {
  if (options.jobs > 0) return options.jobs;
  if (options.device != "cpu") return 2 * static_cast<int64_t>(devices);
  // The quick model's steps are too short to be worth sharing: a run a core is faster than a run on all cores.
  return options.preset == "quick" ? std::clamp<int64_t>(omp_get_num_procs(), 1, 8) : 1;
}

void settle_threads(char** argv) {
  // Between two parallel loops libgomp's threads spin, for milliseconds: with other programs on the cores each loop
  // then waits for a thread that is not running. Measured, a step alone and beside two busy loops: 16.6 and 161 ms with
  // a count of 10,000, 17.4 and 47.5 ms with 1,000. It reads its settings before main().
  if (std::getenv("OMP_WAIT_POLICY") || std::getenv("GOMP_SPINCOUNT")) return;
  ::setenv("GOMP_SPINCOUNT", "1000", 1);
  ::execv("/proc/self/exe", argv);  // where that is not possible, everything still works
}

Options of_this_process(const Options& options) {
  Options o = options;
  const LaunchPlace place = launch_place();
  if (place.processes == 1) return o;
  if (o.device == "cuda") o.device = fmt::format("cuda:{}", place.local % std::max(1, cuda_device_count()));
  else if (o.jobs == 0) o.jobs = 1;
  if (place.process == 0) return o;
  o.progress = "off", o.estimate = false;
  if (!std::freopen("/dev/null", "w", stdout)) fail_input("/dev/null: cannot open it for writing");
  return o;
}

}  // namespace glia
