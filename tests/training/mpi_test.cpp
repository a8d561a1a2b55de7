// Processes as mpirun starts them: the bytes of a run do not tell how many shared it, and whoever dies, hangs or disagrees ends
// all of them with its name.
#include <chrono>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <regex>

#include "engine/core/file.h"
#include "tests/command.h"
#include "tests/temporary_folder.h"

namespace glia::test {
namespace {

namespace fs = std::filesystem;

const char* const kSmall =
    " --device=cpu --dataset=synthetic --cache \"\" --synthetic-rows=170 --synthetic-test-rows=40 --vocab-size=300 "
    "--layers=1 --hidden=32 --heads=2 --ffn=64 --experts=4 --batch=10 --eval-batch=20 --max-length=32 --log-every=2 "
    "--progress=off --no-estimate --no-report --threads=1 --rank-timeout=5 ";

// "": this build or machine has none.
std::string launcher() {
  if (!fs::exists("experiments/train") || !fs::exists("experiments/run_all")) return "";
  if (run_command("command -v mpirun").status != 0) return "";
  if (run_command("ls build/*/libglia_mpi.so 2>/dev/null").status != 0) return "";
  std::string sanitizer;
#ifdef __SANITIZE_ADDRESS__
  sanitizer =
      "ASAN_OPTIONS=$ASAN_OPTIONS:detect_leaks=0 ";  // of MPI's, whose modules are gone when leaks are named
#endif
  return sanitizer + "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 mpirun --oversubscribe -n ";
}

std::string train(const std::string& config, const fs::path& out, const std::string& more) {
  return "./experiments/train --config=" + config + kSmall + more + " --out=" + out.string();
}

struct Timed {
  CommandResult result;
  double seconds;
};
Timed timed(const std::string& command) {
  const auto begin = std::chrono::steady_clock::now();
  CommandResult result = run_command(command + " 2>&1");
  return {std::move(result), std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count()};
}

// The bytes of a run that say what was computed.
std::string bytes_of(const fs::path& run) {
  std::string all;
  for (const char* file : {"metrics.jsonl", "eval.json", "model.safetensors", "config.json"}) {
    REQUIRE(fs::exists(run / file));
    std::string text = read_file((run / file).string());
    // The command names the result folder.
    if (file == std::string("config.json"))
      text.erase(text.find("\"command\""), text.find('\n', text.find("\"command\"")) - text.find("\"command\""));
    all += text;
  }
  return all;
}

TEST_CASE("mpi: exact sums have the bytes of 1, 2, 3 and 4 processes") {
  const std::string mpirun = launcher();
  if (mpirun.empty()) SKIP("no mpirun, or a build without MPI");
  const TemporaryFolder folder("mpi");
  for (const char* config : {"dense", "astrocyte-hierarchical"}) {
    std::string one;
    for (const int processes : {1, 2, 3, 4}) {
      INFO(config, " ", processes);
      const fs::path out = fs::path(folder.path) / fmt::format("{}-{}", config, processes);
      const std::string command =
          train(config, out, "--reduction=exact --chunks=4 --max-steps=4 --eval-every=2 --fresh");
      const Timed run = timed(processes == 1 ? command : mpirun + std::to_string(processes) + " " + command);
      INFO(run.result.out);
      REQUIRE(run.result.status == 0);
      const std::string bytes = bytes_of(out / "seed0" / config);
      if (processes == 1) one = bytes;
      EXPECT(bytes == one);
    }
  }
}

TEST_CASE("mpi: moments and experts that processes share out leave the bytes of those that all have") {
  const std::string mpirun = launcher();
  if (mpirun.empty()) SKIP("no mpirun, or a build without MPI");
  const TemporaryFolder folder("mpi");
  const auto results = [&](int processes, const std::string& more) {
    const fs::path out = fs::path(folder.path) / fmt::format("{}{}", processes, more.size());
    const std::string flags = "--reduction=exact --chunks=4 --max-steps=4 --eval-every=2 --fresh" + more;
    const Timed run = timed(mpirun + std::to_string(processes) + " " + train("astrocyte-hierarchical", out, flags));
    INFO(run.result.out);
    REQUIRE(run.result.status == 0);
    const fs::path at = out / "seed0" / "astrocyte-hierarchical";
    return read_file((at / "metrics.jsonl").string()) + read_file((at / "model.safetensors").string());
  };
  const std::string whole = results(4, "");
  for (const int processes : {2, 4})
    for (const char* more :
         {" --shard-optimiser", " --expert-parallel=2", " --shard-optimiser --expert-parallel=4"}) {
      INFO(processes, more);
      EXPECT(results(processes, more) == whole);
    }
}

TEST_CASE("mpi: processes that disagree, and more of them than sequences, end with one line of ours") {
  const std::string mpirun = launcher();
  if (mpirun.empty()) SKIP("no mpirun, or a build without MPI");
  const TemporaryFolder folder("mpi");
  const auto two = [&](const std::string& first, const std::string& second) {
    return timed(mpirun + "1 " + train("dense", fs::path(folder.path) / "a", first) + " : -n 1 " +
                 train("dense", fs::path(folder.path) / "a", second));
  };
  struct Case {
    const char *first, *second, *wanted;
  };
  for (const auto& [first, second, wanted] :
       {Case{"--lr=0.001", "--lr=0.002", "process 1 on "},
        {"--synthetic-seed=1", "--synthetic-seed=2", "expected the flags of process 0"},
        {"--batch=1", "--batch=1", "--batch: expected a sequence for each of 2 ranks"},
        {"--ranks=1", "--ranks=1", "--ranks: expected at least as many as there are processes, 2, got 1"}}) {
    const Timed run = two(first, second);
    INFO(first, " ", second, ": ", run.result.out);
    EXPECT(run.result.status != 0);
    EXPECT(contains(run.result.out, wanted));
    EXPECT(!contains(run.result.out, "the same command goes on"));  // the others are ended, and have nothing to add
    EXPECT(run.seconds < 30);
  }
  EXPECT(!fs::exists(fs::path(folder.path) / "a"));
}

TEST_CASE("mpi: processes that pretrain agree on pretraining's own flags too") {
  const std::string mpirun = launcher();
  if (mpirun.empty() || !fs::exists("experiments/pretrain")) SKIP("no mpirun, or a build without MPI");
  const TemporaryFolder folder("mpi");
  const std::string out = (fs::path(folder.path) / "a").string();
  const std::string same =
      "./experiments/pretrain --device=cpu --dataset=synthetic --cache \"\" --synthetic-rows=170 "
      "--synthetic-test-rows=40 --vocab-size=300 --layers=1 --hidden=32 --heads=2 --ffn=64 --max-length=32 --tokens=256 "
      "--held-out=0.1 --steps=4 --micro-batches=2 --progress=off --threads=1 --rank-timeout=5 --out=" +
      out;
  // Each of them would train a rank's weights as no other's, or ask for a sum that nobody else makes.
  for (const char* other :
       {"--beta1=0.5", "--beta2=0.9", "--eps=0.001", "--ramp=0.5", "--steps=5", "--tokens=512"}) {
    const Timed run = timed(mpirun + "1 " + same + " : -n 1 " + same + " " + other);
    INFO(other, ": ", run.result.out);
    EXPECT(run.result.status != 0);
    EXPECT(contains(run.result.out, "expected the flags of process 0"));
    EXPECT(!fs::exists(fs::path(folder.path) / "a" / "config.json"));
  }
}

// Needs neither Slurm nor MPI: what srun sets, and what it does not.
TEST_CASE("mpi: srun without --mpi=pmix is one line of the first process, before anything is read") {
  if (!fs::exists("experiments/train")) SKIP("the programs are not built");
  const TemporaryFolder folder("srun");
  const auto as_process = [&](int process) {
    return run_command(
        fmt::format("env -u OMPI_COMM_WORLD_RANK -u PMI_RANK -u PMIX_RANK SLURM_PROCID={} SLURM_STEP_NUM_TASKS=3 "
                    "SLURM_LOCALID={} {} 2>&1",
                    process, process, train("dense", fs::path(folder.path) / "a", "")));
  };
  const CommandResult first = as_process(0), second = as_process(1);
  EXPECT(first.status != 0);
  EXPECT(first.out ==
         "train: 3 processes: expected srun --mpi=pmix, which tells them of one another, got srun without it\n");
  EXPECT(second.status != 0);
  EXPECT(second.out.empty());
  EXPECT(!fs::exists(fs::path(folder.path) / "a"));
}

// A rank gets a signal after the next checkpoint.
std::string hit(int rank, const std::string& signal, const fs::path& checkpoint, const std::string& command) {
  const std::string mark = checkpoint.string() + ".mark";
  return fmt::format(
      "sh -c 'if [ $OMPI_COMM_WORLD_RANK = {} ]; then (while ! [ {} -nt {} ]; do sleep 0.02; done; kill -{} $$) & fi; "
      "exec {}'",
      rank, checkpoint.string(), mark, signal, command);
}

TEST_CASE(
    "mpi: a rank that is killed or hangs ends all of them with its number, and the run goes on to the same bytes") {
  const std::string mpirun = launcher();
  if (mpirun.empty()) SKIP("no mpirun, or a build without MPI");
  const TemporaryFolder folder("mpi");
  const std::string flags =
      "--reduction=exact --chunks=4 --epochs=8 --eval-every=0 --checkpoint-every=4 --rank-timeout=3";
  const std::string whole = train("softmax-moe", fs::path(folder.path) / "whole", flags),
                    broken = train("softmax-moe", fs::path(folder.path) / "broken", flags);
  const fs::path checkpoint = fs::path(folder.path) / "broken/seed0/softmax-moe/checkpoint.safetensors";
  REQUIRE(timed(whole).result.status == 0);
  struct Case {
    int rank;
    const char *signal, *wanted;
  };
  // Who waits for several, or for one that waits itself, names the one that is stopped.
  for (const auto& [rank, signal, wanted] : {Case{1, "KILL", "rank 1"},
                                             {1, "STOP", "rank 1 on [^ ]+ has not answered rank"},
                                             {2, "STOP", "rank 2 on [^ ]+ has not answered rank"}}) {
    fs::create_directories(checkpoint.parent_path());
    std::ofstream(checkpoint.string() + ".mark");
    const Timed run = timed(mpirun + "4 " + hit(rank, signal, checkpoint, broken));
    INFO(rank, " ", signal, ": ", run.result.out);
    EXPECT(run.result.status != 0);
    EXPECT(std::regex_search(run.result.out, std::regex(wanted)));
    EXPECT(run.seconds < 30);
    EXPECT(!fs::exists(fs::path(folder.path) / "broken/seed0/softmax-moe/eval.json"));
  }
  const Timed run = timed(mpirun + "2 " + broken);
  INFO(run.result.out);
  REQUIRE(run.result.status == 0);
  EXPECT(bytes_of(fs::path(folder.path) / "broken/seed0/softmax-moe") ==
         bytes_of(fs::path(folder.path) / "whole/seed0/softmax-moe"));
}

TEST_CASE("mpi: bench ranks times the processes of a launcher beside the first one alone, and says it once") {
  const std::string mpirun = launcher();
  if (mpirun.empty() || !fs::exists("tools/bench")) SKIP("no mpirun, or a build without MPI");
  TemporaryFolder tmp("mpi-bench");
  const std::string json = tmp.path + "/ranks.json";
  const std::string flags = kSmall;
  const Timed run = timed(mpirun + "3 ./tools/bench ranks --config=dense --steps=2 --json=" + json + flags);
  INFO(run.result.out);
  REQUIRE(run.result.status == 0);
  const auto measured = nlohmann::json::parse(read_file(json));
  REQUIRE(measured["runs"].size() == 2);
  EXPECT(measured["runs"][1]["ranks"] == 3);
  EXPECT(measured["runs"][1]["what"] == "3 ranks in 3 processes");
  size_t lines = 0;
  for (size_t at = run.result.out.find("ms a step"); at != std::string::npos;
       at = run.result.out.find("ms a step", at + 1))
    ++lines;
  EXPECT(lines == 2);
  const Timed refused =
      timed(mpirun + "2 ./tools/bench ranks --config=softmax-moe --steps=2 --expert-parallel=4" + flags);
  EXPECT(refused.result.status != 0);
  EXPECT(contains(refused.result.out, "--expert-parallel: expected a divisor of 2 ranks, got 4"));
}

TEST_CASE("mpi: run_all spreads whole runs over processes, with the bytes of one") {
  const std::string mpirun = launcher();
  if (mpirun.empty()) SKIP("no mpirun, or a build without MPI");
  const TemporaryFolder folder("mpi");
  std::string flags = kSmall;
  flags.erase(flags.find("--rank-timeout"));
  const auto command = [&](const char* out) {
    return "./experiments/run_all --seeds=2 --configs=dense,softmax-moe --max-steps=4" + flags +
           " --out=" + (fs::path(folder.path) / out).string();
  };
  REQUIRE(timed(command("one")).result.status == 0);
  const Timed run = timed(mpirun + "3 " + command("three"));
  INFO(run.result.out);
  REQUIRE(run.result.status == 0);
  for (const char* name : {"seed0/dense", "seed0/softmax-moe", "seed1/dense", "seed1/softmax-moe"})
    EXPECT(bytes_of(fs::path(folder.path) / "one" / name) == bytes_of(fs::path(folder.path) / "three" / name));
  EXPECT(fs::exists(fs::path(folder.path) / "three/summary.json"));
}

}  // namespace
}  // namespace glia::test
