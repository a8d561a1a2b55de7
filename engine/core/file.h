// Files: whole reads with clear errors, writes that are seen complete or not at all, and content hashes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace glia {

// The whole file. Errors name the path and the reason (missing, unreadable, no file).
std::string read_file(const std::filesystem::path& path);

// The file opened for reading, as a descriptor that the caller closes. What has no end or may never begin (a device, a
// named pipe, a socket) is an error, and so is a directory; the shell's own pipes, <(…), can be read once.
int open_to_read(const std::filesystem::path& path);

// The folder and those above it, where they are not there yet. An error names the path and the reason.
void make_folder(const std::filesystem::path& path);

// Writes a temporary file beside `path`, flushes it to the disk and renames it; creates the folders on the way.
// An error (disk full) removes the temporary file and throws. A link stays one; a device or a pipe is written directly.
void write_file_atomic(const std::filesystem::path& path, std::string_view content);

// A 64-bit content hash (not cryptographic): 8 bytes a step, multiply and rotate.
uint64_t hash_bytes(std::string_view bytes, uint64_t seed = 0);

}  // namespace glia
