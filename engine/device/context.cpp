#include "engine/device/context.h"

#include <charconv>
#include <cstdlib>

namespace glia {

Device Device::parse(std::string_view text) {
  if (text == "cpu") return cpu();
  if (text == "cuda") return cuda();
  if (text.starts_with("cuda:")) {
    int index = -1;
    const auto [end, error] = std::from_chars(text.data() + 5, text.data() + text.size(), index);
    if (error == std::errc{} && end == text.data() + text.size() && index >= 0) return cuda(index);
  }
  fail_input("device: expected cpu, cuda or cuda:N, got '{}'", text);
}

std::string missing_code_text(std::string_view gpu, int capability, std::string_view built) {
  return fmt::format(
      "{} has compute capability {}.{}, this build holds code for {}; build with: make CUDA_ARCHS={}{}", gpu,
      capability / 10, capability % 10, built, capability, capability == 90 ? "a" : "");
}

Kernels parse_kernels(std::string_view text) {
  if (text == "auto") return Kernels::kAuto;
  if (text == "hopper") return Kernels::kHopper;
  if (text == "portable") return Kernels::kPortable;
  fail_input("kernels: expected auto, hopper or portable, got '{}'", text);
}

namespace {

std::unique_ptr<Backend> make_backend(Device device) {
  if (device.is_cpu()) return make_cpu_backend();
#if GLIA_CUDA
  const int count = cuda_device_count();
  if (device.index >= count)
    fail_input("{}: this machine has {} usable CUDA device{}; use --device cpu", device.str(), count,
               count == 1 ? "" : "s");
  if (const std::string problem = cuda_device_problem(device.index); !problem.empty())
    fail_input("{}: {}", device.str(), problem);
  return make_cuda_backend(device.index);
#else
  fail_input("{}: this build has no CUDA (built with CUDA=0); use --device cpu", device.str());
#endif
}

}  // namespace

#if !GLIA_CUDA
int cuda_device_count() { return 0; }
std::string cuda_device_problem(int) { return "this build has no CUDA"; }
#endif

bool finite_check_wanted() {
  const char* value = std::getenv("GLIA_CHECK_FINITE");
  return value && *value && std::string_view(value) != "0";
}

Context::Context(Device device, uint64_t seed)
    : backend_(make_backend(device)),
      allocator_(std::make_unique<Allocator>(*backend_)),
      communicator_(make_local_communicator(*backend_)),
      seed_(seed) {
  step_ = static_cast<uint32_t*>(backend_->allocate(sizeof(uint32_t)));
  CHECK(step_, "out of memory on {}: 4 bytes for the step", device.str());
  set_step(0);
  check_finite = finite_check_wanted();
  if (const char* kernels = std::getenv("GLIA_KERNELS"); kernels && device.is_cuda())
    set_kernels(parse_kernels(kernels));
}

void Context::set_communicator(std::unique_ptr<Communicator> communicator) {
  CHECK(communicator && communicator->rank() >= 0 && communicator->rank() < communicator->size(),
        "context: wants a communicator with a rank below its size");
  communicator_ = std::move(communicator);
}

Context::~Context() {
  communicator_.reset();  // where another rank has failed, giving memory back would wait for its sums for ever
  backend_->release(step_);
}

void Context::set_kernels(Kernels kernels) {
  CudaHandles* cuda = backend_->cuda();
  if (kernels == Kernels::kHopper && !(cuda && cuda->is_hopper()))
    fail_input("kernels hopper: wants a GPU of compute capability 9.0 with a multiple of 4 multiprocessors, got {}",
               backend_->description());
  if (cuda) cuda->kernels = kernels;
}

void Context::set_step(uint32_t step) { backend_->copy(step_, &step, sizeof step, CopyKind::kHostToDevice); }

}  // namespace glia
