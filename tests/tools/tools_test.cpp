// The programs as a person meets them: what is typed is what they get, and errors are one line.
#include <filesystem>

#include "engine/core/build_info.h"
#include "engine/core/command_line/program.h"
#include "engine/core/file.h"
#include "experiments/records/routing/routing_shares.h"
#include "tests/command.h"
#include "tests/records/saved_run.h"
#include "tests/test.h"
#include "tools/tool.h"

using namespace glia;
using namespace glia::test;
namespace fs = std::filesystem;

namespace {

using Result = CommandResult;

Result run(const std::string& command) { return run_command(command); }

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

TEST_CASE("tools: what is printed and cannot be written is an error") {
  if (!fs::exists("/dev/full")) SKIP("no /dev/full here");
  for (const char* tool : {"route", "heatmap", "report", "gradcheck", "tokenize", "bench ops"}) {
    const std::string program = std::string("tools/") + tool;
    if (!are_built({program.substr(0, program.find(' ')).c_str()})) SKIP("the programs are not built");
    INFO(program);
    const Result result = run("./" + program + " --help 2>&1 >/dev/full");
    EXPECT(WEXITSTATUS(result.status) == 1);
    EXPECT(result.out == std::string(tool) + ": standard output: cannot write\n");
  }
}

TEST_CASE("tools: an error is one line, whatever it quotes") {
  if (!are_built({"tools/report", "experiments/train"})) SKIP("the programs are not built");
  for (const char* command : {"./tools/report $'no\nsuch\x1b[2Jfolder'", "./experiments/train --config $'no\nsuch'",
                              "./experiments/train --data $'no\nsuch'"}) {
    INFO(std::string(command));
    const Result result = run("bash -c \"" + std::string(command) + "\" 2>&1 >/dev/null");
    EXPECT(result.status != 0);
    EXPECT(lines(result.out) == 1);
    EXPECT(result.out.find('\x1b') == std::string::npos);
    EXPECT(contains(result.out, "no\\nsuch"));
  }
}

TEST_CASE("tools: a flag that would not be read is refused") {
  if (!are_built({"tools/heatmap", "tools/report"})) SKIP("the programs are not built");
  const auto refused = [](const std::string& command, const std::string& message) {
    const Result r = run(command + " 2>&1 >/dev/null");
    INFO(command, ": ", r.out);
    EXPECT(r.status != 0);
    EXPECT(lines(r.out) == 1);
    EXPECT(contains(r.out, message));
  };
  refused("tools/heatmap nowhere --data data/ag_news", "--data requires --recompute");
  refused("tools/heatmap nowhere --device cpu", "--device requires --recompute");
  refused("tools/report --compare a b --markdown x.md", "--markdown excludes --compare");
  refused("tools/report results --compare a b", "results excludes --compare");
}

TEST_CASE("tools: numbers that nobody can mean are no numbers") {
  if (!are_built({"tools/generate"})) SKIP("the programs are not built");
  for (const auto& [flags, wanted] :
       {std::pair{"--temperature nan", "--temperature: expected a finite number, got nan"},
        {"--top-p nan", "--top-p: expected a finite number"},
        {"--top-p 0", "--top-p: expected a number above 0 and at most 1, got 0"},
        {"--seed -1", "--seed: expected a whole number from 0 to 18446744073709551615, got -1"},
        {"--seed 99999999999999999999", "--seed: expected a whole number from 0"},
        {"--no-such 3", "unknown flag --no-such"}}) {
    INFO(std::string(flags));
    const Result result = run(fmt::format("./tools/generate none words {} 2>&1", flags));
    EXPECT(WEXITSTATUS(result.status) == 2);
    EXPECT(contains(result.out, wanted));
    EXPECT(lines(result.out) == 1);
  }
}

TEST_CASE("tools: heatmap makes no mean of seeds that are made of different things, and shows each") {
  if (!are_built({"tools/heatmap"})) SKIP("the programs are not built");
  TemporaryFolder tmp("heatmap-mean");
  const auto write = [&](double balance) {
    for (const int seed : {0, 1}) {
      results::RunConfig c = fake_config("softmax-moe", seed);
      if (seed == 1) c.balance = balance;
      write_fake_run(tmp.path + "/out", c, 10);
    }
  };
  const std::string command = "./tools/heatmap " + tmp.path + "/out --format csv --out " + tmp.path + "/maps 2>&1";
  write(0.5);
  const Result mixed = run(command);
  EXPECT(mixed.status != 0);
  EXPECT(contains(mixed.out, "seeds of one configuration must have the same balance"));
  EXPECT(fs::exists(tmp.path + "/maps/seed1"));
  EXPECT(!fs::exists(tmp.path + "/maps/mean"));
  write(fake_config("softmax-moe", 0).balance);
  EXPECT(run(command).status == 0);
  EXPECT(fs::exists(tmp.path + "/maps/mean"));
}

TEST_CASE("tools: heatmap shows what tokens chose beside the experts, in columns of their own") {
  if (!are_built({"tools/heatmap"})) SKIP("the programs are not built");
  TemporaryFolder tmp("heatmap-beside");
  const results::RunConfig c = fake_config("softmax-moe", 0, 2, 2);
  write_fake_run(tmp.path, c, 2);
  const std::string folder = results::run_folder(tmp.path, 0, "softmax-moe");
  const std::string command = "./tools/heatmap " + folder + " --format text";
  EXPECT(!contains(run(command).out, "choices are"));
  const int topics = int(c.data.class_names.size());
  results::ShareTable t{results::Matrix(topics, 4), results::Matrix(topics, 4), {}, 0};
  for (int i = 0; i < 4; ++i) t.all(0, i) = 0.1 * (i + 1), t.cls(0, i) = i == 3;
  const results::LayerShares layer{t, t};
  results::write_shares(folder, {layer, layer}, 2, {"zero", "copy"}, c.data.class_names);
  const results::RunChoices read = results::read_choices(results::read_run(folder), false);
  EXPECT(read.columns == std::vector<std::string>{"zero", "copy"});
  REQUIRE(read.layers.size() == 2);
  EXPECT(read.layers[1] == t.all);
  const Result all = run(command), cls = run(command + " --cls --layer 2");
  INFO(all.out);
  EXPECT(all.status == 0);
  EXPECT(contains(all.out, "layer 1: whose the tokens' choices are (percent)\n"));
  EXPECT(contains(all.out, "e0    e1  zero  copy\n"));
  EXPECT(contains(all.out, "  10.0  20.0  30.0  40.0\n"));
  EXPECT(contains(cls.out, "layer 2: whose the CLS rows' choices are (percent)\n"));
  EXPECT(!contains(cls.out, "layer 1"));
  EXPECT(contains(cls.out, "100.0\n"));
  // Another number of experts than the run has is a broken file's.
  results::write_shares(folder, {layer, layer}, 1, {"zero", "copy", "more"}, c.data.class_names);
  EXPECT(contains(run(command + " 2>&1").out,
                  "utilization_choices_layer1.csv:1: expected expert1 in column 3, got \"zero\""));
}

TEST_CASE("tools: train_vocab and tokenize unpack text, and take no other file for it") {
  if (!are_built({"tools/tokenize", "tools/train_vocab"})) SKIP("the programs are not built");
  TemporaryFolder tmp("text-files");
  tmp.write("plain.txt", "some words and some other words\n");
  REQUIRE(run("gzip -k " + tmp.path + "/plain.txt && cd " + tmp.path +
              " && iconv -t UTF-16 plain.txt > wide.txt && printf 'a \\377 b\\n' > bytes.txt")
              .status == 0);
  const auto learnt = [&](const std::string& file) {
    return run("./tools/train_vocab --vocab-size 40 --out " + tmp.path + "/" + file + ".vocab " + tmp.path + "/" +
               file + " 2>&1");
  };
  EXPECT(learnt("plain.txt").status == 0);
  EXPECT(learnt("plain.txt.gz").status == 0);
  EXPECT(read_file(tmp.path + "/plain.txt.vocab") == read_file(tmp.path + "/plain.txt.gz.vocab"));
  EXPECT(contains(learnt("wide.txt").out, "expected text, found a UTF-16 file"));
  EXPECT(contains(learnt("bytes.txt").out, "bytes.txt:1:3: expected UTF-8, found byte 0xFF"));
  const std::string flags = " --format ids --vocab " + tmp.path + "/plain.txt.vocab ";
  const auto ids = [&](const std::string& file) {
    return run("./tools/tokenize" + flags + "--file " + tmp.path + "/" + file + " 2>&1");
  };
  EXPECT(ids("plain.txt").out == ids("plain.txt.gz").out);
  EXPECT(ids("wide.txt").status != 0);
  EXPECT(contains(run("./tools/tokenize --decode" + flags + "4000 2>&1").out, "expected ids from 0 to "));
}

TEST_CASE("tools: tokenize and train_vocab take no flag that they would not read") {
  if (!are_built({"tools/tokenize", "tools/train_vocab"})) SKIP("the programs are not built");
  TemporaryFolder tmp("unread-flags");
  tmp.write("vocab.txt", kSavedVocabulary);
  tmp.write("plain.txt", "some words and some other words\n");
  const std::string tokenize = "./tools/tokenize --vocab " + tmp.path + "/vocab.txt ",
                    train = "./tools/train_vocab --vocab-size 40 --out " + tmp.path + "/new.txt " + tmp.path +
                            "/plain.txt ";
  EXPECT(run(tokenize + "--special --max-length 4 words").status == 0);
  for (const auto& [command, wanted] : std::vector<std::pair<std::string, const char*>>{
           {tokenize + "--stats --only-topics 0,1", "unknown flag --only-topics"},
           {tokenize + "--stats --prompt sentence", "unknown flag --prompt"},
           {tokenize + "--csv-train none.csv words", "--csv-train: not read without --stats"},
           {tokenize + "--max-length 4 words", "--max-length: not read without --special or --stats"},
           {train + "--csv-train none.csv", "--csv-train: not read beside text files"}}) {
    const Result result = run(command + " 2>&1");
    INFO(command, ": ", result.out);
    EXPECT(result.status != 0);
    EXPECT(contains(result.out, wanted));
    EXPECT(lines(result.out) == 1);
  }
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
  const std::string folder = write_saved_run(tmp.path, plain_router()), begin = "./tools/classify " + folder + " ";
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

TEST_CASE("tools: every program's man page and completion have every flag that --help lists") {
  std::vector<std::string> programs;
  for (const char* folder : {"tools", "experiments"})
    for (const auto& entry : fs::directory_iterator(folder))
      if (entry.path().extension() == ".cpp")
        programs.push_back("./" + entry.path().parent_path().string() + "/" + entry.path().stem().string());
  for (const char* command : {"ops", "tokenizer", "step"})
    programs.push_back(std::string("./tools/bench ") + command);
  const std::string script = read_file("tools/completion.bash");
  size_t flags_seen = 0;
  for (const std::string& program : programs) {
    if (!fs::exists(program.substr(0, program.find(' ')))) SKIP("the programs are not built");
    INFO(program);
    const std::string help = run(program + " --help").out, page = run(program + " --help-man").out,
                      words = run(program + " --help-completion").out;
    EXPECT(page.starts_with(".TH GLIA"));
    EXPECT(contains(page, "\n.SH NAME\nglia\\-"));
    std::string bare;  // groff's \- is a -
    for (size_t i = 0; i < page.size(); ++i)
      if (page[i] != '\\' || page[i + 1] != '-') bare += page[i];
    for (size_t at = help.find("--"); at != std::string::npos; at = help.find("--", at + 2)) {
      const size_t end = help.find_first_not_of("abcdefghijklmnopqrstuvwxyz-0123456789", at);
      const size_t line = help.rfind('\n', at) + 1;
      if (help.substr(line, at - line).find_first_not_of(" h,-") != std::string::npos) continue;  // in a sentence
      const std::string flag = help.substr(at, end - at);
      INFO(flag);
      EXPECT(contains(bare, "\\fB" + std::string(flag == "--help" ? "-h, " : "") + flag + "\\fR"));
      EXPECT((words.starts_with(flag) || contains(words, "\n" + flag)));
      ++flags_seen;
    }
    const size_t name = program.rfind('/') + 1;
    EXPECT(contains(script, program.substr(name, program.find(' ') - name)));
  }
  EXPECT(flags_seen > 250);
}

TEST_CASE("tools: bash completes flags, choices and bench's commands") {
  if (!are_built({"tools/classify", "experiments/train", "tools/bench"})) SKIP("the programs are not built");
  const auto completed = [](const std::string& words, int at) {
    return run(fmt::format("bash -c 'source tools/completion.bash; COMP_WORDS=({}); COMP_CWORD={}; _glia; echo "
                           "${{COMPREPLY[@]}}'",
                           words, at))
        .out;
  };
  EXPECT(completed("./tools/classify --form", 1) == "--format\n");
  EXPECT(completed("./tools/classify --format \"\"", 2) == "text csv json\n");
  EXPECT(completed("./tools/classify results/se", 1) == "\n");  // files are bash's own
  EXPECT(completed("./tools/bench t", 1) == "tokenizer\n");
  EXPECT(completed("./tools/bench step --micro", 2) == "--micro-batches\n");
  EXPECT(completed("./experiments/train --protocol pa", 2) == "paper\n");
  EXPECT(contains(completed("./experiments/train --router \"\"", 2), plain_router()));
  EXPECT(completed("./experiments/train --fresh o", 2) == "on off\n");
}

TEST_CASE("tools: what a message says to type is there: ./tools/x in a checkout, glia-x where that was installed") {
  EXPECT(program("tools/heatmap", "/home/me/glia/experiments/run_all") == "./tools/heatmap");
  EXPECT(program("tools/heatmap", "/usr/local/bin/glia-run_all") == "glia-heatmap");
  EXPECT(program("experiments/train", "glia-fetch_data") == "glia-train");
  if (!are_built({"tools/tokenize"})) SKIP("the programs are not built");
  TemporaryFolder tmp("installed");
  const std::string installed = tmp.path + "/glia-tokenize";
  fs::copy_file("tools/tokenize", installed);
  const auto said = [&](const std::string& command) {
    return run("LD_LIBRARY_PATH=$(dirname $(ldd tools/tokenize | awk '/libglia/ { print $3 }')) " + command +
               " --data " + tmp.path + " words 2>&1")
        .out;
  };
  EXPECT(contains(said(installed), "type `glia-fetch_data`"));
  EXPECT(contains(said("./tools/tokenize"), "type `./tools/fetch_data`"));
}
