#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "data/text/utf8.h"
#include "data/tokens/tokenizer_config.h"
#include "data/tokens/vocab_trainer.h"
#include "data/tokens/wordpiece.h"
#include "engine/core/file.h"
#include "engine/core/random/rng.h"
#include "tests/temporary_folder.h"
#include "tests/test.h"

using namespace glia;
using glia::test::contains;
using glia::test::error_of;

namespace {

const std::string kGoldenVocab = "tests/fixtures/data/golden_vocab.txt";

WordPiece small(std::vector<std::string> more, bool lowercase = true) {
  std::vector<std::string> tokens{"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
  tokens.insert(tokens.end(), more.begin(), more.end());
  return WordPiece(Vocabulary::from_tokens(tokens, "small"), lowercase);
}

// The pieces as text, "|" between them.
std::string split(const WordPiece& tokenizer, std::string_view text) {
  std::string joined;
  for (const int32_t id : tokenizer.encode(text))
    joined += (joined.empty() ? "" : "|") + tokenizer.vocabulary().token(id);
  return joined;
}

}  // namespace

// Made by tests/peer/tokenizer_compare.py with Hugging Face tokenizers: several hundred lines, every block of
// Unicode.
TEST_CASE("data wordpiece: the ids of Hugging Face on the golden lines") {
  const Vocabulary vocabulary = Vocabulary::from_file(kGoldenVocab);
  const WordPiece uncased(vocabulary, true), cased(vocabulary, false);
  std::ifstream lines("tests/fixtures/data/golden.jsonl");
  REQUIRE(lines.good());
  int n = 0;
  for (std::string line; std::getline(lines, line); ++n) {
    const auto record = nlohmann::json::parse(line);
    const auto text = record["text"].get<std::string>();
    const auto wanted = record["uncased"].get<std::vector<int32_t>>();
    INFO(line.substr(0, 300));
    EXPECT(uncased.encode(text) == wanted);
    EXPECT(cased.encode(text) == record.value("cased", wanted));
  }
  EXPECT(n > 300);
}

TEST_CASE("data wordpiece: greedy longest match, [UNK] for a miss anywhere") {
  const WordPiece t = small({"un", "able", "##aff", "##able", "##a", "##f", "a", "b", "##b", "!", "unaff"});
  EXPECT(split(t, "unaffable") == "unaff|##able");
  EXPECT(split(t, "unaf able") == "un|##a|##f|able");
  EXPECT(split(t, "unaffx ab") == "[UNK]|a|##b");
  EXPECT(split(t, "a!b!!") == "a|!|b|!|!");
  EXPECT(split(t, "a?b") == "a|[UNK]|b");
  EXPECT(split(t, "") == "");
  EXPECT(split(t, " \t\r\n") == "");
}

TEST_CASE("data wordpiece: a hundred characters are a word, a hundred and one are not") {
  const WordPiece t = small({"x", "##x", "\xC3\xA9", "##\xC3\xA9"}, false);
  const auto repeat = [](const std::string& s, int n) {
    std::string all;
    for (int i = 0; i < n; ++i) all += s;
    return all;
  };
  EXPECT(t.encode(repeat("x", 100)).size() == 100);
  EXPECT(split(t, repeat("x", 101)) == "[UNK]");
  EXPECT(t.encode(repeat("\xC3\xA9", 100)).size() == 100);
  EXPECT(split(t, repeat("\xC3\xA9", 101)) == "[UNK]");
  EXPECT(split(t, repeat("x", 100000) + " x") == "[UNK]|x");
  // Accents count only if they stay.
  const WordPiece uncased = small({"x", "##x"});
  EXPECT(uncased.encode(repeat("x\xCC\x81", 100)).size() == 100);
  EXPECT(split(uncased, repeat("x\xCC\x81", 101)) == "[UNK]");
}

TEST_CASE("data wordpiece: word lengths around the vector width, at every distance from the end") {
  std::vector<std::string> words;
  for (size_t n = 1; n <= 40; ++n) words.push_back(std::string(n, 'q'));
  const WordPiece t = small(words);
  for (size_t n = 1; n <= 40; ++n)
    for (size_t before = 0; before < 20; ++before) {
      const std::string text = std::string(before, ' ') + std::string(n, 'Q');
      const std::vector<char> exact(text.begin(), text.end());  // no byte behind it: a sanitizer sees an over-read
      const std::vector<int32_t> ids = t.encode({exact.data(), exact.size()});
      REQUIRE(ids.size() == 1);
      REQUIRE(ids[0] == static_cast<int32_t>(4 + n));
    }
}

TEST_CASE("data wordpiece: special tokens in the raw text") {
  const WordPiece t = small({"a", "b", "[", "]", "cls", "mask"});
  EXPECT(split(t, "a[CLS]b") == "a|[CLS]|b");
  EXPECT(split(t, "[CLS][SEP][MASK][PAD][UNK]") == "[CLS]|[SEP]|[MASK]|[PAD]|[UNK]");
  EXPECT(split(t, "[cls] [MASK") == "[|cls|]|[|mask");
  EXPECT(split(t, "[[CLS]]") == "[|[CLS]|]");
  EXPECT(split(t, "[CLS") == "[|cls");
}

TEST_CASE("data wordpiece: clean-up, accents, CJK, case") {
  const WordPiece t = small({"cafe", "caf", "##\xC3\xA9", "ab", "\xE4\xB8\xAD", "Ab", "i", "a"});
  EXPECT(split(t, "CAF\xC3\x89") == "cafe");
  EXPECT(split(t, "cafe\xCC\x81") == "cafe");
  EXPECT(split(t, std::string_view("a\0b", 3)) == "ab");
  EXPECT(split(t,
               "a\x01\xE2\x80\x8B\xEF\xBF\xBD"
               "b") == "ab");  // U+0001, U+200B, U+FFFD
  EXPECT(split(t,
               "a\xFF\xC3"
               "b") == "ab");  // not UTF-8
  EXPECT(split(t,
               "ab\xE4\xB8\xAD"
               "ab") == "ab|\xE4\xB8\xAD|ab");
  EXPECT(split(t, "\xC4\xB0") == "i");                   // U+0130
  EXPECT(split(t, "a\xC2\xA0\xE3\x80\x80 a") == "a|a");  // U+00A0, U+3000
  const WordPiece cased = small({"caf", "##\xC3\xA9", "Ab", "ab"}, false);
  EXPECT(split(cased, "caf\xC3\xA9 Ab ab aB") == "caf|##\xC3\xA9|Ab|ab|[UNK]");
}

TEST_CASE(
    "data wordpiece: the first and the last code point of each CJK range stand alone, their neighbours do not") {
  const WordPiece t = small({"a", "b"});
  const auto between = [&](uint32_t code) {
    char bytes[4];
    const auto n = static_cast<size_t>(utf8::encode(code, bytes));
    return split(t, "a" + std::string(bytes, n) + "b");
  };
  // The ranges of Hugging Face's Rust code: extension E begins at U+2B920 there, at U+2B820 in Google's Python.
  constexpr uint32_t inside[] = {0x3400,  0x4DBF,  0x4E00,  0x9FFF,  0xF900,  0xFAFF,  0x20000,
                                 0x2A6DF, 0x2A700, 0x2B81F, 0x2B920, 0x2CEAF, 0x2F800, 0x2FA1F};
  constexpr uint32_t outside[] = {0x33FF, 0x4DC0, 0x4DFF, 0xA000, 0xFB00, 0x2A6E0, 0x2B820, 0x2B91F, 0x2CEB0};
  for (const uint32_t code : inside) {
    INFO(code);
    EXPECT(between(code) == "a|[UNK]|b");
  }
  for (const uint32_t code : outside) {
    INFO(code);
    EXPECT(between(code) == "[UNK]");
  }
}

TEST_CASE("data wordpiece: sequences are cut to the length, [CLS] and [SEP] included") {
  const WordPiece t = small({"a", "b", "c", "d"});
  std::vector<int32_t> ids;
  EXPECT(!t.encode_sequence("a b c", 5, ids));
  EXPECT(ids == std::vector<int32_t>{2, 5, 6, 7, 3});
  EXPECT(t.encode_sequence("a b c d", 5, ids));
  EXPECT(ids == std::vector<int32_t>{2, 5, 6, 7, 3, 2, 5, 6, 7, 3});
  ids.clear();
  EXPECT(t.encode_sequence("a", 2, ids));
  EXPECT(ids == std::vector<int32_t>{2, 3});
  EXPECT(contains(error_of([&] { t.encode_sequence("a", 1, ids); }), "wants room for"));
  // Cutting and encoding everything agree, also where the limit falls into a word.
  const WordPiece golden(Vocabulary::from_file(kGoldenVocab));
  const std::string text =
      "Seaworthy captains navigated quickly, unloading cargo near Caf\xC3\xA9 Zw\xC3\xB6lf [SEP] 12345!";
  const std::vector<int32_t> all = golden.encode(text);
  for (size_t limit = 0; limit <= all.size() + 1; ++limit) {
    std::vector<int32_t> some;
    golden.encode(text, some, limit);
    REQUIRE(some ==
            std::vector<int32_t>(all.begin(), all.begin() + static_cast<int64_t>(std::min(limit, all.size()))));
  }
}

TEST_CASE("data wordpiece: offsets point into the original bytes, and do not change the ids") {
  const WordPiece t = small({"caf", "##es", "un", "##able", "\xE4\xB8\xAD", "!", "x"});
  const std::string text =
      " CAF\xC3\x89s [SEP]un\xCC\x81"
      "able\xE4\xB8\xAD! x\xC2\xAD";
  std::vector<std::string> parts;
  for (const WordPiece::Piece& p : t.pieces(text)) parts.push_back(text.substr(p.begin, p.end - p.begin));
  EXPECT(parts == std::vector<std::string>{"CAF", "\xC3\x89s", "[SEP]", "un", "able", "\xE4\xB8\xAD", "!", "x"});
  const WordPiece golden(Vocabulary::from_file(kGoldenVocab));
  std::ifstream lines("tests/fixtures/data/golden.jsonl");
  for (std::string line; std::getline(lines, line);) {
    const auto text_of = nlohmann::json::parse(line)["text"].get<std::string>();
    std::vector<int32_t> ids;
    for (const WordPiece::Piece& p : golden.pieces(text_of)) {
      ids.push_back(p.id);
      REQUIRE(p.begin < p.end);
      REQUIRE(p.end <= text_of.size());
    }
    REQUIRE(ids == golden.encode(text_of));
  }
}

TEST_CASE("data wordpiece: decode") {
  const WordPiece t = small({"un", "##able", ".", ",", "(", "don", "'", "t"});
  const std::vector<int32_t> ids = t.encode("[CLS] Unable , un ( don't ) . [SEP]");
  EXPECT(t.decode(ids.data(), ids.size()) == "unable, un ( don ' t.");
  EXPECT(t.decode(ids.data(), 2, false) == "[CLS] un");
  const int32_t bad = 99;
  EXPECT(contains(error_of([&] { t.decode(&bad, 1); }), "wants an id below 13, got 99"));
}

TEST_CASE("data vocabulary: what is wrong with a file is said with its line") {
  const auto from = [](std::vector<std::string> tokens) {
    return error_of([&] { Vocabulary::from_tokens(tokens, "v.txt"); });
  };
  EXPECT(contains(from({}), "v.txt: expected a vocabulary, found no token"));
  EXPECT(
      contains(from({"[UNK]", "[CLS]", "[SEP]", "a", "", "b"}), "v.txt:5: expected a token, found an empty line"));
  EXPECT(contains(from({"[UNK]", "[CLS]", "a", "[SEP]", "a"}), "v.txt:5: token \"a\" was already on line 3"));
  EXPECT(contains(from({"[UNK]", "[CLS]", "[SEP]", "\xFF"}), "v.txt:4: expected UTF-8"));
  EXPECT(contains(from({"a", "[CLS]", "[SEP]"}), "expected a line \"[UNK]\""));
  EXPECT(contains(from({"a", "[UNK]", "[SEP]"}), "expected a line \"[CLS]\""));
  EXPECT(contains(from({"a", "[CLS]", "[UNK]"}), "expected a line \"[SEP]\""));
  EXPECT(
      contains(error_of([] { Vocabulary::from_file("/nowhere/vocab.txt"); }), "/nowhere/vocab.txt: cannot open"));
  EXPECT(contains(error_of([] { Vocabulary::from_file("/tmp"); }), "directory"));
  const std::string path = glia::test::temporary_path("vocab.txt");
  write_file_atomic(path, "");
  EXPECT(contains(error_of([&] { Vocabulary::from_file(path); }), "found an empty file"));
  write_file_atomic(path, "[UNK]\r\n[CLS]\r\n[SEP]\r\na \r\n");
  const Vocabulary v = Vocabulary::from_file(path);
  EXPECT(v.size() == 4);
  EXPECT(v.find("a") == 3);
  EXPECT(v.pad() == -1);
  write_file_atomic(path, "\xEF\xBB\xBF[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n");
  const Vocabulary marked = Vocabulary::from_file(path);
  EXPECT(marked.pad() == 0);
  EXPECT(letter_case("auto", marked, path).lowercase);
  v.save(path);
  EXPECT(Vocabulary::from_file(path).hash() == v.hash());
  std::filesystem::remove(path);
}

TEST_CASE("data vocabulary: tokenizer.json gives the same tokens and the case; what is not BERT's is named") {
  const test::TemporaryFolder folder("tokenizer-json");
  nlohmann::json json = {
      {"normalizer",
       {{"type", "BertNormalizer"},
        {"clean_text", true},
        {"handle_chinese_chars", true},
        {"strip_accents", nullptr},
        {"lowercase", true}}},
      {"pre_tokenizer", {{"type", "BertPreTokenizer"}}},
      {"model",
       {{"type", "WordPiece"},
        {"unk_token", "[UNK]"},
        {"continuing_subword_prefix", "##"},
        {"vocab", {{"[UNK]", 1}, {"[SEP]", 3}, {"##b", 5}, {"[PAD]", 0}, {"a", 4}, {"[CLS]", 2}}}}}};
  const auto with = [&](const char* pointer, const nlohmann::json& value) {
    nlohmann::json changed = json;
    changed[nlohmann::json::json_pointer(pointer)] = value;
    return folder.write("tokenizer.json", changed.dump());
  };
  const std::string path = with("/added_tokens", {{{"id", 2}, {"content", "[CLS]"}}});
  const Vocabulary v = Vocabulary::from_file(path);
  EXPECT(v.tokens() == std::vector<std::string>{"[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "##b"});
  EXPECT(v.hash() == Vocabulary::from_tokens(v.tokens(), "the same").hash());
  EXPECT(letter_case("auto", v, path).lowercase);
  EXPECT(!letter_case("auto", v, with("/normalizer/lowercase", false)).lowercase);
  for (
      const auto& [pointer, value, wanted] : std::vector<std::tuple<const char*, nlohmann::json, const char*>>{
          {"/model/type", "BPE", "expected \"WordPiece\" as model.type, got \"BPE\""},
          {"/model/vocab/a", 5, "expected each id below 6 once"},
          {"/model/vocab/a", 6, "expected each id below 6 once"},
          {"/model/vocab/a", -1, "expected each id below 6 once"},
          {"/model/vocab",
           {{"[UNK]", 0}, {"a\nb", 1}},
           "without white space at their end or line ends, got \"a\\nb\""},
          {"/model/vocab", {{"[UNK]", 0}, {"a ", 1}}, "without white space"},
          {"/model/vocab", 7, "as model.vocab, got 7"},
          {"/model/continuing_subword_prefix", "@@", "continuing_subword_prefix"},
          {"/normalizer", nullptr, "expected a BertNormalizer"},
          {"/normalizer/strip_accents", false, "normalizer.strip_accents"},
          {"/pre_tokenizer/type", "Whitespace", "pre_tokenizer.type"},
          {"/pre_tokenizer", nullptr, "expected a BertPreTokenizer as pre_tokenizer, got null"},
          {"/added_tokens",
           {{{"id", 2}, {"content", "[CLS]"}}, {{"id", 6}, {"content", "[E1]"}}},
           "added_tokens: expected none but [PAD], [UNK], [CLS], [SEP] and [MASK], which alone this tokenizer keeps whole, got \"[E1]\""}}) {
    const std::string file = with(pointer, value), error = error_of([&] { Vocabulary::from_file(file); });
    INFO(error);
    EXPECT(contains(error, "tokenizer.json: "));
    EXPECT(contains(error, wanted));
  }
  const std::string cut = folder.write("tokenizer.json", "{\"model\":");
  EXPECT(contains(error_of([&] { Vocabulary::from_file(cut); }), "tokenizer.json:1:10: expected JSON"));
}

TEST_CASE("data vocabulary trainer: merges what raises the likelihood most, the same every time") {
  // n_th = 60 of t (70) and h (60): a gain of 60 ln(60 · N / (70 · 60)); the pair comes first, then the whole word.
  VocabTrainer trainer;
  for (int i = 0; i < 60; ++i) trainer.add("the");
  for (int i = 0; i < 10; ++i) trainer.add("to, a cat");
  const std::vector<std::string> tokens = trainer.train({.size = 40});
  EXPECT(trainer.words() == 100);
  EXPECT(trainer.distinct_words() == 5);
  EXPECT(std::vector<std::string>(tokens.begin(), tokens.begin() + 5) ==
         std::vector<std::string>{"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"});
  EXPECT(std::find(tokens.begin(), tokens.end(), "the") != tokens.end());
  EXPECT(std::find(tokens.begin(), tokens.end(), "cat") != tokens.end());
  EXPECT(trainer.train({.size = 40}) == tokens);
  const WordPiece t(Vocabulary::from_tokens(tokens, "trained"));
  EXPECT(split(t, "The cat, to") == "the|cat|,|to");
  EXPECT(contains(error_of([&] { trainer.train({.size = 8}); }), "expected a size of at least"));
  EXPECT(contains(error_of([] { VocabTrainer().train({.size = 100}); }), "got no word"));
}

TEST_CASE("data vocabulary trainer: the first merge is the pair with the largest gain, by brute force") {
  const std::string letters = "abcd";
  for (uint64_t seed = 0; seed < 20; ++seed) {
    VocabTrainer trainer;
    std::map<std::string, double> pieces, pairs;
    double total = 0;
    for (uint64_t w = 0; w < 40; ++w) {
      std::string word;
      std::vector<std::string> parts;
      const uint64_t n = 2 + random_below(4, seed, purpose::kTest, 0, 100 * w);
      for (uint64_t i = 0; i < n; ++i) {
        const char c = letters[random_below(4, seed, purpose::kTest, 0, 100 * w + i + 1)];
        word += c;
        parts.push_back((i ? "##" : "") + std::string(1, c));
      }
      trainer.add(word);
      for (size_t i = 0; i < parts.size(); ++i) {
        pieces[parts[i]] += 1, total += 1;
        if (i) pairs[parts[i - 1] + " " + parts[i]] += 1;
      }
    }
    double best = 0;
    std::string wanted;
    for (const auto& [pair, n] : pairs) {
      const size_t at = pair.find(' ');
      const std::string left = pair.substr(0, at), right = pair.substr(at + 1);
      const double gain = n * std::log(n * total / (pieces[left] * pieces[right]));
      if (n >= 2 && gain > best + 1e-9) best = gain, wanted = left + right.substr(2);
    }
    const std::vector<std::string> tokens = trainer.train({.size = 14});  // 5 special, 8 characters, one merge
    REQUIRE(tokens.size() == 14);
    EXPECT(tokens.back() == wanted);
  }
}
