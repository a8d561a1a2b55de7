#include "data/datasets/fetch.h"

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "data/datasets/md5.h"
#include "engine/core/check.h"
#include "engine/core/file.h"

extern char** environ;

namespace glia {
namespace {

// Runs a program without a shell and waits; its exit status, 127 when it cannot be started.
int run_program(std::vector<std::string> arguments) {
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  pid_t pid = 0;
  if (posix_spawnp(&pid, argv[0], nullptr, nullptr, argv.data(), environ) != 0) return 127;
  int status = 0;
  while (waitpid(pid, &status, 0) < 0)
    if (errno != EINTR) return 127;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// Of curl's exit statuses, those that a reader can do something about.
const char* meaning(int status) {
  switch (status) {
    case 6: return ", the host's name is not known: is there a network?";
    case 7: return ", no connection to the host";
    case 22: return ", the server does not have it";
    case 23: return ", the disk takes no more";
    case 28: return ", it took too long";
    default: return "";
  }
}

}  // namespace

const std::vector<RemoteFile>& ag_news_files() {
  static const std::string crepe =
      "https://raw.githubusercontent.com/mhjabreel/CharCnn_Keras/master/data/ag_news_csv/";
  static const std::vector<RemoteFile> files{
      {"train.csv", "b1a00f826fdfbd249f79597b59e1dc12", {crepe + "train.csv"}},
      {"test.csv", "d52ea96a97a2d943681189a97654912d", {crepe + "test.csv"}},
      {"vocab.txt",
       "64800d5d8528ce344256daf115d4965e",
       {"https://huggingface.co/google/bert_uncased_L-4_H-512_A-8/resolve/main/vocab.txt",
        "https://huggingface.co/bert-base-uncased/resolve/main/vocab.txt"}},
  };
  return files;
}

Fetched fetch(const RemoteFile& file, const std::string& dir, const std::string& curl) {
  namespace fs = std::filesystem;
  const fs::path path = fs::path(dir) / file.name, part = path.string() + ".part";
  make_folder(dir);
  if (fs::is_regular_file(path) && md5(read_file(path)) == file.md5) return Fetched::kWasThere;
  const auto complete = [&] { return fs::is_regular_file(part) && md5(read_file(part)) == file.md5; };
  std::string why = "no address";
  for (const std::string& address : file.addresses) {
    if (!complete()) {
      const int status = run_program({curl, "--fail", "--location", "--silent", "--retry", "3", "--connect-timeout",
                                      "10", "--continue-at", "-", "--output", part.string(), address});
      if (status == 127) {
        why = fmt::format("{}: no such program", curl);
        break;
      }
      if (status != 0) {
        why = fmt::format("curl ended with status {}{}", status, meaning(status));
        if (status == 33 || status == 22) fs::remove(part);  // the server cannot resume, or its answer was an error
        continue;
      }
    }
    if (complete()) {
      fs::rename(part, path);  // the same folder: other programs see all of it or nothing
      return Fetched::kDownloaded;
    }
    why = fmt::format("the file from {} has another md5 sum", address);
    fs::remove(part);
  }
  fail_input("{}: not downloaded ({}); put the file with md5 {} there by hand, from {}", path.string(), why,
             file.md5, file.addresses.empty() ? "its publisher" : file.addresses.front());
}

}  // namespace glia
