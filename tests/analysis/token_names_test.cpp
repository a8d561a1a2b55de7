// Names of ids of any model's tokenizer: each kind of file, and files that are refused by name and place.
#include "experiments/analysis/token_names.h"

#include <filesystem>

#include "engine/core/file.h"
#include "experiments/analysis/analysis.h"
#include "tests/command.h"
#include "tests/temporary_folder.h"
#include "tests/test.h"

using namespace glia;
using namespace glia::results;
using namespace glia::test;

namespace {

using Names = std::vector<std::string>;

struct NamesFile {
  TemporaryFolder tmp{"names"};
  Names read(const std::string& name, const std::string& content) {
    write_file_atomic(tmp.path + "/" + name, content);
    return token_names(tmp.path + "/" + name);
  }
  void refuses(const std::string& name, const std::string& content, const std::string& part) {
    const std::string message = error_of([&] { read(name, content); });
    INFO(message);
    EXPECT(message.starts_with(tmp.path + "/" + name));
    EXPECT(contains(message, part));
    EXPECT(std::ranges::count(message, '\n') == 0);
  }
};

std::string utf8_of(uint32_t code) {
  return code < 0x80 ? std::string(1, char(code)) : std::string{char(0xC0 | code >> 6), char(0x80 | (code & 0x3F))};
}

// The characters of GPT-2's bytes in the order of its ids: 0 … 255.
Names byte_alphabet() {
  Names names;
  for (const auto& [from, to] : {std::pair{0x21u, 0x7Eu}, {0xA1u, 0xACu}, {0xAEu, 0xFFu}, {0x100u, 0x143u}})
    for (uint32_t code = from; code <= to; ++code) names.push_back(utf8_of(code));
  return names;
}

}  // namespace

TEST_CASE("token names: a plain list of any model, the line's number is the id") {
  NamesFile file;
  // Mixtral's first lines; no special token of BERT's, and one name twice.
  EXPECT(file.read("vocab.txt", "<unk>\n<s>\n</s>\n<0x00>\n▁the\n▁the\n  \n") ==
         Names{"<unk>", "<s>", "</s>", "<0x00>", "▁the", "▁the", "  "});
  EXPECT(file.read("crlf.txt", "\xEF\xBB\xBF<unk>\r\n▁a\r\n\r\n") == Names{"<unk>", "▁a"});
  EXPECT(file.read("bert.txt", "[PAD]\n[UNK]\n##ing") == Names{"[PAD]", "[UNK]", "##ing"});
  file.refuses("vocab.txt", "a\n\nb\n", "vocab.txt:2: expected a token, found an empty line");
  file.refuses("vocab.txt", "a\n\xFF\n", "vocab.txt:2: expected UTF-8, found other bytes");
  file.refuses("vocab.txt", "", "expected names of tokens, found an empty file");
  file.refuses("vocab.txt", "\n\n", "expected names of tokens, found none");
  file.refuses("vocab.txt", "PK\x03\x04zip", "a zip archive");
}

