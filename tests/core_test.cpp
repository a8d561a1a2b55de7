#include "engine/core/check.h"
#include "tests/test.h"

using namespace glia;
using glia::test::contains;
using glia::test::error_of;

TEST_CASE("check: throws with the message and the place") {
  const std::string message = error_of([] { CHECK(1 == 2, "softmax: wants {}, got {}", 1, 2); });
  EXPECT(contains(message, "softmax: wants 1, got 2"));
  EXPECT(contains(message, "core_test.cpp"));
}
