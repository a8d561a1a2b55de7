#include "engine/core/file.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstring>

#include "engine/core/check.h"

namespace glia {
namespace {

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

std::string reason() { return std::strerror(errno); }

void write_all(int fd, std::string_view content, const std::filesystem::path& path) {
  while (!content.empty()) {
    const ssize_t n = ::write(fd, content.data(), content.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_input("{}: cannot write: {}", path.string(), reason());
    content.remove_prefix(static_cast<size_t>(n));
  }
}

// What programs that were killed while they wrote this file have left beside it: "name.PID.tmp".
void remove_left_behind(const std::filesystem::path& path) {
  const std::string start = path.filename().string() + ".", end = ".tmp";
  std::error_code ignored;
  for (const auto& entry :
       std::filesystem::directory_iterator(path.has_parent_path() ? path.parent_path() : ".", ignored)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(start) || !name.ends_with(end) || name.size() <= start.size() + end.size()) continue;
    const std::string digits = name.substr(start.size(), name.size() - start.size() - end.size());
    if (digits.size() > 9 || digits.find_first_not_of("0123456789") != std::string::npos) continue;
    if (::kill(std::stoi(digits), 0) != 0 && errno == ESRCH) ::unlink(entry.path().c_str());
  }
}

// What it is where it is no file, else nothing. /dev/null has an end, and the shell's own pipes lie on no disk.
const char* no_file(int fd) {
  struct stat info {};
  struct statfs place {};
  if (::fstat(fd, &info) != 0 || S_ISREG(info.st_mode)) return nullptr;
  if (S_ISDIR(info.st_mode)) return "a directory";
  if (S_ISFIFO(info.st_mode))
    return ::fstatfs(fd, &place) == 0 && place.f_type == PIPEFS_MAGIC ? nullptr : "a named pipe";
  if (S_ISCHR(info.st_mode) && (info.st_rdev == makedev(1, 3) || ::isatty(fd))) return nullptr;
  return "a device";
}

}  // namespace

int open_to_read(const std::filesystem::path& path) {
  if (path == "/dev/stdin") {  // whoever started the program chose what that is
    const int standard = ::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0);
    if (standard < 0) fail_input("{}: cannot open: {}", path.string(), reason());
    return standard;
  }
  // Not waiting: a pipe into which nobody writes would never open.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    struct stat info {};
    const bool socket = errno == ENXIO && ::stat(path.c_str(), &info) == 0 && S_ISSOCK(info.st_mode);
    fail_input("{}: {}", path.string(), socket ? "expected a file, found a socket" : "cannot open: " + reason());
  }
  if (const char* found = no_file(fd)) {
    ::close(fd);
    fail_input("{}: expected a file, found {}", path.string(), found);
  }
  ::fcntl(fd, F_SETFL, 0);  // from here on what a pipe does not hold yet is waited for
  return fd;
}

std::string read_file(const std::filesystem::path& path) {
  Descriptor file(open_to_read(path));
  struct stat info {};
  if (::fstat(file.get(), &info) != 0) fail_input("{}: cannot read: {}", path.string(), reason());
  std::string content(static_cast<size_t>(std::max<off_t>(info.st_size, 0)), '\0');
  size_t size = 0;
  for (;;) {  // a pipe has no size; a file may have grown
    if (size == content.size()) content.resize(std::max<size_t>(2 * size, 4096));
    const ssize_t n = ::read(file.get(), content.data() + size, content.size() - size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_input("{}: cannot read: {}", path.string(), reason());
    if (n == 0) break;
    size += static_cast<size_t>(n);
  }
  content.resize(size);
  return content;
}

void make_folder(const std::filesystem::path& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) fail_input("{}: cannot make this folder: {}", path.string(), error.message());
}

void write_file_atomic(const std::filesystem::path& given, std::string_view content) {
  std::error_code none;
  // A link is kept, and what it points to is written; what is no file (/dev/stdout, /dev/null) is written as it is: another
  // file in its place would take it from everybody.
  const bool link = std::filesystem::is_symlink(given, none), there = std::filesystem::exists(given, none);
  const bool stream = given.string().starts_with("/dev/std") || given.string().starts_with("/dev/fd/");
  if (there && (stream || !std::filesystem::is_regular_file(given, none))) {
    if (std::filesystem::is_directory(given, none))
      fail_input("{}: expected a file to write, found a directory", given.string());
    // Not waiting: nobody may ever read a pipe. Appending: what standard output has already said stays.
    Descriptor special(::open(given.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC | O_NONBLOCK));
    if (special.get() < 0) fail_input("{}: cannot open: {}", given.string(), reason());
    ::fcntl(special.get(), F_SETFL, 0);
    write_all(special.get(), content, given);
    return;
  }
  const std::filesystem::path path = link && there ? std::filesystem::canonical(given) : given;
  if (path.has_parent_path()) make_folder(path.parent_path());
  remove_left_behind(path);
  // The process id keeps two programs that write the same file from sharing a temporary one.
  const std::filesystem::path temporary = path.string() + "." + std::to_string(::getpid()) + ".tmp";
  try {
    Descriptor file(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    if (file.get() < 0) fail_input("{}: cannot create: {}", temporary.string(), reason());
    write_all(file.get(), content, temporary);
    if (::fsync(file.get()) != 0) fail_input("{}: cannot flush: {}", temporary.string(), reason());
    if (::rename(temporary.c_str(), path.c_str()) != 0)
      fail_input("{}: cannot rename to {}: {}", temporary.string(), path.string(), reason());
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
}

uint64_t hash_bytes(std::string_view bytes, uint64_t seed) {
  constexpr uint64_t kMix = 0x9E3779B97F4A7C15ull;
  uint64_t h = seed ^ (bytes.size() * kMix);
  const auto absorb = [&h](uint64_t word) {
    h = std::rotl((h ^ word) * kMix, 29);
    h ^= h >> 32;
  };
  while (bytes.size() >= 8) {
    uint64_t word;
    std::memcpy(&word, bytes.data(), 8);
    absorb(word);
    bytes.remove_prefix(8);
  }
  uint64_t word = 0;
  if (!bytes.empty()) std::memcpy(&word, bytes.data(), bytes.size());  // an empty view may point nowhere
  absorb(word);
  absorb(kMix);
  return h;
}

}  // namespace glia
