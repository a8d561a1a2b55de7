#include "engine/core/command_line/program.h"

#include <filesystem>

namespace glia {
namespace {

std::string_view base_name(std::string_view path) { return path.substr(path.rfind('/') + 1); }

}  // namespace

std::string program(std::string_view path, std::string_view running) {
  if (base_name(running).starts_with("glia-")) return "glia-" + std::string(base_name(path));
  return "./" + std::string(path);
}

std::string program(std::string_view path) {
  std::error_code none;  // without /proc it counts as a checkout's
  return program(path, std::filesystem::read_symlink("/proc/self/exe", none).string());
}

}  // namespace glia
