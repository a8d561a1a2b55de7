// Time by op. Off by default and then free; when on, every op is bracketed by a pair of time marks on the stream
// (CUDA events, or the host clock on a CPU), read back when the report is asked for.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace glia {

class Backend;

class Profiler {
 public:
  bool enabled = false;

  struct Entry {
    double milliseconds = 0;
    int64_t calls = 0;
  };
  // Milliseconds and calls by op since the last report; waits for the device.
  std::map<std::string, Entry> report(Backend& backend);

 private:
  friend class ProfileScope;
  struct Span {
    const char* op;
    std::shared_ptr<void> begin, end;
  };
  std::vector<Span> spans_;
};

// Time marks of a backend.
std::shared_ptr<void> mark_time(Backend& backend);
double milliseconds_between(Backend& backend, const void* begin, const void* end);

// Keeps the stream busy for so long, without waiting: what the host enqueues meanwhile then runs back to back, and
// times by op are the device's alone. Nothing on a CPU.
void delay(Backend& backend, double milliseconds);

class ProfileScope {
 public:
  ProfileScope(Profiler& profiler, const char* op, Backend& backend) : profiler_(profiler), backend_(backend) {
    if (profiler.enabled) span_ = {op, mark_time(backend), nullptr};
  }
  ~ProfileScope() {
    if (span_.begin) {
      span_.end = mark_time(backend_);
      profiler_.spans_.push_back(std::move(span_));
    }
  }
  ProfileScope(const ProfileScope&) = delete;
  ProfileScope& operator=(const ProfileScope&) = delete;

 private:
  Profiler& profiler_;
  Backend& backend_;
  Profiler::Span span_{};
};

}  // namespace glia