TEST_CASE("token names: a tokenizer.json of every kind of model, and its added tokens") {
  NamesFile file;
  EXPECT(file.read("tokenizer.json", R"({"model":{"type":"WordPiece","vocab":{"[UNK]":0,"a":2,"##b":1}}})") ==
         Names{"[UNK]", "##b", "a"});
  // BPE: ids behind the vocabulary's, one that it has already, and one that nobody names.
  EXPECT(
      file.read("tokenizer.json", R"({"added_tokens":[{"id":4,"content":"<|im_end|>"},{"id":0,"content":"<unk>"}],
         "model":{"type":"BPE","vocab":{"<unk>":0,"▁model":1,"el":2},"merges":["m o"]}})") ==
      Names{"<unk>", "▁model", "el", "", "<|im_end|>"});
  EXPECT(file.read("tokenizer.json", R"({"added_tokens":null,"model":{"type":"Unigram","unk_id":0,
         "vocab":[["<unk>",0.0],["▁the",-3.5],["s",-4]]}})") == Names{"<unk>", "▁the", "s"});
  file.refuses("tokenizer.json", "{\"model\":\n{", "tokenizer.json:2:2: expected JSON");
  file.refuses("tokenizer.json", "[1]", "tokenizer.json");
  file.refuses("tokenizer.json", R"({"model":{"type":"BPE"}})",
               "model.vocab: expected an object from tokens to ids");
  file.refuses("tokenizer.json", R"({"model":{"vocab":{"a":0,"b":"x"}}})",
               "model.vocab: expected an id of 0 … 16777215 of \"b\", got \"x\"");
  file.refuses("tokenizer.json", R"({"model":{"vocab":{"a":-1}}})", "of \"a\", got -1");
  file.refuses("tokenizer.json", R"({"model":{"vocab":{"a":99999999999}}})", "of \"a\", got 99999999999");
  file.refuses("tokenizer.json", R"({"model":{"vocab":{"a":3,"b":3}}})",
               "model.vocab: expected each id once, got 3 of \"a\" and \"b\"");
  file.refuses("tokenizer.json", R"({"model":{"vocab":[["a",0],["b",0],"c"]}})",
               "model.vocab: expected [token, score] at 2, got \"c\"");
  file.refuses("tokenizer.json", R"({"model":{"vocab":{"a":0}},"added_tokens":{}})",
               "added_tokens: expected a list");
  file.refuses("tokenizer.json", R"({"model":{"vocab":{"a":0}},"added_tokens":[{"id":1}]})",
               "added_tokens: expected objects with id and content, got {\"id\":1}");
  file.refuses("tokenizer.json", R"({"model":{"vocab":{"a":0}},"added_tokens":[{"content":"b"}]})",
               "added_tokens: expected an id of 0 … 16777215 of \"b\", got null");
  file.refuses("tokenizer.json", R"({"model":{"vocab":{}}})", "expected names of tokens, found none");
}

TEST_CASE("token names: a vocab.json, which may have a word \"model\"") {
  NamesFile file;
  EXPECT(file.read("vocab.json", R"({"<s>":0,"Ġmodel":2,"model":1})") == Names{"<s>", "model", "Ġmodel"});
  file.refuses("vocab.json", R"({"<s>":0,"b":[1]})", "expected an id of 0 … 16777215 of \"b\", got [1]");
  file.refuses("vocab.json", R"({"a":0,"b":0})", "for there is no object \"model\": expected each id once");
}

TEST_CASE("token names: byte-level BPE is shown as the text that its bytes are") {
  NamesFile file;
  Names names = byte_alphabet();
  REQUIRE(names.size() == 256);
  for (const char* name : {"ĠStocks", "Ċ", "ä¸Ńæĸĩ", "ä¸", "<|begin▁of▁sentence|>", "Ġ\xC3\x83\xC2\xA9"})
    names.push_back(name);
  std::string lines;
  for (const std::string& name : names) lines += name + "\n";
  const Names shown = file.read("names.txt", lines);
  EXPECT(shown.at(0) == "!");
  EXPECT(shown.at(256) == "▁Stocks");
  EXPECT(shown.at(257) == "\\n");
  EXPECT(shown.at(258) == "中文");
  EXPECT(shown.at(259) == "ä¸");  // two bytes of a character's three
  EXPECT(shown.at(260) == "<|begin▁of▁sentence|>");
  EXPECT(shown.at(261) == "▁é");
  // A sentencepiece vocabulary with the same letters is none of bytes.
  EXPECT(file.read("names.txt", lines + "▁\n").at(256) == "ĠStocks");
}

TEST_CASE("token names: tools/analyse names a trace's words of any model, and says of which it has no names") {
  if (!std::filesystem::exists("tools/analyse")) SKIP("tools/analyse is not built");
  NamesFile file;
  // The ids of the fixture are 0 … 19.
  std::string lines;
  for (int i = 0; i < 15; ++i) lines += fmt::format("▁word{}\n", i);
  write_file_atomic(file.tmp.path + "/vocab.txt", lines);
  const CommandResult r = run_command(fmt::format(
      "./tools/analyse tests/fixtures/routing/chosen.safetensors --words 40 --vocab {0}/vocab.txt --format "
      "text,json --out {0}/out 2>&1",
      file.tmp.path));
  INFO(r.out);
  EXPECT(r.status == 0);
  EXPECT(contains(r.out, "▁word7"));
  EXPECT(contains(
      r.out,
      "vocab.txt: names 15 of the 20 different ids of tests/fixtures/routing/chosen.safetensors; others are shown as #id, as #1"));
}
