// Downloads AG News and BERT's vocabulary to data/ag_news/; does nothing for files that are there and whole.
#include "data/datasets/fetch.h"
#include "engine/core/check.h"
#include "tools/tool.h"

using namespace glia;

namespace {

int run(const std::string& dir) {
  int failed = 0;
  for (const RemoteFile& file : ag_news_files()) {
    try {
      const bool was_there = fetch(file, dir) == Fetched::kWasThere;
      fmt::print("{}/{}: {}, md5 {}\n", dir, file.name, was_there ? "was there" : "downloaded", file.md5);
    } catch (const Error& error) {  // the other files may be had all the same
      fmt::print(stderr, "fetch_data: {}\n", error.what());
      failed = 1;
    }
  }
  return failed;
}

}  // namespace

int main(int argc, char** argv) {
  std::string dir = "data/ag_news";
  CLI::App app{
      "Downloads AG News (official files) and vocab.txt, checks their md5 sums, resumes what was cut off."};
  app.add_option("--dir", dir, "where to")->capture_default_str();
  return run_tool("fetch_data", app, argc, argv, [&] { return run(dir); });
}
