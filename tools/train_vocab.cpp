// Learns a WordPiece vocabulary:  ./tools/train_vocab --out vocab.txt --vocab-size 30000 text.txt more.txt
// Without files it takes the train texts of the data set that the flags choose.
#include <chrono>

#include "data/datasets/dataset_cli.h"
#include "data/text/documents.h"
#include "data/tokens/vocab_trainer.h"
#include "engine/core/check.h"
#include "engine/core/command_line/terminal.h"
#include "tools/tool.h"

using namespace glia;

namespace {

int run(const std::vector<std::string>& files, const std::string& out, DatasetOptions data,
        const std::set<std::string>& given, VocabTrainerOptions options) {
  const auto start = std::chrono::steady_clock::now();
  VocabTrainer trainer(data.lowercase != "off");
  options.size = data.vocab_size;
  if (files.empty()) {
    settle_data_options(data, given);
    BadRows bad(data.skip_bad_rows);
    const DatasetRow& row = find_dataset(dataset_name(data));
    const TextDataset texts = row.load(data, bad);
    for (const std::string& text : texts.train.texts) trainer.add(text);
    fmt::print("{}: {}\n{}", row.name, texts.source, bad.summary());
    for (const std::string& note : texts.notes) fmt::print("{}\n", note);
  } else {
    for (const std::string& flag : given)
      if (flag != "vocab-size" && flag != "lowercase")
        fail_input("--{}: not read beside text files, which are all that is learnt from", flag);
  }
  for (const std::string& file : files) {
    const std::string text = read_text(file);
    require_text(text, file);  // else the bytes of an archive would be words
    trainer.add(text);
  }
  fmt::print("{} words, {} distinct\n", trainer.words(), trainer.distinct_words());
  options.progress = [](int64_t done, int64_t of) {
    if (done % 100 == 0 || done == of)
      status_line(stderr, done == of ? "" : fmt::format("{} of {} tokens", done, of));
  };
  const Vocabulary vocabulary = Vocabulary::from_tokens(trainer.train(options), out);
  vocabulary.save(out);
  fmt::print("{}: {} tokens in {:.1f} s\n", out, vocabulary.size(),
             std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> files;
  std::string out = "vocab.txt";
  DatasetOptions data;
  std::set<std::string> given;
  VocabTrainerOptions options;
  CLI::App app{"Learns a WordPiece vocabulary from text files, or from a data set's train texts."};
  app.add_option("files", files, "text files, .xz and .gz too");
  app.add_option("--out", out, "the vocabulary")->capture_default_str();
  app.add_option("--min-count", options.min_count, "of a pair or a character that becomes a token")
      ->check(CLI::Range(1, 1 << 30))
      ->capture_default_str();
  add_dataset_flags(app, data, given, DataFlags::kTexts);
  return run_tool("train_vocab", app, argc, argv, [&] { return run(files, out, data, given, options); });
}
