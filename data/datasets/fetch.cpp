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

constexpr int kNoProgram = 127;

struct Download {
  int status;
  bool by_curl;
};

// Appends to what `part` holds already.
Download download(const FetchPrograms& programs, const std::string& address, const std::string& part) {
  const int status = run_program({programs.curl, "--fail", "--location", "--silent", "--retry", "3",
                                  "--connect-timeout", "10", "--continue-at", "-", "--output", part, address});
  if (status != kNoProgram) return {status, true};
  return {run_program({programs.wget, "--quiet", "--tries=3", "--connect-timeout=10", "--continue",
                       "--output-document", part, address}),
          false};
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

std::vector<RemoteFile> bert_small_files(const std::string& address) {
  std::vector<RemoteFile> files{{"config.json", "", {address + "config.json"}},
                                {"vocab.txt", "", {address + "vocab.txt"}},
                                {"pytorch_model.bin", "", {address + "pytorch_model.bin"}}};
  if (address == kBertSmall) files[1].md5 = ag_news_files()[2].md5;
  return files;
}

Fetched fetch(const RemoteFile& file, const std::string& dir, const FetchPrograms& programs) {
  namespace fs = std::filesystem;
  const fs::path path = fs::path(dir) / file.name, part = path.string() + ".part";
  const bool had_folder = fs::exists(dir);
  make_folder(dir);
  const auto whole = [&](const fs::path& at) {
    return fs::is_regular_file(at) && (file.md5.empty() ? fs::file_size(at) > 0 : md5(read_file(at)) == file.md5);
  };
  if (whole(path)) return Fetched::kWasThere;
  // Without a sum only the program's word says that all is there: a part from before is none.
  const auto complete = [&] { return !file.md5.empty() && whole(part); };
  std::string why = "no address";
  for (const std::string& address : file.addresses) {
    if (!complete()) {
      const Download got = download(programs, address, part.string());
      if (got.status == kNoProgram) {
        why = fmt::format("neither {} nor {} is here: no such program; type: sudo apt-get install curl",
                          programs.curl, programs.wget);
        break;
      }
      if (got.status != 0) {
        why = fmt::format("{} ended with status {}{}", got.by_curl ? "curl" : "wget", got.status,
                          got.by_curl ? meaning(got.status) : "");
        // The server cannot resume, or its answer was an error.
        if (got.by_curl ? got.status == 33 || got.status == 22 : got.status == 8) fs::remove(part);
        continue;
      }
    }
    if (whole(part)) {
      fs::rename(part, path);  // the same folder: other programs see all of it or nothing
      return Fetched::kDownloaded;
    }
    why = fmt::format("the file from {} {}", address, file.md5.empty() ? "is empty" : "has another md5 sum");
    fs::remove(part);
  }
  std::error_code ignored;  // tidying up hides no error
  if (fs::exists(part, ignored) && fs::file_size(part, ignored) == 0) fs::remove(part, ignored);
  if (!had_folder && fs::is_empty(dir, ignored)) fs::remove(dir, ignored);
  fail_input("{}: not downloaded ({}); put the file{} there by hand, from {}", path.string(), why,
             file.md5.empty() ? "" : " with md5 " + file.md5,
             file.addresses.empty() ? "its publisher" : file.addresses.front());
}

}  // namespace glia
