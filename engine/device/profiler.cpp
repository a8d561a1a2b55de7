#include "engine/device/profiler.h"

#include "engine/core/clock.h"
#include "engine/device/backend.h"
#include "engine/device/stream.h"

namespace glia {

#if GLIA_CUDA
std::shared_ptr<void> mark_cuda_time(CudaHandles& cuda);  // cuda/backend.cpp
double cuda_milliseconds_between(const void* begin, const void* end);
void delay_cuda_stream(Stream stream, double milliseconds);  // cuda/delay.cu
#endif

std::shared_ptr<void> mark_time([[maybe_unused]] Backend& backend) {
#if GLIA_CUDA
  if (backend.cuda()) return mark_cuda_time(*backend.cuda());
#endif
  return std::make_shared<Clock::time_point>(Clock::now());
}

double milliseconds_between([[maybe_unused]] Backend& backend, const void* begin, const void* end) {
#if GLIA_CUDA
  if (backend.cuda()) return cuda_milliseconds_between(begin, end);
#endif
  return std::chrono::duration<double, std::milli>(*static_cast<const Clock::time_point*>(end) -
                                                   *static_cast<const Clock::time_point*>(begin))
      .count();
}

void delay([[maybe_unused]] Backend& backend, [[maybe_unused]] double milliseconds) {
#if GLIA_CUDA
  if (backend.cuda()) delay_cuda_stream(backend.cuda()->stream, milliseconds);
#endif
}

std::map<std::string, Profiler::Entry> Profiler::report(Backend& backend) {
  backend.synchronize();
  std::map<std::string, Entry> by_op;
  for (const Span& span : spans_) {
    Entry& entry = by_op[span.op];
    entry.milliseconds += milliseconds_between(backend, span.begin.get(), span.end.get());
    ++entry.calls;
  }
  spans_.clear();
  return by_op;
}

}  // namespace glia
