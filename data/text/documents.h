// Text for pretraining: files with a document a line, plain or compressed.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace glia {

// An error for what is no UTF-8 text: another kind of file, a NUL byte or a byte that begins no character, with its line
// and column.
void require_text(std::string_view text, const std::string& name);

// The whole text of a file: xz or gzip by its first bytes, whatever its name, else as it is. Several compressed streams
// one behind the other are one text. Errors name the path: missing, cut short, damaged.
std::string read_text(const std::filesystem::path& path);

// The lines that hold something, without white space at both ends; a byte order mark is skipped. They point into `text`.
std::vector<std::string_view> documents_of(std::string_view text);

// The whole text, white space and all, in blocks of about `size` bytes that end with a line: for models over characters. They
// point into `text`.
std::vector<std::string_view> blocks_of(std::string_view text, size_t size);

// The files that a list of paths, separated by commas, names; of a folder its *.txt, *.txt.xz and *.txt.gz in the order of their
// names; what else lies in the folder, hidden files apart, is a line of `notes`. Errors: a path that is not there, a folder without
// such a file.
std::vector<std::filesystem::path> text_files(const std::string& list, std::vector<std::string>* notes = nullptr);

}  // namespace glia
