// Language models from the command line to a text: pretrained or trained, saved, read again, and going on with a prompt.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "experiments/language/generate.h"
#include "experiments/pretraining/run.h"
#include "experiments/tasks/next_words.h"
#include "tests/command.h"
#include "tests/nn/helpers.h"
#include "tests/temporary_folder.h"
#include "tests/training/flag_words.h"

namespace glia::test {
namespace {

namespace fs = std::filesystem;
using results::Json;

PretrainOptions options(const TemporaryFolder& folder, const std::vector<std::string>& more) {
  std::vector<std::string> words = words_of(
      std::string(kTinyFlags) +
      "--task causal_lm --layers 2 --progress off --tokens 256 --max-length 32 --steps 60 --lr 0.01 --log-every "
      "20 --eval-every 20 --threads 1");
  for (const std::string& word : {std::string("--out"), folder / "lm"}) words.push_back(word);
  // A layout says what is held out, and is all the text; a vocabulary of its words, or of bytes, has its size.
  const auto typed = [&](const char* name) { return std::ranges::count(more, name) > 0; };
  if (typed("--layout")) words.erase(std::ranges::find(words, "--dataset"), std::ranges::find(words, "--cache"));
  else
    for (const char* word : {"--held-out", "0.1", "--synthetic-rows", "300", "--synthetic-test-rows", "30"})
      words.push_back(word);
  if (!typed("--layout") && !typed("--vocab"))
    for (const char* word : {"--vocab-size", "300"}) words.push_back(word);
  words.insert(words.end(), more.begin(), more.end());
  std::vector<const char*> argv{"pretrain"};
  for (const std::string& word : words) argv.push_back(word.c_str());
  return parse_pretrain(static_cast<int>(argv.size()), argv.data()).options;
}

int pretrain(const PretrainOptions& o) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> nowhere(std::fopen("/dev/null", "w"), std::fclose);
  return run_pretraining(o, "test", nowhere.get());
}

// Values of the last line of the log that has one of the held-out text.
results::NamedValues last_evaluation(const std::string& folder) {
  const results::Metrics metrics = results::read_metrics(folder, 1000);
  REQUIRE(!metrics.evals.empty());
  return metrics.evals.back().values;
}

TEST_CASE("language: pretrained with a context, it learns, is saved and read again, and goes on with a prompt") {
  const TemporaryFolder folder("language");
  const std::string router = router_with_option("context");
  const PretrainOptions o = options(folder, {"--config", "softmax-moe", "--router", router, "--experts", "4",
                                             "--prompt", "sentence", "--context", "prompt-mean"});
  REQUIRE(pretrain(o) == 0);
  const std::string out = folder / "lm";
  const results::NamedValues values = last_evaluation(out);
  EXPECT(values.get("loss") < 0.9 * std::log(300.0));
  EXPECT(values.get("perplexity") == doctest::Approx(std::exp(values.get("loss"))));
  EXPECT(values.get("word_loss") > values.get("loss"));
  EXPECT(values.contains("loss.at-1"));
  EXPECT(values.contains("loss.topic-0"));

  Context context(test_device());
  const LanguageModel model = load_language_model(context, out, DType::kFloat32, "");
  EXPECT(model.reads_borders());
  EXPECT(model.max_length == 32);
  const Generated likeliest = generate(model, "the minister", 20, {0}, true, true);
  EXPECT(likeliest.prompt.size() > 2);
  EXPECT(!likeliest.words.empty());
  EXPECT(likeliest.prompt.size() + likeliest.words.size() <= 32);
  EXPECT(likeliest.routing.size() == likeliest.words.size());
  for (const auto& layers : likeliest.routing) {
    REQUIRE(layers.size() == 2);
    for (const Generated::Choice& choice : layers) EXPECT(choice.experts.size() == 2);
  }
  const Sampling some{0.9, 0.95, 40, 7};
  EXPECT(generate(model, "the minister", 20, {0}, false).words == likeliest.words);
  EXPECT(generate(model, "the minister", 20, some).words == generate(model, "the minister", 20, some, false).words);
  EXPECT(generate(model, "the", 0, some).words.empty());
  // A prompt that is too long keeps its end.
  std::string many;
  for (int i = 0; i < 60; ++i) many += "the minister ";
  EXPECT(generate(model, many, 20, some).prompt.size() == 31);
  EXPECT(generate(model, many, 20, some).words.size() == 1);
  EXPECT(model.text_of(likeliest.prompt) == "the minister");
  // What of a prompt the model cannot read is told beside JSON too.
  if (fs::exists("tools/generate"))
    for (const char* form : {"", " --json"}) {
      const std::string said =
          run_command("./tools/generate " + out + " '" + many + "漢' --tokens 1 2>&1 >/dev/null" + form).out;
      INFO(said);
      EXPECT(contains(said, "of the prompt's"));
      EXPECT(contains(said, "were left out"));
      EXPECT(contains(said, "[UNK]"));
    }
}

TEST_CASE("language: a dump has the batches that a trainer begins with, and another seed's are others") {
  const TemporaryFolder folder("language-dump");
  const auto first = [&](const char* seed) {
    REQUIRE(pretrain(options(folder, {"--config", "dense", "--steps", "1", "--fresh", "on", "--seed", seed,
                                      "--dump", folder / "dump"})) == 0);
    const std::string bytes = read_file(folder / "dump/first.i32");
    std::vector<int32_t> words(bytes.size() / sizeof(int32_t));
    std::memcpy(words.data(), bytes.data(), bytes.size());
    return words;
  };
  const std::vector<int32_t> words = first("1");
  const Json facts = Json::parse(read_file(folder / "dump/dump.json"));
  EXPECT(facts.at("first_batches") == 20);
  size_t at = 0;
  for (int batch = 0; batch < 20; ++batch) {
    REQUIRE(at + 3 < words.size());
    const auto tokens = static_cast<size_t>(words[at]), sequences = static_cast<size_t>(words[at + 1]),
               told = static_cast<size_t>(words[at + 2]);
    const size_t ids = at + 3, rows = ids + tokens + sequences + 1, targets = rows + told;
    at = targets + told;
    REQUIRE(at <= words.size());
    EXPECT(told > tokens / 2);
    bool next = true;
    for (size_t i = 0; i < told; ++i)
      next = next && words[targets + i] == words[ids + static_cast<size_t>(words[rows + i]) + 1];
    EXPECT(next);
  }
  EXPECT(at == words.size());
  EXPECT(words == first("1"));
  EXPECT(words != first("2"));
}

TEST_CASE(
    "language: of bytes and of a layout's words too a prompt is a sentence, is not told, and a loss a word is one") {
  const TemporaryFolder folder("language-bytes");
  std::string text;
  for (int i = 0; i < 1200; ++i) text += "It is cold. The river is frozen\n";
  folder.write("text.txt", text);
  folder.write("ptb/ptb.train.txt", text);
  folder.write("ptb/ptb.valid.txt", text);
  const std::string router = router_with_option("context");
  const auto told = [&](const std::vector<std::string>& more) {
    std::vector<std::string> words = {"--config",         "softmax-moe",
                                      "--router",         router,
                                      "--experts",        "4",
                                      "--steps",          "2",
                                      "--context",        "first",
                                      "--training-texts", "off",
                                      "--dump",           folder / "dump",
                                      "--fresh",          "on"};
    words.insert(words.end(), more.begin(), more.end());
    REQUIRE(pretrain(options(folder, words)) == 0);
    const std::string batches = read_file(folder / "dump/batches.i32");
    int32_t sizes[3];
    std::memcpy(sizes, batches.data(), sizeof sizes);
    return static_cast<double>(sizes[2]) / sizes[0];
  };
  const std::string corpus = folder / "text.txt", ptb = folder / "ptb";
  const double all = told({"--corpus", corpus, "--vocab", "bytes"});
  const results::NamedValues values = last_evaluation(folder / "lm");
  // Seven words, a mark among them, of 31 or 32 bytes with the line's end.
  EXPECT(values.get("word_loss") / values.get("loss") == doctest::Approx(32.0 / 8).epsilon(0.05));
  const double behind = told({"--corpus", corpus, "--vocab", "bytes", "--prompt", "sentence"});
  EXPECT(all > 0.9);
  EXPECT(behind < 0.75 * all);
  EXPECT(told({"--corpus", ptb, "--layout", "ptb", "--prompt", "sentence", "--context", "prompt-mean"}) < 0.9);
}

TEST_CASE(
    "language: rotary positions are saved and read again, and are those of the weights that one starts from") {
  const TemporaryFolder folder("language-rotary");
  REQUIRE(pretrain(options(folder, {"--config", "dense", "--position-encoding", "rotary"})) == 0);
  const std::string out = folder / "lm";
  EXPECT(last_evaluation(out).get("loss") < 0.9 * std::log(300.0));
  Context context(test_device());
  const LanguageModel model = load_language_model(context, out, DType::kFloat32, "");
  const Sampling some{0.9, 0.95, 40, 7};
  EXPECT(generate(model, "the minister", 20, some).words == generate(model, "the minister", 20, some, false).words);
  // One goes on from its folder, with the same task alone.
  EXPECT(options(folder, {"--init", out}).position_encoding == "rotary");
  EXPECT(contains(error_of([&] {
                    options(folder, {"--init", out, "--task", "masked_lm"});
                  }),
                  "a model that reads from left to right: expected causal_lm"));
  // A run's folder has the same under "model".
  const TemporaryFolder run("language-rotary-run");
  const Json kept = Json::parse(read_file(out + "/config.json")).at("glia");
  run.write("config.json",
            Json{{"model", kept.at("model")}, {"train", kept.at("train")}, {"router", "none"}}.dump());
  run.write("model.safetensors", read_file(out + "/model.safetensors"));
  run.write("vocab.txt", read_file(out + "/vocab.txt"));
  EXPECT(options(folder, {"--init", run.path}).position_encoding == "rotary");
  EXPECT(contains(error_of([&] {
                    options(folder, {"--init", run.path, "--task", "masked_lm"});
                  }),
                  "a model that reads from left to right: expected causal_lm"));
  EXPECT(contains(error_of([&] {
                    options(folder, {"--init", run.path, "--position-encoding", "learned"});
                  }),
                  "--position-encoding learned: contradicts"));
  EXPECT(contains(error_of([&] {
                    options(folder, {"--position-encoding", "rotary", "--task", "masked_lm"});
                  }),
                  "expected learned with this --task"));
  EXPECT(contains(error_of([&] {
                    options(folder, {"--position-encoding", "rotary", "--heads", "64", "--hidden", "64"});
                  }),
                  "--hidden / --heads is odd"));
}

TEST_CASE(
    "language: a word is drawn by the temperature, out of the likeliest that are asked for, and the same for a seed") {
  const std::vector<float> logits = {1, 3, 2, 3, -1};
  EXPECT(sample(logits, {0}, 5) == 1);
  const auto shares = [&](const Sampling& sampling) {
    std::vector<double> share(logits.size());
    for (uint64_t n = 0; n < 20000; ++n) share[size_t(sample(logits, sampling, n))] += 1.0 / 20000;
    return share;
  };
  double all = 0;
  for (const float l : logits) all += std::exp(l / 2.0);
  const std::vector<double> warm = shares({2});
  for (size_t i = 0; i < logits.size(); ++i) EXPECT(std::abs(warm[i] - std::exp(logits[i] / 2.0) / all) < 0.015);
  const std::vector<double> three = shares({1, 1, 3});
  EXPECT(three[0] + three[4] == 0);
  EXPECT(three[2] > 0.1);
  const std::vector<double> nucleus = shares({1, 0.75});  // 3 and 3 have 0.79 of all
  EXPECT(nucleus[2] == 0);
  EXPECT(std::abs(nucleus[1] - 0.5) < 0.015);
  EXPECT(sample(logits, {2, 1, 0, 1}, 3) == sample(logits, {2, 1, 0, 1}, 3));
  bool other = false;
  for (uint64_t n = 0; n < 50; ++n)
    other = other || sample(logits, {2, 1, 0, 1}, n) != sample(logits, {2, 1, 0, 2}, n);
  EXPECT(other);
}

TEST_CASE("language: what cannot be a language model is named before anything is read") {
  const TemporaryFolder folder("language-errors");
  const auto refused = [&](const std::vector<std::string>& more) {
    return error_of([&] { pretrain(options(folder, more)); });
  };
  std::string future;
  for (const RouterRow& row : router_registry())
    if (row.traits.reads_future && future.empty()) future = row.name;
  EXPECT(contains(refused({"--config", "softmax-moe", "--router", future}),
                  "router " + future + ": expected one for a model that reads from left to right"));
  EXPECT(contains(refused({"--config", "softmax-moe", "--router", router_with_option("context"), "--context",
                           "last-prompt-token"}),
                  "--prompt: expected title or sentence"));
  EXPECT(contains(refused({"--prompt", "title"}), "--prompt: expected none or sentence of running text"));
  // Beside a layout's text no other is read.
  for (const std::vector<std::string>& unread :
       {std::vector<std::string>{"--csv-train", "a.csv"}, {"--dataset", "csv"}, {"--vocab-size", "300"}}) {
    std::vector<std::string> more = {"--layout", "ptb", "--corpus", folder.path};
    more.insert(more.end(), unread.begin(), unread.end());
    EXPECT(contains(refused(more), unread[0] + ": not read with --layout ptb"));
  }
  EXPECT(contains(refused({"--task", "classification"}), "--task: expected one that predicts words"));
  Context context(test_device());
  EXPECT(contains(error_of([&] { load_language_model(context, folder / "nothing", DType::kFloat32, ""); }),
                  "found no config.json"));
}

TEST_CASE("language: words among tokens, and distances behind a prompt") {
  const Vocabulary words = Vocabulary::from_tokens({"[UNK]", "[CLS]", "[SEP]", "a", "##b", "."}, "test");
  const std::vector<int32_t> targets = {3, 4, 4, 5, 2, -1, 0, 3};
  EXPECT(WordBeginnings(words).among(targets, targets) == 4);  // a, ., [UNK], a
  // Bytes: the words are those that WordPiece would cut.
  const Vocabulary bytes = Vocabulary::of_bytes();
  const WordBeginnings begins(bytes);
  std::vector<int32_t> told, before = {-1};
  WordPiece(bytes, false).encode("It's  42 caf\xC3\xA9s,\n\tno?\x01", told);
  before.insert(before.end(), told.begin(), told.end() - 1);
  EXPECT(begins.among(before, told) == 8);  // It ' s 42 cafés , no ?
  before[0] = told[0];                      // a piece that begins within a word
  EXPECT(begins.among(before, told) == 7);
  before[0] = bytes.cls();
  EXPECT(begins.among(before, told) == 8);
  EXPECT(!begins(told[0], bytes.sep()));
  const std::vector<int32_t> rows = {1, -1};
  EXPECT(before_targets(targets.data(), rows) == std::vector<int32_t>{4, -1});
  results::NamedValues values{{"loss", 2.0}};
  set_word_losses(values, 6, 4);
  EXPECT(values.get("word_loss") == 3);
  EXPECT(values.get("word_perplexity") == doctest::Approx(std::exp(3.0)));
  int64_t next = 1;
  for (const DistanceClass& d : kDistances) {
    EXPECT(d.first == next);
    next = d.last + 1;
  }
  EXPECT(name_of(kDistances[0]) == "1");
  EXPECT(name_of(kDistances[1]) == "2-4");
  EXPECT(name_of(kDistances.back()) == "33-");
}

TEST_CASE(
    "language: losses stand at their distance behind the prompt, or behind [CLS], and with their text's topic") {
  Context context(test_device());
  BertConfig config;
  config.classes = 3;
  // Two texts of 7 and 9 tokens; the first has a prompt of three. Every token behind it, or behind [CLS], is told; the last
  // place is nobody's.
  Batch batch;
  batch.sequences = make_sequences(context, {7, 9});
  batch.read = from_vector<int32_t>(context, {2, 3, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, -1}, {13});
  batch.targets = from_vector<int32_t>(context, {5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, -1}, {13});
  batch.borders = from_vector<int32_t>(context, {3, 0}, {2});
  batch.labels = from_vector<int32_t>(context, {2, 0}, {2});
  Model::Output out;
  out.row_losses = from_vector<float>(context, {1, 2, 3, 4, 10, 20, 30, 40, 50, 60, 70, 80, 1e6f}, {13});
  out.sums = from_vector<float>(context, {370, 12, 3}, {3});
  const auto meter = find_task("causal_lm").meter(context, config, 1);
  meter->add(out, batch);
  const results::NamedValues v = meter->read().values;
  EXPECT(v.get("loss.at-1") == (1 + 10) / 2.0);
  EXPECT(v.get("loss.at-2-4") == (2 + 3 + 4 + 20 + 30 + 40) / 6.0);
  EXPECT(v.get("loss.at-5-8") == (50 + 60 + 70 + 80) / 4.0);
  EXPECT(!v.contains("loss.at-9-16"));
  EXPECT(v.get("loss.topic-2") == 2.5);
  EXPECT(v.get("loss.topic-0") == 45);
  EXPECT(!v.contains("loss.topic-1"));
}

}  // namespace
}  // namespace glia::test
