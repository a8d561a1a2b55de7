#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "engine/core/bfloat16.h"
#include "engine/core/check.h"
#include "engine/core/command_line/interrupt.h"
#include "engine/core/file.h"
#include "engine/core/random/rng.h"
#include "engine/device/context.h"
#include "tests/test.h"

using namespace glia;
using glia::test::contains;
using glia::test::error_of;

TEST_CASE("check: throws with the message and the place") {
  const std::string message = error_of([] { CHECK(1 == 2, "softmax: wants {}, got {}", 1, 2); });
  EXPECT(contains(message, "softmax: wants 1, got 2"));
  EXPECT(contains(message, "core_test.cpp"));
}

TEST_CASE("rng: the known answer of Philox 4x32-10 for key 0 and counter 0") {
  const PhiloxBlock r = random_block(0, 0, 0, 0);
  EXPECT(r.word[0] == 0x6627e8d5u);
  EXPECT(r.word[1] == 0xe169c58du);
  EXPECT(r.word[2] == 0xbc57ac4cu);
  EXPECT(r.word[3] == 0x9b00dbd8u);
}

TEST_CASE("rng: moments of normal, truncated normal and uniform") {
  const int n = 100000;
  double sum = 0, square = 0, fourth = 0, uniform = 0, truncated = 0;
  for (int i = 0; i < n; ++i) {
    const double z = random_normal(7, purpose::kTest, 3, i), t = random_truncated_normal(7, purpose::kTest, 4, i);
    sum += z, square += z * z, fourth += z * z * z * z, truncated += t * t;
    REQUIRE(std::abs(t) <= 2.0);
    uniform += uniform_from(random_bits(7, purpose::kTest, 5, i));
  }
  EXPECT(std::abs(sum / n) < 0.015);
  EXPECT(std::abs(square / n - 1) < 0.02);
  EXPECT(std::abs(fourth / n - 3) < 0.12);
  EXPECT(std::abs(uniform / n - 0.5) < 0.005);
  EXPECT(std::abs(truncated / n - 0.7737) < 0.01);  // variance of N(0,1) cut at ±2
}

TEST_CASE("rng: its logarithm and cosine agree with the C library's") {
  for (int i = 1; i < 4000; ++i) {
    const double u = i / 4000.0;
    EXPECT(std::abs(rng_detail::log_exact(u) - std::log(u)) < 4e-15 * std::abs(std::log(u)) + 1e-16);
    EXPECT(std::abs(rng_detail::cos_two_pi(u) - std::cos(2 * M_PI * u)) < 4e-15);
  }
}

TEST_CASE("rng: a permutation holds every index once and depends on its step") {
  const auto a = random_permutation(1000, 42, purpose::kShuffle, 0),
             b = random_permutation(1000, 42, purpose::kShuffle, 1);
  EXPECT(a != b);
  std::vector<int> seen(1000);
  for (int i : a) ++seen[i];
  EXPECT(std::all_of(seen.begin(), seen.end(), [](int c) { return c == 1; }));
}

TEST_CASE("bfloat16: rounds to nearest even") {
  EXPECT(bfloat16(1.0f).bits == 0x3f80);
  EXPECT(bfloat16(1.00390625f).bits == 0x3f80);  // half way, even below
  EXPECT(bfloat16(1.01171875f).bits == 0x3f82);  // half way, even above
  EXPECT(std::isnan(static_cast<float>(bfloat16(NAN))));
}

TEST_CASE("file: an atomic write is read back, and a failed one leaves nothing") {
  const auto folder = glia::test::temporary_path("file");
  write_file_atomic(folder / "a" / "b.txt", "hello");
  EXPECT(read_file(folder / "a" / "b.txt") == "hello");
  EXPECT(contains(error_of([&] { read_file(folder); }), "found a directory"));
  EXPECT(contains(error_of([&] { read_file(folder / "none"); }), "none: cannot open"));
  EXPECT(contains(error_of([&] { write_file_atomic(folder / "a", "x"); }),
                  "expected a file to write, found a directory"));
  EXPECT(std::distance(std::filesystem::directory_iterator(folder), {}) == 1);
  std::filesystem::remove_all(folder);
  EXPECT(hash_bytes("abc") != hash_bytes("abd"));
  EXPECT(hash_bytes("abc", 1) != hash_bytes("abc", 2));
}

TEST_CASE("file: a write takes away what a killed program left of the same file, and nothing else") {
  const auto folder = glia::test::temporary_path("left");
  const pid_t gone = ::fork();
  if (gone == 0) ::_exit(0);
  ::waitpid(gone, nullptr, 0);
  const std::string left = fmt::format("b.txt.{}.tmp", gone), other = fmt::format("c.txt.{}.tmp", gone);
  const std::string alive = fmt::format("b.txt.{}.tmp", ::getppid());
  for (const std::string& name : {other, alive, std::string("b.txt.tmp"), std::string("b.txt.x.tmp"), left})
    write_file_atomic(folder / name, "half");
  write_file_atomic(folder / "b.txt", "whole");
  EXPECT(!std::filesystem::exists(folder / left));
  for (const std::string& name : {other, alive, std::string("b.txt.tmp"), std::string("b.txt.x.tmp")})
    EXPECT(std::filesystem::exists(folder / name));
  std::filesystem::remove_all(folder);
}

TEST_CASE("device: a GPU that the build has no code for is told with what to type") {
  EXPECT(missing_code_text("NVIDIA GeForce RTX 5090", 120, "80 90a") ==
         "NVIDIA GeForce RTX 5090 has compute capability 12.0, this build holds code for 80 90a; build with: make "
         "CUDA_ARCHS=120");
  EXPECT(test::contains(missing_code_text("H100", 90, "80"), "CUDA_ARCHS=90a"));
}

TEST_CASE("device: kernels are chosen by name, and those that a device has not are an error") {
  EXPECT(parse_kernels("portable") == Kernels::kPortable);
  EXPECT(test::error_of([] { parse_kernels("fast"); }) == "kernels: expected auto, hopper or portable, got 'fast'");
  Context context(Device::cpu());
  context.set_kernels(Kernels::kPortable);
  EXPECT(test::contains(test::error_of([&] { context.set_kernels(Kernels::kHopper); }), "compute capability 9.0"));
}

TEST_CASE("interrupts: a stopped program says what the same command will do, and still ends by the signal") {
  for (const int signal : {SIGINT, SIGTERM})
    for (const bool ignored : {false, true}) {
      int ends[2];
      REQUIRE(::pipe(ends) == 0);
      const pid_t child = ::fork();
      if (child == 0) {
        ::dup2(ends[1], STDERR_FILENO);
        ::signal(signal, ignored ? SIG_IGN : SIG_DFL);
        explain_interrupts();
        ::raise(signal);
        ::_exit(7);  // only where it is ignored
      }
      ::close(ends[1]);
      char bytes[400];
      std::string said;
      for (ssize_t n; (n = ::read(ends[0], bytes, sizeof bytes)) > 0;) said.append(bytes, static_cast<size_t>(n));
      ::close(ends[0]);
      int status = 0;
      REQUIRE(::waitpid(child, &status, 0) == child);
      if (ignored) EXPECT((WIFEXITED(status) && WEXITSTATUS(status) == 7 && said.empty()));
      else
        EXPECT((WIFSIGNALED(status) && WTERMSIG(status) == signal && contains(said, "the same command goes on")));
    }
}
