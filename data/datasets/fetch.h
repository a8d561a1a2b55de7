// Downloads with curl or wget: resumed, checked, and seen complete or not at all.
#pragma once

#include <string>
#include <vector>

namespace glia {

struct RemoteFile {
  std::string name;                    // in the folder
  std::string md5;                     // 32 hex digits; "" where nobody published it
  std::vector<std::string> addresses;  // tried in order
};

// The official AG News files and the vocabulary of the uncased BERT models.
const std::vector<RemoteFile>& ag_news_files();

// The published weights of the paper's encoder, as --init reads them; `address` ends with a slash.
inline constexpr const char* kBertSmall = "https://huggingface.co/google/bert_uncased_L-4_H-512_A-8/resolve/main/";
std::vector<RemoteFile> bert_small_files(const std::string& address);

// Makes dir/name hold the file: nothing to do when it is there and its sum is right; else the first address that
// gives the right bytes, by curl or, where that is missing, wget. What arrived so far stays in dir/name.part and is
// resumed. Error (one line: what to put where) when no address works; then a part with a wrong sum or without a byte is
// removed, and a folder that was made for it. `programs`: for tests.
enum class Fetched { kWasThere, kDownloaded };
struct FetchPrograms {
  std::string curl = "curl", wget = "wget";
};
Fetched fetch(const RemoteFile& file, const std::string& dir, const FetchPrograms& programs = {});

}  // namespace glia
