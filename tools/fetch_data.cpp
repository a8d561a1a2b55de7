// Downloads AG News and BERT's vocabulary to data/ag_news/, BERT-small's weights to data/bert_small/, or a text with a published split to
// data/<layout>/; does nothing for files that are there and whole.
#include "data/datasets/fetch.h"
#include "data/datasets/layouts.h"
#include "engine/core/check.h"
#include "engine/core/command_line/program.h"
#include "nn/weights/pretrained.h"
#include "nn/weights/weights.h"
#include "tools/tool.h"

using namespace glia;

namespace {

int fetch_all(const std::vector<RemoteFile>& files, const std::string& dir) {
  int failed = 0;
  for (const RemoteFile& file : files) {
    try {
      const bool was_there = fetch(file, dir) == Fetched::kWasThere;
      fmt::print("{}/{}: {}{}\n", dir, file.name, was_there ? "was there" : "downloaded",
                 file.md5.empty() ? "" : ", md5 " + file.md5);
    } catch (const Error& error) {  // the other files may be had all the same
      fmt::print(stderr, "fetch_data: {}\n", error.what());
      failed = 1;
    }
  }
  return failed;
}

int fetch_weights(const std::string& address, const std::string& dir) {
  if (const int failed = fetch_all(bert_small_files(address), dir)) return failed;
  // No sum of them is published here: reading them is the check.
  const Weights weights(find_pretrained(dir).weights);
  weights.check_finite();
  fmt::print("{}: {} tensors of {} layers; start from them with --init {}\n", dir, weights.tensors().size(),
             weights.layers(), dir);
  return 0;
}

int fetch_layout(const std::string& layout, const std::string& dir) {
  const LayoutRow& row = find_layout(layout);
  const std::string to = dir.empty() ? std::string("data/") + row.name : dir;
  if (const int failed = fetch_all(row.published(), to)) return failed;
  fmt::print("{}: {} --task causal_lm --layout {} --corpus {}\n", to, program("experiments/pretrain"), row.name,
             to);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::string layout, dir, address = kBertSmall;
  bool weights = false;
  CLI::App app{
      "Downloads AG News (official files) and vocab.txt, checks their md5 sums, resumes what was cut off; or the "
      "published weights of BERT-small."};
  CLI::Option* of_weights = app.add_flag("--weights", weights, "the weights instead");
  app.add_option("--from", address, "with --weights: the folder's address, for a mirror")
      ->capture_default_str()
      ->needs(of_weights);
  app.add_option("--layout", layout, "a text for language models instead: ptb or tinyshakespeare")
      ->excludes(of_weights);
  app.add_option("--dir", dir, "where to (default: data/ag_news, with --weights data/bert_small)");
  return run_tool("fetch_data", app, argc, argv, [&] {
    if (!layout.empty()) return fetch_layout(layout, dir);
    if (weights)
      return fetch_weights(address.ends_with('/') ? address : address + "/", dir.empty() ? "data/bert_small" : dir);
    return fetch_all(ag_news_files(), dir.empty() ? "data/ag_news" : dir);
  });
}
