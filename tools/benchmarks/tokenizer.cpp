#include "tools/benchmarks/tokenizer.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>

#include "data/datasets/dataset_cli.h"
#include "engine/core/check.h"
#include "engine/core/file.h"
#include "tools/tool.h"

using namespace glia;

namespace {

struct Rate {
  double pieces = 0, bytes = 0;  // a second
};

// One pass over the texts with `threads` threads that take 256 texts at a time.
Rate one_pass(const std::vector<std::string_view>& texts, const WordPiece& tokenizer, int threads) {
  constexpr size_t kStep = 256;
  std::atomic<size_t> next{0}, pieces{0}, bytes{0};
  const auto work = [&] {
    std::vector<int32_t> ids;
    size_t mine = 0, read = 0;
    for (size_t first; (first = next.fetch_add(kStep)) < texts.size();)
      for (size_t i = first; i < std::min(texts.size(), first + kStep); ++i) {
        ids.clear();
        tokenizer.encode(texts[i], ids);
        mine += ids.size(), read += texts[i].size();
      }
    pieces += mine, bytes += read;
  };
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::thread> others;
  for (int t = 1; t < threads; ++t) others.emplace_back(work);
  work();
  for (std::thread& other : others) other.join();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  return {static_cast<double>(pieces) / seconds.count(), static_cast<double>(bytes) / seconds.count()};
}

void report(const std::vector<std::string_view>& texts, const WordPiece& tokenizer, int threads, int repeats) {
  one_pass(texts, tokenizer, threads);  // warm-up
  std::vector<Rate> rates;
  for (int i = 0; i < repeats; ++i) rates.push_back(one_pass(texts, tokenizer, threads));
  std::sort(rates.begin(), rates.end(), [](const Rate& a, const Rate& b) { return a.pieces < b.pieces; });
  const Rate& median = rates[rates.size() / 2];
  fmt::print("{:>3} thread{}  {:8.2f} M pieces/s (min {:.2f}, max {:.2f})  {:8.1f} MB/s\n", threads,
             threads == 1 ? " " : "s", median.pieces / 1e6, rates.front().pieces / 1e6, rates.back().pieces / 1e6,
             median.bytes / 1e6);
}

}  // namespace

int bench_tokenizer(int argc, char** argv) {
  DatasetOptions data;
  std::set<std::string> given;
  std::string file;
  int repeats = 9, threads = static_cast<int>(std::thread::hardware_concurrency());
  CLI::App app{"Times the tokenizer."};
  app.add_option("--file", file, "a text file, line by line, instead of a data set");
  app.add_option("--repeats", repeats, "passes; the median counts")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000));
  app.add_option("--threads", threads, "at most")->capture_default_str()->check(CLI::Range(1, 1024));
  add_dataset_flags(app, data, given, DataFlags::kTokens);
  return run_tool("bench tokenizer", app, argc, argv, [&] {
    TextDataset set;
    std::string content;
    std::vector<std::string_view> texts;
    if (!file.empty()) {
      content = read_file(file);
      for (size_t begin = 0; begin < content.size();) {
        const size_t end = std::min(content.find('\n', begin), content.size());
        texts.push_back(std::string_view(content).substr(begin, end - begin));
        begin = end + 1;
      }
      if (texts.empty()) fail_input("{}: expected text, found an empty file", file);
      if (find_vocabulary(data).empty()) fail_input("a file needs --vocab FILE");
      set.source = file;
    } else {
      settle_data_options(data, given);
      BadRows bad(data.skip_bad_rows);
      set = find_dataset(dataset_name(data)).load(data, bad);
      texts.assign(set.train.texts.begin(), set.train.texts.end());
    }
    std::vector<std::string> notes = set.notes;
    const WordPiece tokenizer = tokenizer_for(data, set, notes);
    for (const std::string& note : notes) fmt::print("{}\n", note);
    fmt::print("tokenizer: {} texts of {}, {} tokens in the vocabulary\n", texts.size(), set.source,
               tokenizer.vocabulary().size());
    for (int t = 1;; t = std::min(2 * t, threads)) {
      report(texts, tokenizer, t, repeats);
      if (t == threads) break;
    }
    return 0;
  });
}
