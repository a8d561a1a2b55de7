// A disk that is full: a library for LD_PRELOAD under which the FULL_DISK_AT-th write below the folder FULL_DISK_UNDER fails
// with ENOSPC, and all later ones too. At 0 nothing fails. The number of writes goes to the file FULL_DISK_COUNT at exit.
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <atomic>

namespace {

std::atomic<long> writes{0};

template <class F> F* real(const char* name) { return reinterpret_cast<F*>(dlsym(RTLD_NEXT, name)); }

bool below(int fd) {
  static const char* const folder = getenv("FULL_DISK_UNDER");
  if (!folder) return false;
  char link[64], path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t n = readlink(link, path, sizeof path - 1);
  return n > 0 && strncmp(path, folder, strlen(folder)) == 0;
}

bool is_full(int fd) {
  static const char* const text = getenv("FULL_DISK_AT");
  static const long at = text ? atol(text) : 0;
  if (!below(fd)) return false;
  const long mine = ++writes;
  if (at == 0 || mine < at) return false;
  errno = ENOSPC;
  return true;
}

__attribute__((destructor)) void count() {
  const char* path = getenv("FULL_DISK_COUNT");
  FILE* file = path && writes > 0 ? fopen(path, "w") : nullptr;
  if (!file) return;
  fprintf(file, "%ld\n", writes.load());
  fclose(file);
}

}  // namespace

extern "C" {

ssize_t write(int fd, const void* bytes, size_t size) {
  static auto* next = real<ssize_t(int, const void*, size_t)>("write");
  return is_full(fd) ? -1 : next(fd, bytes, size);
}

int fsync(int fd) {
  static auto* next = real<int(int)>("fsync");
  return is_full(fd) ? -1 : next(fd);
}

// A stream's buffer goes to the disk inside the C library, past write(): what it would have written is lost.
int fflush(FILE* file) {
  static auto* next = real<int(FILE*)>("fflush");
  if (file && __fpending(file) > 0 && is_full(fileno(file))) {
    __fpurge(file);
    return EOF;
  }
  return next(file);
}
}
