// Downloads with curl: resumed, checked, and seen complete or not at all.
#pragma once

#include <string>
#include <vector>

namespace glia {

struct RemoteFile {
  std::string name;                    // in the folder
  std::string md5;                     // 32 hex digits
  std::vector<std::string> addresses;  // tried in order
};

// The official AG News files and the vocabulary of the uncased BERT models.
const std::vector<RemoteFile>& ag_news_files();

// Makes dir/name hold the file: nothing to do when it is there and its sum is right; else the first address that
// gives the right bytes. What arrived so far stays in dir/name.part and is resumed. Error (one line: what to put
// where) when no address works; a wrong sum removes the part. `curl`: the program, for tests.
enum class Fetched { kWasThere, kDownloaded };
Fetched fetch(const RemoteFile& file, const std::string& dir, const std::string& curl = "curl");

}  // namespace glia
