// The test program: doctest's own arguments (-tc=PATTERN, -ltc, …); the last line is `N passed, N failed, N
// skipped`.
#define DOCTEST_CONFIG_IMPLEMENT
#include "tests/test.h"

#include <fmt/core.h>

#include <atomic>
#include <cstdio>

namespace {

std::atomic<int> skipped{0};

struct Tally : doctest::IReporter {
  static inline int passed = 0, failed = 0;
  explicit Tally(const doctest::ContextOptions&) {}
  void report_query(const doctest::QueryData&) override {}
  void test_run_start() override {}
  void test_run_end(const doctest::TestRunStats&) override {}
  void test_case_start(const doctest::TestCaseData&) override {}
  void test_case_reenter(const doctest::TestCaseData&) override {}
  void test_case_end(const doctest::CurrentTestCaseStats& s) override { ++(s.failure_flags ? failed : passed); }
  void test_case_exception(const doctest::TestCaseException&) override {}
  void subcase_start(const doctest::SubcaseSignature&) override {}
  void subcase_end() override {}
  void log_assert(const doctest::AssertData&) override {}
  void log_message(const doctest::MessageData&) override {}
  void test_case_skipped(const doctest::TestCaseData&) override {}
};
DOCTEST_REGISTER_LISTENER("tally", 1, Tally);

}  // namespace

void glia::test::count_skip(const std::string& why) {
  ++skipped;
  fmt::print("SKIPPED: {}: {}\n", doctest::getContextOptions()->currentTest->m_name, why);
}

int main(int argc, char** argv) {
  doctest::Context context(argc, argv);
  const int status = context.run();
  if (context.shouldExit()) return status;
  // A skipped case has returned without a failure, so doctest counts it as passed.
  fmt::print("{} passed, {} failed, {} skipped\n", Tally::passed - skipped, Tally::failed, skipped.load());
  return status;
}
