// Downloads AG News and BERT's vocabulary to data/ag_news/; does nothing for files that are there and whole.
#include <CLI/CLI.hpp>

#include "data/fetch.h"
#include "engine/core/check.h"

int main(int argc, char** argv) {
  std::string dir = "data/ag_news";
  CLI::App app{
      "Downloads AG News (official files) and vocab.txt, checks their md5 sums, resumes what was cut off."};
  app.add_option("--dir", dir, "where to")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  int failed = 0;
  for (const glia::RemoteFile& file : glia::ag_news_files()) {
    try {
      const bool was_there = glia::fetch(file, dir) == glia::Fetched::kWasThere;
      fmt::print("{}/{}: {}, md5 {}\n", dir, file.name, was_there ? "was there" : "downloaded", file.md5);
    } catch (const std::exception& e) {
      fmt::print(stderr, "fetch_data: {}\n", e.what());
      failed = 1;
    }
  }
  return failed;
}
