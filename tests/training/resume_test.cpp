// ./experiments/run_all as a process: killed and started again, two at once, and with the machine against it.
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <thread>

#include "engine/core/file.h"
#include "experiments/records/results.h"
#include "tests/test.h"
#include "tests/training/flag_words.h"

namespace fs = std::filesystem;
using namespace glia;
using namespace glia::test;

namespace {

std::string program() {
  // build/<variant>/run_tests → the repository's root
  const fs::path root = fs::read_symlink("/proc/self/exe").parent_path().parent_path().parent_path();
  return root / "experiments" / "run_all";
}

// A working folder of its own, so that every attempt has the same command line: `--out results`.
struct Place {
  fs::path path;
  explicit Place(const std::string& name) : path(temporary_path(name)) {
    fs::remove_all(path);
    fs::create_directories(path);
  }
  ~Place() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  fs::path run(const std::string& title) const { return path / "results" / title; }
};

// fork and exec at once: OpenMP's threads do not survive a fork.
pid_t start(const Place& place, const std::vector<std::string>& more, const std::function<void()>& in_child = {}) {
  std::vector<std::string> words = words_of(
      program() + " " + kTinyFlags +
      "--layers 2 --synthetic-rows 160 --synthetic-test-rows 24 --vocab-size 300 --batch 8 --epochs 2 --log-every 2 --eval-every 5 --checkpoint-every 4 --estimate off --threads 1 --seeds 1 --max-length 40");
  words.insert(words.end(), more.begin(), more.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const std::string folder = place.path.string(), log = folder + "/log.txt";
  const pid_t pid = ::fork();
  if (pid == 0) {
    const int out = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
    if (::chdir(folder.c_str()) != 0 || ::dup2(out, 1) < 0 || ::dup2(out, 2) < 0) ::_exit(126);
    if (in_child) in_child();
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  return pid;
}

int wait_for(pid_t pid) {  // exit status, or minus the signal
  int status = 0;
  ::waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

// All files of the runs but what differs by nature: timing.json, and the summaries, which hold its seconds.
std::map<std::string, std::string> files(const Place& place) {
  std::map<std::string, std::string> all;
  for (const auto& entry : fs::recursive_directory_iterator(place.path / "results")) {
    const std::string name = fs::relative(entry.path(), place.path / "results").string();
    if (entry.is_regular_file() && name.starts_with("seed") && !name.ends_with("/timing.json"))
      all[name] = read_file(entry.path());
  }
  return all;
}

void expect_same(const Place& a, const Place& b) {
  const auto x = files(a), y = files(b);
  REQUIRE(x.size() == y.size());
  for (const auto& [name, content] : x) {
    INFO(name);
    REQUIRE(y.contains(name));
    EXPECT(content == y.at(name));
  }
}

int64_t lines(const fs::path& path) {
  if (!fs::exists(path)) return 0;
  const std::string text = read_file(path);
  return std::count(text.begin(), text.end(), '\n');
}

const std::vector<std::string> kTwo{"--configs", "dense,astrocyte-hierarchical"};

// Made once: what nobody disturbed.
const Place& undisturbed() {
  static const Place place("undisturbed");
  static const int status = wait_for(start(place, kTwo));
  REQUIRE(status == 0);
  return place;
}

}  // namespace

TEST_CASE("run_all: killed at any moment and started again, it ends with the same bytes") {
  if (!fs::exists(program())) SKIP("experiments/run_all is not built");
  const Place place("killed");
  // Each attempt is shot when the log of the named run has so many lines: before and after checkpoints, in both
  // runs.
  const std::vector<std::pair<std::string, int64_t>> moments{{"seed0/dense", 1},
                                                             {"seed0/dense", 8},
                                                             {"seed0/dense", 17},
                                                             {"seed0/astrocyte-hierarchical", 7},
                                                             {"seed0/astrocyte-hierarchical", 20}};
  for (const auto& [title, count] : moments) {
    const pid_t pid = start(place, kTwo);
    int status = 0;
    while (lines(place.run(title) / "metrics.jsonl") < count && ::waitpid(pid, &status, WNOHANG) == 0)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    ::kill(pid, SIGKILL);
    ::waitpid(pid, &status, 0);
  }
  EXPECT(wait_for(start(place, kTwo)) == 0);
  expect_same(undisturbed(), place);
  const results::Json timing =
      results::Json::parse(read_file(place.run("seed0/astrocyte-hierarchical") / "timing.json"));
  EXPECT(timing.at("resumed_at_step").get<int64_t>() > 0);  // else this test tests nothing
  // A finished folder is left as it is.
  const std::string before = read_file(place.run("seed0/dense") / "timing.json");
  EXPECT(wait_for(start(place, kTwo)) == 0);
  EXPECT(read_file(place.run("seed0/dense") / "timing.json") == before);
}

TEST_CASE("run_all: what a program leaves that is killed in its last moments is removed by the next") {
  if (!fs::exists(program())) SKIP("experiments/run_all is not built");
  const Place place("leftovers");
  fs::copy(undisturbed().path / "results", place.path / "results", fs::copy_options::recursive);
  const fs::path checkpoint = place.run("seed0/dense") / "checkpoint.safetensors",
                 summary = place.path / "results/summary.json.123.tmp";
  for (const fs::path& file : {checkpoint, summary}) write_file_atomic(file, "half");
  EXPECT(wait_for(start(place, kTwo)) == 0);
  EXPECT(!fs::exists(checkpoint));
  EXPECT(!fs::exists(summary));
}

TEST_CASE("run_all: a damaged checkpoint costs time, not the run") {
  if (!fs::exists(program())) SKIP("experiments/run_all is not built");
  for (const bool header : {false, true}) {  // what the loop remembers, else a number
    const Place place("damaged");
    const pid_t pid = start(place, kTwo);
    const fs::path checkpoint = place.run("seed0/dense") / "checkpoint.safetensors";
    int status = 0;
    while (!fs::exists(checkpoint) && ::waitpid(pid, &status, WNOHANG) == 0)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    ::kill(pid, SIGKILL);
    ::waitpid(pid, &status, 0);
    if (fs::exists(checkpoint)) {
      std::string content = read_file(checkpoint);
      const size_t at = header ? content.find("best_accuracy") : content.size() / 2;
      REQUIRE(at < content.size());
      content[at] ^= 1;
      write_file_atomic(checkpoint, content);
    }
    EXPECT(wait_for(start(place, kTwo)) == 0);
    expect_same(undisturbed(), place);
    EXPECT(contains(read_file(place.path / "log.txt"), "begins anew"));
  }
}

TEST_CASE("run_all: two programs on one result folder share the work and harm nothing") {
  if (!fs::exists(program())) SKIP("experiments/run_all is not built");
  const Place place("shared");
  const pid_t first = start(place, kTwo), second = start(place, kTwo);
  EXPECT(wait_for(first) == 0);
  EXPECT(wait_for(second) == 0);
  expect_same(undisturbed(), place);
}

TEST_CASE("run_all: at its end stands what comes next, in words that a shell takes") {
  if (!fs::exists(program())) SKIP("experiments/run_all is not built");
  const Place place("next");
  EXPECT(wait_for(start(place, {"--configs", "softmax-moe", "--max-steps", "2", "--task", "causal_lm", "--out",
                                "two words"})) == 0);
  const std::string log = read_file(place.path / "log.txt");
  EXPECT(contains(log, "next       ./tools/heatmap 'two words/seed0'\n"));
  EXPECT(contains(log, "           ./tools/generate 'two words/seed0/softmax-moe' \"a prompt\"\n"));
}

TEST_CASE("run_all: where no summary can be written, nobody is sent to the report of before") {
  if (!fs::exists(program())) SKIP("experiments/run_all is not built");
  const Place place("stale");
  const std::vector<std::string> words{"--configs", "softmax-moe", "--max-steps", "2", "--out", "results"};
  EXPECT(wait_for(start(place, words)) == 0);
  EXPECT(contains(read_file(place.path / "log.txt"), "\nreport     results/report.html\n"));
  fs::remove(place.path / "log.txt");
  fs::remove(place.path / "results/summary.json");
  fs::create_directories(place.path / "results/summary.json/in the way");
  EXPECT(wait_for(start(place, words)) == 1);
  const std::string log = read_file(place.path / "log.txt");
  INFO(log);
  EXPECT(contains(log, "\nno summary: results/summary.json"));
  EXPECT(!contains(log, "\nreport     "));
}

TEST_CASE("run_all: side by side in one program, the same bytes") {
  if (!fs::exists(program())) SKIP("experiments/run_all is not built");
  const Place place("jobs");
  std::vector<std::string> words = kTwo;
  words.insert(words.end(), {"--jobs", "2"});
  EXPECT(wait_for(start(place, words)) == 0);
  auto x = files(undisturbed()), y = files(place);
  for (auto* all : {&x, &y})
    std::erase_if(*all, [](const auto& f) { return f.first.ends_with("config.json"); });  // the command
  EXPECT(x == y);
}

TEST_CASE("run_all: what fails is named, the others go on, the exit status says so") {
  if (!fs::exists(program())) SKIP("experiments/run_all is not built");
  const std::vector<std::string> brief{"--configs", "dense,softmax-moe", "--max-steps", "2"};
  const auto with = [&](std::initializer_list<std::string> more) {
    std::vector<std::string> words = brief;
    words.insert(words.end(), more);
    return words;
  };
  SUBCASE("a file stands where a run's folder should be") {
    const Place place("blocked");
    fs::create_directories(place.run("seed0"));
    write_file_atomic(place.run("seed0/dense"), "in the way");
    EXPECT(wait_for(start(place, brief)) == 1);
    EXPECT(results::is_done(place.run("seed0/softmax-moe")));
    EXPECT(contains(read_file(place.path / "log.txt"), "1 run failed"));
  }
  SUBCASE("disk full") {
    const Place place("full");
    EXPECT(wait_for(start(place, brief, [] {
             const rlimit limit{24 << 10, 24 << 10};  // a file may not be larger: model.safetensors does not fit
             ::setrlimit(RLIMIT_FSIZE, &limit);
           })) == 1);
    const results::Run run = results::read_run(place.run("seed0/dense"));
    REQUIRE(run.state == results::RunState::failed);
    EXPECT(contains(run.failure->reason, "model.safetensors"));
    // With room again the failed runs are tried again.
    EXPECT(wait_for(start(place, brief)) == 0);
    EXPECT(results::is_done(place.run("seed0/dense")));
  }
  // Shadow memory alone is more than the limit.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  SUBCASE("out of memory") {
    const Place place("memory");
    // Far less than this machine has, so that it is the allocation that fails and not the check before it.
    EXPECT(wait_for(start(place, with({"--ffn", "1000000", "--estimate", "on"}), [] {
             const rlimit limit{1 << 30, 1 << 30};
             ::setrlimit(RLIMIT_AS, &limit);
           })) == 1);
    const results::Run run = results::read_run(place.run("seed0/softmax-moe"));
    REQUIRE(run.state == results::RunState::failed);
    EXPECT(contains(run.failure->reason, "memory"));
  }
#endif
  SUBCASE("a model that no machine holds is refused before anything is made") {
    const Place place("huge");
    EXPECT(wait_for(start(place, with({"--ffn", "1099511627776"}))) == 2);
    EXPECT(!fs::exists(place.path / "results"));
  }
  SUBCASE("a folder that cannot be written to, before anything is trained") {
    const Place place("file");
    write_file_atomic(place.path / "results", "a file");
    EXPECT(wait_for(start(place, brief)) == 2);
    EXPECT(contains(read_file(place.path / "log.txt"), "results"));
  }
  SUBCASE("other settings in the folder") {
    const Place place("settings");
    EXPECT(wait_for(start(place, brief)) == 0);
    EXPECT(wait_for(start(place, with({"--lr", "0.5"}))) == 2);
    EXPECT(contains(read_file(place.path / "log.txt"), "train.lr"));
    // Runs beside them that could not stand in one table with them: before anything is trained, too.
    EXPECT(wait_for(start(place, with({"--lr", "0.5", "--configs", "astrocyte"}))) == 2);
    EXPECT(contains(read_file(place.path / "log.txt"), "runs of one summary must have the same train.lr"));
    EXPECT(!fs::exists(place.run("seed0/astrocyte")));
    EXPECT(wait_for(start(place, with({"--lr", "0.5", "--fresh", "on"}))) == 0);
  }
  SUBCASE("what no run could get past, before the data is read") {
    const Place place("never");
    EXPECT(wait_for(start(place, with({"--top-k", "1"}))) == 2);
    EXPECT(contains(read_file(place.path / "log.txt"), "top_k 1"));
    EXPECT(wait_for(start(place, with({"--init", "nowhere.safetensors"}))) == 2);
    EXPECT(contains(read_file(place.path / "log.txt"),
                    "nowhere.safetensors: expected a folder or file of weights, found nothing there"));
    EXPECT(!fs::exists(place.path / "results"));
    EXPECT(wait_for(start(place, with({"--batch", "1000000"}))) == 2);
    EXPECT(contains(read_file(place.path / "log.txt"), "--batch 1000000: there are only"));
  }
  SUBCASE("an unknown flag") {
    const Place place("flag");
    EXPECT(wait_for(start(place, {"--sedes", "3"})) == 2);
    EXPECT(!fs::exists(place.path / "results"));
  }
}
