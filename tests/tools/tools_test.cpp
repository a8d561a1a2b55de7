// The programs as a person meets them: what is typed is what they get, and errors are one line.
#include <cstdio>
#include <filesystem>

#include "engine/core/file.h"
#include "tests/records/saved_run.h"
#include "tests/test.h"
#include "tools/tool.h"

using namespace glia;
using namespace glia::test;
namespace fs = std::filesystem;

namespace {

struct Result {
  int status;
  std::string out;  // standard output, or with 2>&1 both
};

Result run(const std::string& command) {
  std::FILE* pipe = ::popen(command.c_str(), "r");
  REQUIRE(pipe != nullptr);
  Result result{0, ""};
  char bytes[4096];
  for (size_t n; (n = std::fread(bytes, 1, sizeof bytes, pipe)) > 0;) result.out.append(bytes, n);
  result.status = ::pclose(pipe);
  return result;
}

bool are_built(std::initializer_list<const char*> programs) {
  return std::all_of(programs.begin(), programs.end(), [](const char* program) { return fs::exists(program); });
}

int64_t lines(const std::string& text) { return std::count(text.begin(), text.end(), '\n'); }

}  // namespace

TEST_CASE("tools: an argument in brackets is text, also where there may be several") {
  CLI::App app;
  std::string one, flag;
  std::vector<std::string> many;
  app.add_option("one", one);
  app.add_option("many", many);
  app.add_option("--flag", flag)->check(CLI::IsMember({"[x, y]"}));
  std::vector<std::string> words{"tool",   "[a, b]", "[CLS] hello, world [SEP]", "[]", "plain, text",
                                 "--flag", "[x, y]"};
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  EXPECT(run_tool("tool", app, static_cast<int>(argv.size()), argv.data(), [] { return 7; }) == 7);
  EXPECT(one == "[a, b]");
  EXPECT(many == std::vector<std::string>{"[CLS] hello, world [SEP]", "[]", "plain, text"});
  EXPECT(flag == "[x, y]");
}

TEST_CASE("tools: every program says its version, and knows no other flags than its own") {
  int programs = 0;
  for (const char* folder : {"tools", "experiments"})
    for (const auto& entry : fs::directory_iterator(folder)) {
      fs::path program = entry.path();
      if (program.extension() != ".cpp") continue;
      program.replace_extension();
      if (!fs::exists(program)) SKIP("the programs are not built");
      INFO(program.string());
      const Result version = run("./" + program.string() + " --version 2>&1");
      EXPECT(version.status == 0);
      EXPECT(lines(version.out) == 1);
      EXPECT(contains(version.out, build_variant()));
      const Result unknown = run("./" + program.string() + " --no-such-flag 2>&1");
      EXPECT(unknown.status != 0);
      ++programs;
    }
  EXPECT(programs >= 10);
}

TEST_CASE("tools: tokenize gives the same ids for an argument and a line") {
  if (!are_built({"tools/tokenize"})) SKIP("the programs are not built");
  TemporaryFolder tmp("tokenize");
  write_file_atomic(tmp.path + "/vocab.txt", kSavedVocabulary);
  for (const char* text : {"[CLS] stocks, team [SEP]", "[stocks, fell]", "stocks fell", "[MASK]", "a, b"}) {
    INFO(std::string(text));
    const std::string flags = " --format ids --vocab " + tmp.path + "/vocab.txt";
    const Result argument = run(std::string("./tools/tokenize \"") + text + "\"" + flags),
                 line = run(std::string("echo \"") + text + "\" | ./tools/tokenize" + flags);
    EXPECT(argument.status == 0);
    EXPECT(argument.out == line.out);
    EXPECT(lines(argument.out) == 1);
  }
}

TEST_CASE("tools: classify gives a row a text, from lines, standard input and CSV, in three formats") {
  if (!are_built({"tools/classify"})) SKIP("the programs are not built");
  TemporaryFolder tmp("classify");
  const std::string folder = write_saved_run(tmp.path, "softmax"), begin = "./tools/classify " + folder + " ";
  write_file_atomic(tmp.path + "/lines.txt", "stocks fell\n\nteam \"wins\"\r\nno end of line");
  write_file_atomic(tmp.path + "/rows.csv", "id;text;more\n1;stocks;fell\n2;;\n\n3;\"team \"\"wins\"\"\";\n");
  const Result plain = run(begin + tmp.path + "/lines.txt");
  EXPECT(plain.status == 0);
  EXPECT(lines(plain.out) == 4);
  EXPECT(run(begin + "- < " + tmp.path + "/lines.txt").out == plain.out);
  const Result csv = run(begin + tmp.path + "/lines.txt --format csv --proba --routing");
  EXPECT(lines(csv.out) == 5);
  EXPECT(csv.out.starts_with("label,probability,p_"));
  EXPECT(contains(csv.out, "cls_experts_layer2"));
  const Result json = run(begin + tmp.path + "/lines.txt --format json --proba --routing");
  EXPECT(lines(json.out) == 4);
  for (size_t at = 0; at < json.out.size(); at = json.out.find('\n', at) + 1) {
    const auto row = nlohmann::json::parse(json.out.substr(at, json.out.find('\n', at) - at));
    EXPECT(row.at("probabilities").size() == 4);
    EXPECT(row.at("routing").size() == 2);
  }
  const Result rows = run(begin + tmp.path + "/rows.csv --csv-text text,more 2>/dev/null");
  EXPECT(lines(rows.out) == 3);
  EXPECT(rows.out.substr(0, rows.out.find('\n')) == plain.out.substr(0, plain.out.find('\n')));
  const Result wrong = run(begin + tmp.path + "/rows.csv --csv-text body 2>&1");
  EXPECT(wrong.status != 0);
  EXPECT(contains(wrong.out, "expected a column \"body\", found id, text, more"));
  EXPECT(lines(wrong.out) == 1);
  EXPECT(contains(run(begin + tmp.path + "/none 2>&1").out, "none: cannot open"));
}
