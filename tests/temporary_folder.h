// A folder of the test's own, in memory where that is possible (what is written atomically waits for a disk), removed at the
// end of the scope.
#pragma once
#include <unistd.h>

#include <filesystem>
#include <string>
#include <string_view>

#include "engine/core/file.h"
#include "tests/test.h"

namespace glia::test {

struct TemporaryFolder {
  std::string path;

  explicit TemporaryFolder(const std::string& name)
      : path(::access("/dev/shm", W_OK) == 0 ? fmt::format("/dev/shm/glia-{}-{}", name, ::getpid())
                                             : temporary_path(name).string()) {
    std::filesystem::remove_all(path);
    std::filesystem::create_directories(path);
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  std::string operator/(const std::string& file) const { return path + "/" + file; }
  // The file's path.
  std::string write(const std::string& file, std::string_view content) const {
    write_file_atomic(*this / file, content);
    return *this / file;
  }
};

}  // namespace glia::test
