#include <omp.h>
#include <sys/sysinfo.h>

#include <cstdlib>
#include <cstring>
#include <fstream>

#include "engine/device/backend.h"
#include "engine/device/cpu_threads.h"

namespace glia {
namespace {

class CpuBackend final : public Backend {
 public:
  Device device() const override { return Device::cpu(); }
  std::string description() const override {
    std::ifstream info("/proc/cpuinfo");
    std::string line, model = "CPU";
    while (std::getline(info, line))
      if (line.starts_with("model name") && line.find(": ") != std::string::npos) {
        model = line.substr(line.find(": ") + 2);
        break;
      }
    ask_for_threads_that_come();
    return fmt::format("{}, {} thread{}", model, omp_get_max_threads(), omp_get_max_threads() == 1 ? "" : "s");
  }
  void* allocate(int64_t bytes) override { return std::aligned_alloc(256, (bytes + 255) / 256 * 256); }
  void release(void* p) noexcept override { std::free(p); }
  void* allocate_pinned(int64_t bytes) override { return allocate(bytes); }
  void release_pinned(void* p) noexcept override { release(p); }
  // An empty tensor's pointers may be null, which memcpy and memset may not be given even for no bytes.
  void copy(void* to, const void* from, int64_t bytes, CopyKind) override {
    if (bytes > 0) std::memcpy(to, from, bytes);
  }
  void fill_zero(void* p, int64_t bytes) override {
    if (bytes > 0) std::memset(p, 0, bytes);
  }
  void synchronize() override {}
  int64_t free_bytes() override {
    struct sysinfo info {};
    return sysinfo(&info) == 0 ? static_cast<int64_t>(info.freeram) * info.mem_unit : 0;
  }
};

}  // namespace

std::unique_ptr<Backend> make_cpu_backend() { return std::make_unique<CpuBackend>(); }

}  // namespace glia
