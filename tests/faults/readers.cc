// Every reader of files on truncated and altered ones: readers FOLDER N [READER …]. FOLDER holds what run.sh made: a run, an
// export, a data set. Each of the N inputs of a reader is either read or refused with one line that names the file; a crash, a
// hang, another exception or an error that names nothing ends the program with 1.
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <functional>

#include "data/datasets/dataset.h"
#include "data/tokens/tokenizer_config.h"
#include "engine/core/file.h"
#include "engine/core/message.h"
#include "engine/core/random/rng.h"
#include "experiments/records/saved_model.h"
#include "experiments/report/report.h"
#include "experiments/report/summary.h"
#include "nn/weights/pretrained.h"
#include "nn/weights/weights.h"

using namespace glia;
namespace fs = std::filesystem;

namespace {

struct Reader {
  const char* name;
  const char* file;  // that is altered, below the folder
  std::function<void(const std::string& folder)> read;
};

void read_csv_dataset(const std::string& folder) {
  DatasetOptions o;
  o.dataset = "csv", o.csv_train = folder + "/rows.csv", o.vocab = folder + "/vocab.txt", o.cache = "";
  load_dataset(o);
}

void read_cached(const std::string& folder) {
  DatasetOptions o;
  o.dataset = "csv", o.csv_train = folder + "/rows.csv", o.vocab = folder + "/vocab.txt",
  o.cache = folder + "/cache";
  load_dataset(o);
}

void read_weights(const std::string& path) {
  const Pretrained found = find_pretrained(path);
  Weights(found.weights).check_finite();
}

void read_model(const std::string& folder) {
  Context context(Device::cpu());
  const results::Run run = results::read_run(folder + "/seed0/astrocyte-hierarchical");
  load_saved_model(context, run, DType::kFloat32);
}

std::vector<Reader> readers() {
  const auto run = [](const std::string& f) { results::read_run(f + "/seed0/astrocyte-hierarchical"); };
  const auto report = [](const std::string& f) {
    results::report_html(results::summarise(f), results::list_runs(f));
  };
  return {
      {"config.json", "seed0/astrocyte-hierarchical/config.json", run},
      {"eval.json", "seed0/astrocyte-hierarchical/eval.json", run},
      {"timing.json", "seed0/astrocyte-hierarchical/timing.json", run},
      {"metrics.jsonl", "seed0/astrocyte-hierarchical/metrics.jsonl",
       [](const std::string& f) { results::read_metrics(f + "/seed0/astrocyte-hierarchical"); }},
      {"utilisation", "seed0/astrocyte-hierarchical/utilization_layer1.csv",
       [](const std::string& f) {
         results::read_run_utilisation(results::read_run(f + "/seed0/astrocyte-hierarchical"), false);
       }},
      {"study.txt", "study.txt", [](const std::string& f) { results::read_study(f); }},
      {"report of config.json", "seed0/astrocyte-hierarchical/config.json", report},
      {"report of metrics.jsonl", "seed0/astrocyte-hierarchical/metrics.jsonl", report},
      {"report of utilisation", "seed0/astrocyte-hierarchical/utilization_layer2.csv", report},
      {"summary.json", "summary.json", [](const std::string& f) { results::read_summary(f); }},
      {"model.safetensors", "seed0/astrocyte-hierarchical/model.safetensors", read_model},
      {"config.json of a model", "seed0/astrocyte-hierarchical/config.json", read_model},
      {"vocab.txt", "vocab.txt", [](const std::string& f) { Vocabulary::from_file(f + "/vocab.txt"); }},
      {"tokenizer_config.json", "export/tokenizer_config.json",
       [](const std::string& f) { read_tokenizer_config(f + "/export"); }},
      {"export's config.json", "export/config.json", [](const std::string& f) { read_weights(f + "/export"); }},
      {"export's weights", "export/model.safetensors", [](const std::string& f) { read_weights(f + "/export"); }},
      {"pytorch_model.bin", "torch/pytorch_model.bin", [](const std::string& f) { read_weights(f + "/torch"); }},
      {"csv data", "rows.csv", read_csv_dataset},
      {"data cache", "cache/", read_cached},
  };
}

std::string altered(std::string content, uint64_t n) {
  const auto draw = [&](uint64_t bound, uint64_t i) {
    return bound ? random_below(bound, 20, purpose::kTest, n, i) : 0;
  };
  if (n % 2 == 0) return content.substr(0, draw(content.size(), 0));
  if (content.empty()) return content;
  // A bit, or a byte, at one to eight places; half of them where headers are.
  for (uint64_t i = 0, places = 1 + draw(8, 1); i < places; ++i) {
    const size_t reach = draw(2, 4 * i + 2) ? content.size() : std::min<size_t>(content.size(), 512);
    char& c = content[draw(reach, 4 * i + 3)];
    if (draw(2, 4 * i + 4)) c = static_cast<char>(c ^ (1 << draw(8, 4 * i + 5)));
    else c = static_cast<char>(draw(256, 4 * i + 5));
  }
  return content;
}

// 0: read; 1: refused as it should be. Anything else is a finding, which has been printed.
int attempt(const Reader& reader, const std::string& folder, uint64_t n) {
  try {
    ::alarm(20);
    reader.read(folder);
    ::alarm(0);
    return 0;
  } catch (const Error& error) {
    const std::string message = message_of(error);
    const bool one_line = message.find('\n') == std::string::npos,
               names = message.find(folder) != std::string::npos;
    if (one_line && names) return 1;
    fmt::print("{} {}: an error {}: {}\n", reader.name, n, one_line ? "that names no file" : "of several lines",
               message);
  } catch (const std::exception& error) {
    fmt::print("{} {}: another exception: {}\n", reader.name, n, error.what());
  }
  return 2;
}

struct Tally {
  int64_t read = 0, refused = 0, found = 0;
};

// "cache/": the file there, whose name holds a hash.
std::string file_of(const Reader& reader, const std::string& folder) {
  const std::string path = folder + "/" + reader.file;
  if (!path.ends_with('/')) return path;
  for (const auto& entry : fs::directory_iterator(path)) return entry.path().string();
  fail_input("{}: is empty", path);
}

// A child does the reading, so that a crash is counted and the rest goes on from behind it.
Tally try_reader(const Reader& reader, const std::string& folder, uint64_t count) {
  reader.read(folder);  // what nobody has altered is read
  const std::string path = file_of(reader, folder), whole = read_file(path);
  Tally tally;
  for (uint64_t next = 0; next < count;) {
    int ends[2];
    CHECK(::pipe(ends) == 0, "pipe");
    std::fflush(stdout);
    const pid_t child = ::fork();
    if (child == 0) {
      for (uint64_t n = next; n < count; ++n) {
        fs::remove(path);
        write_file_atomic(path, altered(whole, n));
        const char outcome = static_cast<char>(attempt(reader, folder, n));
        std::fflush(stdout);
        if (::write(ends[1], &outcome, 1) != 1) ::_exit(3);
      }
      ::_exit(0);
    }
    ::close(ends[1]);
    char outcome;
    while (::read(ends[0], &outcome, 1) == 1)
      ++(outcome == 0 ? tally.read : outcome == 1 ? tally.refused : tally.found), ++next;
    ::close(ends[0]);
    int status = 0;
    ::waitpid(child, &status, 0);
    if (next < count) {
      fmt::print("{} {}: the program {} {}\n", reader.name, next, WIFSIGNALED(status) ? "got signal" : "ended with",
                 WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
      ++tally.found, ++next;
    }
  }
  write_file_atomic(path, whole);
  return tally;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const std::string folder = fs::canonical(argv[1]).string();
  const uint64_t count = std::strtoull(argv[2], nullptr, 10);
  int64_t found = 0;
  for (const Reader& reader : readers()) {
    bool wanted = argc == 3;
    for (int i = 3; i < argc; ++i) wanted = wanted || std::string(argv[i]) == reader.name;
    if (!wanted) continue;
    if (!fs::exists(fs::path(folder + "/" + reader.file).parent_path())) {
      fmt::print("{:<26} SKIPPED: {} was not made\n", reader.name, reader.file);
      continue;
    }
    const Tally tally = try_reader(reader, folder, count);
    fmt::print("{:<26} {:>6} read, {:>6} refused, {} findings\n", reader.name, tally.read, tally.refused,
               tally.found);
    found += tally.found;
  }
  return found ? 1 : 0;
}
