// Options as data: parsing, ranges and what the errors say.
#include "engine/core/command_line/options.h"

#include "tests/test.h"

namespace glia::test {
namespace {

const OptionRow kTopP{"top-p", 0.4, "cumulative probability", 0, 1};
const OptionRow kSteps{"warm-steps", int64_t{3}, "steps", 0};
const OptionRow kSwitch{"jitter", false, "noise"};
const OptionRow kScore{"score", std::string("softmax"), "score function", {}, {}, {"softmax", "sigmoid"}};

TEST_CASE("options: a value is read as its row's type, and written as it is read") {
  EXPECT(std::get<double>(parse_option(kTopP, "0.25")) == 0.25);
  EXPECT(std::get<int64_t>(parse_option(kSteps, "12")) == 12);
  EXPECT(std::get<bool>(parse_option(kSwitch, "on")));
  EXPECT(std::get<std::string>(parse_option(kScore, "sigmoid")) == "sigmoid");
  for (const char* text : {"0.1", "1e-05", "1"}) EXPECT(option_text(parse_option(kTopP, text)) == text);
  EXPECT(option_text(OptionValue(true)) == "on");
  EXPECT(option_key("top-p") == "top_p");
}

TEST_CASE("options: what is out of its range, of another type or not among the choices is an error that says so") {
  EXPECT(contains(error_of([] { parse_option(kTopP, "1.5"); }),
                  "--top-p: expected a finite number in [0, 1], got '1.5'"));
  EXPECT(contains(error_of([] { parse_option(kTopP, "nan"); }), "expected a finite number"));
  EXPECT(contains(error_of([] { parse_option(kTopP, "0.5x"); }), "got '0.5x'"));
  EXPECT(contains(error_of([] { parse_option(kTopP, ""); }), "got ''"));
  EXPECT(contains(error_of([] { parse_option(kSteps, "-1"); }),
                  "--warm-steps: expected a whole number of at least 0"));
  EXPECT(contains(error_of([] { parse_option(kSteps, "99999999999999999999"); }), "a whole number"));
  EXPECT(contains(error_of([] { parse_option(kSwitch, "maybe"); }), "expected on or off"));
  EXPECT(contains(error_of([] { parse_option(kScore, "tanh"); }), "expected one of softmax, sigmoid, got 'tanh'"));
  EXPECT(contains(error_of([] { check_option(kTopP, OptionValue(int64_t{1})); }), "got '1'"));
}

TEST_CASE("options: a row's default stands where nothing was set") {
  OptionValues values;
  EXPECT(values.get<double>(kTopP) == 0.4);
  values.set("top-p", 0.7);
  EXPECT(values.get<double>(kTopP) == 0.7);
  EXPECT(!values.contains("jitter"));
  values.set("warm-steps", 1.0);
  EXPECT(contains(error_of([&] { values.get<int64_t>(kSteps); }), "another type"));
}

}  // namespace
}  // namespace glia::test
