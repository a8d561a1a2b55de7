// Cases in child processes of their own: a hung or broken kernel ends only its case.
#pragma once
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace {

struct Child {
  std::string name;
  pid_t pid = 0;
  int rc = -1, seconds = 0;
  double start = 0;
  FILE* log = nullptr;
};

double now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// Runs the children, `parallel` at a time, each at most its seconds; prints their output in order.
void run_children(std::vector<Child>& children, int parallel) {
  size_t started = 0, printed = 0;
  int running = 0;
  while (printed < children.size()) {
    while (running < parallel && started < children.size()) {
      Child& c = children[started++];
      c.log = tmpfile();
      c.start = now();
      std::fflush(stdout);
      c.pid = fork();
      if (c.pid == 0) {
        dup2(fileno(c.log), 1);
        dup2(fileno(c.log), 2);
        execl("/proc/self/exe", "gemm_harness", "--case", c.name.c_str(), static_cast<char*>(nullptr));
        std::_Exit(4);
      }
      ++running;
    }
    usleep(5000);
    for (size_t i = printed; i < started; ++i) {
      Child& c = children[i];
      int status = 0;
      if (c.rc >= 0) continue;
      if (waitpid(c.pid, &status, WNOHANG) == c.pid) {
        c.rc = WIFEXITED(status) ? WEXITSTATUS(status) : 5;
      } else if (now() - c.start > c.seconds) {
        kill(c.pid, SIGKILL);
        waitpid(c.pid, &status, 0);
        c.rc = 124;
      } else {
        continue;
      }
      --running;
    }
    while (printed < started && children[printed].rc >= 0) {
      Child& c = children[printed++];
      char buffer[4096];
      rewind(c.log);
      for (size_t n; (n = fread(buffer, 1, sizeof buffer, c.log)) > 0;) fwrite(buffer, 1, n, stdout);
      std::fclose(c.log);
      if (c.rc != 0)
        std::printf("CASE %s ended with %d%s\n", c.name.substr(0, 60).c_str(), c.rc,
                    c.rc == 124 ? " (timeout)" : "");
      std::fflush(stdout);
    }
  }
}

}  // namespace
