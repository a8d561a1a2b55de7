// The table of data options, and how the letters of a vocabulary are told.
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "data/datasets/dataset.h"
#include "data/tokens/tokenizer_config.h"
#include "data/tokens/wordpiece.h"
#include "engine/core/file.h"
#include "tests/temporary_folder.h"
#include "tests/test.h"

using namespace glia;
using glia::test::contains;
using glia::test::error_of;

namespace {

const std::vector<std::string> kSpecial{"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};

Vocabulary vocabulary(std::vector<std::string> more) {
  std::vector<std::string> tokens = kSpecial;
  tokens.insert(tokens.end(), more.begin(), more.end());
  return Vocabulary::from_tokens(tokens, "small");
}

}  // namespace

TEST_CASE("data options: every row goes through text and back, and its default is within its bounds") {
  for (const DataOption& option : data_options()) {
    INFO(std::string(option.row.name));
    DatasetOptions o;
    EXPECT(data_option_value(o, option) == option.row.standard);
    check_option(option.row, option.row.standard);
    set_data_option(o, option, option_text(option.row.standard));
    EXPECT(data_option_value(o, option) == option.row.standard);
    for (const char* reader : option.read_by) EXPECT(find_dataset(reader).name == std::string(reader));
    if (std::holds_alternative<int64_t>(option.row.standard))
      EXPECT(contains(error_of([&] { set_data_option(o, option, "many"); }), std::string("--") + option.row.name));
  }
}

TEST_CASE("data options: a flag that the data set does not read is an error, for every flag and data set") {
  for (const DataOption& option : data_options())
    for (const DatasetRow& row : dataset_rows()) {
      DatasetOptions o;
      o.dataset = row.name;
      const bool reads = option.read_by.empty() ||
                         std::any_of(option.read_by.begin(), option.read_by.end(),
                                     [&](const char* reader) { return std::string(reader) == row.name; });
      INFO(std::string(option.row.name), " ", std::string(row.name));
      EXPECT((error_of([&] { settle_data_options(o, {option.row.name}); }) == "") == reads);
    }
}

TEST_CASE("data letter case: from the vocabulary, from tokenizer_config.json, from the flag") {
  const Vocabulary lower = vocabulary({"bank", "##ing", "2", "%", "ß"}), upper = vocabulary({"bank", "Bank"}),
                   piece = vocabulary({"bank", "##B"}), accent = vocabulary({"caf\xC3\xA9"}),
                   greek = vocabulary({"\xCE\x91"});
  EXPECT(!is_cased(lower));
  for (const Vocabulary* v : {&upper, &piece, &accent, &greek}) EXPECT(is_cased(*v));
  const test::TemporaryFolder folder("data-options");
  const std::string path = folder.path + "/vocab.txt", config = folder.path + "/tokenizer_config.json";
  EXPECT(letter_case("auto", lower, path).lowercase);
  EXPECT(letter_case("auto", lower, path).why == "");
  EXPECT(!letter_case("auto", upper, path).lowercase);
  EXPECT(contains(letter_case("auto", upper, path).why, "has capital or accented letters"));
  EXPECT(contains(letter_case("on", upper, path).why, "warning"));
  EXPECT(letter_case("on", upper, path).lowercase);
  EXPECT(!letter_case("off", lower, path).lowercase);
  write_file_atomic(config, R"({"do_lower_case": false, "model_max_length": 1000000000000000019884624838656})");
  EXPECT(!letter_case("auto", lower, path).lowercase);
  EXPECT(contains(letter_case("auto", lower, path).why, "tokenizer_config.json says so"));
  EXPECT(!read_tokenizer_config(folder.path)->max_length);
  const auto refused = [&](const char* text) {
    write_file_atomic(config, text);
    return error_of([&] { read_tokenizer_config(folder.path); });
  };
  EXPECT(refused(R"({"do_lower_case": true, "model_max_length": 64})") == "");
  EXPECT(read_tokenizer_config(folder.path)->max_length == 64);
  EXPECT(contains(refused("[1"), "tokenizer_config.json:1:3: expected JSON, found the end of the file"));
  EXPECT(contains(refused(R"({"do_lower_case": "no"})"), "expected true or false as do_lower_case, got string"));
  EXPECT(contains(refused(R"({"strip_accents": false})"), "strip_accents"));
  EXPECT(contains(refused(R"({"tokenize_chinese_chars": false})"), "tokenize_chinese_chars"));
  EXPECT(contains(refused(R"({"tokenizer_class": "GPT2Tokenizer"})"),
                  "expected a BERT tokenizer, found GPT2Tokenizer"));
  EXPECT(refused(R"({"added_tokens_decoder": {"0": {"content": "[PAD]"}}, "never_split": ["[MASK]"]})") == "");
  EXPECT(contains(refused(R"({"added_tokens_decoder": {"9": {"content": "[E1]"}}})"),
                  "added_tokens_decoder: expected none but [PAD]"));
  EXPECT(contains(refused(R"({"never_split": ["<url>"]})"), "never_split: expected none but [PAD]"));
  folder.write("added_tokens.json", R"({"[E1]": 9})");
  EXPECT(contains(refused("{}"), "added_tokens.json: expected none but [PAD]"));
}

// Our own texts; the ids are those that the published rules give with the vocabulary of the fixture's first line.
TEST_CASE("data wordpiece: the fixture of mean strings") {
  std::ifstream file("tests/fixtures/data/strings.jsonl");
  std::string line;
  REQUIRE(std::getline(file, line));
  const WordPiece tokenizer(Vocabulary::from_tokens(
      nlohmann::json::parse(line).at("vocabulary").get<std::vector<std::string>>(), "fixture"));
  int n = 0;
  for (; std::getline(file, line); ++n) {
    const auto row = nlohmann::json::parse(line);
    INFO(line);
    EXPECT(tokenizer.encode(row.at("text").get<std::string>()) == row.at("ids").get<std::vector<int32_t>>());
  }
  EXPECT(n >= 12);
}
