// The inputs that the fuzzers found (tests/fuzz/run.sh --keep), and their checks on random ones.
#include <filesystem>

#include "engine/core/file.h"
#include "engine/core/random/rng.h"
#include "tests/fuzz/data_targets.h"
#include "tests/fuzz/records_targets.h"
#include "tests/fuzz/weights_targets.h"
#include "tests/test.h"

using namespace glia;
namespace fs = std::filesystem;

namespace {

int replay(const char* target, void (*check)(std::string_view)) {
  int n = 0;
  for (const auto& entry : fs::directory_iterator(fs::path("tests/fixtures/data/fuzz") / target)) {
    INFO(entry.path().string());
    const std::string input = read_file(entry.path());
    EXPECT(test::error_of([&] { check(input); }) == "");
    ++n;
  }
  return n;
}

}  // namespace

TEST_CASE("data fuzz: the csv reader on found inputs") { EXPECT(replay("csv", fuzz::csv) > 0); }

TEST_CASE("data fuzz: the tokenizer on found inputs") { EXPECT(replay("wordpiece", fuzz::wordpiece) > 0); }

TEST_CASE("data fuzz: the readers of weights on found inputs") {
  EXPECT(replay("safetensors", fuzz::safetensors) > 0);
  EXPECT(replay("pickle", fuzz::pickle) > 0);
  EXPECT(replay("torch", fuzz::torch) > 0);
}

TEST_CASE("data fuzz: vocabularies, the files of a result folder and command lines on found inputs") {
  EXPECT(replay("vocabulary", fuzz::vocabulary) > 0);
  EXPECT(replay("records", fuzz::records) > 0);
  EXPECT(replay("flags", fuzz::flags) > 0);
}

TEST_CASE("data fuzz: the tokenizer and its definition agree on random texts") {
  static const char* const kParts[] = {"a",
                                       "b",
                                       "ab",
                                       "ba",
                                       "1",
                                       "!",
                                       " ",
                                       "[CLS]",
                                       "[",
                                       "\xC3\xA9",
                                       "e\xCC\x81",
                                       "\xCC\x81",
                                       "\t",
                                       "\x01",
                                       "\xE4\xB8\xAD",
                                       "\xFF",
                                       "aaaaaaaaaaaaaaaa",
                                       "\xF0\x9D\x85\xA5",
                                       "\xF0\x9D\x85\xAD",
                                       "A"};
  for (uint64_t n = 0; n < 400; ++n) {
    std::string input = "aaaa ##aa \xC3\xA9 a\xF0\x9D\x85\xAD ##\xF0\x9D\x85\xA5 aaaaaaaaaaaaaaaaa\n";
    const uint64_t parts = random_below(30, 9, purpose::kTest, 0, 64 * n);
    for (uint64_t i = 0; i < parts; ++i)
      input += kParts[random_below(std::size(kParts), 9, purpose::kTest, 0, 64 * n + i + 1)];
    INFO(input);
    EXPECT(test::error_of([&] { fuzz::wordpiece(input); }) == "");
  }
}
