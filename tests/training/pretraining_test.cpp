// ./experiments/pretrain: plans, the same bits, killed and resumed, and what others read of its folder.
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <thread>

#include "engine/core/file.h"
#include "experiments/pretraining/run.h"
#include "experiments/pretraining/text_feed.h"
#include "experiments/records/results.h"
#include "experiments/training/pretrained.h"
#include "experiments/training/training.h"
#include "nn/weights/pretrained.h"
#include "tests/nn/helpers.h"
#include "tests/training/flag_words.h"

namespace fs = std::filesystem;

namespace glia::test {
namespace {

const std::vector<std::string> kSmall = words_of(
    std::string(kTinyFlags) +
    "--layers 2 --progress off --synthetic-rows 300 --synthetic-test-rows 30 --vocab-size 300 --tokens 256 --max-length 32 --steps 40 --log-every 5 --eval-every 10 --checkpoint-every 10 --threads 1 --held-out 0.1");

std::vector<std::string> with(std::vector<std::string> more) {
  std::vector<std::string> words = kSmall;
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

PretrainOptions parsed(const std::vector<std::string>& words) {
  std::vector<const char*> argv{"pretrain"};
  for (const std::string& word : words) argv.push_back(word.c_str());
  return parse_pretrain(static_cast<int>(argv.size()), argv.data()).options;
}

struct Place {
  fs::path path;
  explicit Place(const std::string& name) : path(temporary_path(name)) { fs::remove_all(path); }
  ~Place() { fs::remove_all(path); }
  std::string string() const { return path.string(); }
};

// All files but what differs by nature.
std::map<std::string, std::string> files(const fs::path& folder) {
  std::map<std::string, std::string> all;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (entry.is_regular_file() && name != "timing.json") all[name] = read_file(entry.path());
  }
  return all;
}

fs::path program() {
  // build/<variant>/run_tests → the repository's root
  const fs::path root = fs::read_symlink("/proc/self/exe").parent_path().parent_path().parent_path();
  return root / "experiments" / "pretrain";
}

pid_t start(std::vector<std::string> words, const fs::path& log) {
  words.insert(words.begin(), program().string());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const pid_t pid = ::fork();
  if (pid == 0) {
    const int out = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
    if (::dup2(out, 1) < 0 || ::dup2(out, 2) < 0) ::_exit(126);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  return pid;
}

int wait_for(pid_t pid) {
  int status = 0;
  ::waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

int64_t lines(const fs::path& path) {
  if (!fs::exists(path)) return 0;
  const std::string text = read_file(path);
  return std::count(text.begin(), text.end(), '\n');
}

int status_of(const std::vector<std::string>& words) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> nowhere(std::fopen("/dev/null", "w"), std::fclose);
  return run_pretraining(parsed(words), "test", nowhere.get());
}
void run(const std::vector<std::string>& words) { REQUIRE(status_of(words) == 0); }

TEST_CASE(
    "pretraining: killed at any moment and started again, it ends with the same bytes; dense, experts, two objectives") {
  if (!fs::exists(program())) SKIP("experiments/pretrain is not built");
  for (const auto& [config, joint] : {std::pair{"dense", "0"}, {"astrocyte-hierarchical", "0"}, {"dense", "20"}}) {
    INFO(config, " ", joint);
    const Place whole("pretrain-whole"), killed("pretrain-killed"), log("pretrain-log");
    const auto words = [&, c = config, j = joint](const Place& to) {
      return with({"--config", c, "--joint", j, "--out", to.string()});
    };
    REQUIRE(wait_for(start(words(whole), log.path)) == 0);
    for (const int64_t count : {1, 4, 7, 9, 11}) {
      const pid_t pid = start(words(killed), log.path);
      int status = 0;
      while (lines(killed.path / "metrics.jsonl") < count && ::waitpid(pid, &status, WNOHANG) == 0)
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      ::kill(pid, SIGKILL);
      ::waitpid(pid, &status, 0);
    }
    REQUIRE(wait_for(start(words(killed), log.path)) == 0);
    const auto a = files(whole.path), b = files(killed.path);
    REQUIRE(a.size() == b.size());
    for (const auto& [name, content] : a) {
      INFO(name);
      REQUIRE(b.contains(name));
      EXPECT(content == b.at(name));
    }
    EXPECT(lines(whole.path / "metrics.jsonl") == 8 + 4);
  }
}

TEST_CASE("pretraining: the loss falls; --init and its own reader take the folder; it is not made twice") {
  const Place place("pretrain-folder");
  run(with({"--steps", "150", "--lr", "0.005", "--out", place.string()}));
  const std::string log = read_file(place.path / "metrics.jsonl");
  const auto loss_at = [&](size_t line) {
    size_t begin = 0;
    for (; line > 0; --line) begin = log.find('\n', begin) + 1;
    return results::Json::parse(log.substr(begin, log.find('\n', begin) - begin)).at("loss").get<double>();
  };
  EXPECT(loss_at(0) > 5.0);
  EXPECT(results::Json::parse(log.substr(log.rfind('\n', log.size() - 2) + 1)).at("loss").get<double>() <
         loss_at(0) - 0.5);

  const Pretrained weights = find_pretrained(place.string());
  EXPECT(weights.shape.layers == 2);
  EXPECT(weights.shape.hidden == 16);
  EXPECT(weights.vocabulary == (place.path / "vocab.txt").string());
  const results::Json config = results::Json::parse(read_file(place.path / "config.json"));
  EXPECT(config.at("architectures") == results::Json::array({"BertForMaskedLM"}));
  const Weights tensors(weights.weights);
  for (const char* name :
       {"cls.predictions.bias", "cls.predictions.transform.dense.weight", "bert.embeddings.word_embeddings.weight"})
    EXPECT(tensors.find(name) != nullptr);
  const results::Json record = results::Json::parse(read_file(place.path / "pretraining.json"));
  EXPECT(record.at("text").at("sources").at(0).at("validation_rows") == 16);
  EXPECT(record.at("plan").at("steps") == 150);

  const auto before = files(place.path);
  run(with({"--steps", "150", "--lr", "0.005", "--out", place.string()}));  // nothing is left to do
  EXPECT(files(place.path) == before);
  EXPECT(contains(error_of([&] {
                    status_of(with({"--steps", "150", "--lr", "0.004", "--out", place.string()}));
                  }),
                  "its lr is \"0.005\", and \"0.004\" is asked for"));
}

TEST_CASE("pretraining: --init's weights are checked before anything is written, and what became of each is kept") {
  const Place place("pretrain-first"), next("pretrain-next"), pre("pretrain-pre-norm");
  run(with({"--steps", "10", "--out", place.string()}));
  EXPECT(!fs::exists(place.path / "weights.txt"));
  const std::vector<std::string> on = with({"--steps", "10", "--init", place.string(), "--out", next.string()});
  run(on);
  EXPECT(contains(read_file(next.path / "weights.txt"), "copied  mlm.bias\n"));
  auto self = on;
  self.back() = place.string();
  EXPECT(contains(error_of([&] { status_of(self); }), "is --out too"));

  std::string bytes = read_file(place.path / "model.safetensors");
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(bytes.data() + bytes.size() - 4, &nan, 4);
  const size_t sum = bytes.find("checksum");
  bytes[sum] = 'x';  // another key: nobody's sum
  write_file_atomic(place.path / "model.safetensors", bytes);
  fs::remove_all(next.path);
  EXPECT(contains(error_of([&] { status_of(on); }), "holds a number that is not finite"));
  EXPECT(!fs::exists(next.path / "pretraining.json"));

  // Norms in front: no BERT for others, and the same model for us.
  run(with({"--steps", "10", "--norm", "pre", "--out", pre.string()}));
  EXPECT(results::Json::parse(read_file(pre.path / "config.json")).at("model_type") == "glia-pre-norm");
  EXPECT(contains(read_file(pre.path / "README.md"), "norms in front"));
  run(with({"--steps", "10", "--init", pre.string(), "--out", next.string()}));
  EXPECT(!contains(read_file(next.path / "weights.txt"), "\nfresh"));
}

// The last line of the log that is an evaluation.
results::Json last_evaluation(const fs::path& folder) {
  const std::string log = read_file(folder / "metrics.jsonl");
  return results::Json::parse(log.substr(log.rfind('\n', log.size() - 2) + 1));
}

TEST_CASE(
    "pretraining: with --joint both objectives are learnt, and --init takes the classifier where classes agree") {
  // Texts of words that only their topic has: 10 each, which can be told no better than one of them.
  const Place data("pretrain-topics"), place("pretrain-joint"), words("pretrain-words");
  fs::create_directories(data.path);
  for (const auto& [name, rows] : {std::pair{"train.csv", 600}, {"test.csv", 40}}) {
    std::string text = "label,text\n";
    for (int64_t i = 0; i < rows; ++i) {
      text += fmt::format("{},", i % 4);
      for (uint64_t w = 0; w < 8; ++w)
        text += fmt::format("{}{} ", "abcd"[i % 4],
                            random_below(10, 1, purpose::kTest, static_cast<uint32_t>(i), w + (rows == 40) * 8));
      text += "\n";
    }
    write_file_atomic(data.path / name, text);
  }
  const auto flags = [&](const Place& to, std::vector<std::string> more) {
    std::vector<std::string> all = words_of(
        std::string(kTinyFlags) +
        "--layers 2 --progress off --vocab-size 300 --tokens 256 --max-length 32 --steps 300 --lr 0.01 --threads 1 "
        "--held-out 0.1 --overlap-words 0 --dataset csv");
    all.insert(all.end(), {"--csv-train", data.string() + "/train.csv", "--csv-test", data.string() + "/test.csv",
                           "--out", to.string()});
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  run(flags(place, {"--joint", "20"}));
  run(flags(words, {"--joint", "0"}));
  const results::Json both = last_evaluation(place.path), alone = last_evaluation(words.path);
  EXPECT(!alone.contains("task_accuracy"));
  EXPECT(both.at("task_accuracy").get<double>() > 0.9);
  EXPECT(both.at("task_loss").get<double>() < 0.5);
  EXPECT(both.at("loss").get<double>() < 2.8);  // 3.7 of any word, 2.3 with the topic known
  const auto record = [](const Place& of, const char* file) {
    return results::Json::parse(read_file(of.path / file));
  };
  EXPECT(record(place, "pretraining.json").at("computed").at("joint") == 20);
  EXPECT(!record(words, "pretraining.json").at("computed").contains("joint"));
  EXPECT(record(place, "config.json").at("architectures") == results::Json::array({"BertForMaskedLM"}));

  const Pretrained weights = find_pretrained(place.string());
  EXPECT(weights.class_names.size() == 4);
  EXPECT(find_pretrained(words.string()).class_names.empty());
  const PretrainOptions o = parsed(flags(words, {"--init", place.string()}));
  for (const bool agree : {true, false}) {
    Context context(test_device(), 42);
    RunModel dense;
    dense.name = "dense", dense.moe.router = "none";
    ModelConfig config = model_config(o, dense, weights.shape.vocabulary, 4);
    config.head = make_classification_head;
    Model model(context, config, 42);
    std::vector<std::string> names = weights.class_names;
    if (!agree) names.back() = "another";
    const WarmStartReport report = start_from_weights(model, o, 42, false, names);
    EXPECT(std::ranges::count(report.copied, "pooler.weight") == 1);
    EXPECT(std::ranges::count(report.copied, "classifier.weight") == (agree ? 1 : 0));
  }
}

TEST_CASE("pretraining: parts of a batch have its gradient; a ramp begins with one part") {
  StepParts parts{4, 6};
  EXPECT(parts.of(0) == 1);
  EXPECT(parts.of(6) == 4);
  int64_t sum = 0;
  for (int64_t step = 0; step < 12; ++step) {
    EXPECT(parts.before(step) == sum);
    if (step > 0) EXPECT(parts.of(step) >= parts.of(step - 1));
    sum += parts.of(step);
  }
  EXPECT(StepParts{3}.before(5) == 15);
  const Place place("pretrain-ramp");
  // Five: there is no --batch here that it would have to divide.
  run(with({"--micro-batches", "5", "--ramp", "0.5", "--log-every", "1", "--out", place.string()}));
  EXPECT(fs::exists(place.path / "model.safetensors"));
  EXPECT(contains(read_file(place.path / "README.md"), "40 steps of up to 1280 places"));
  EXPECT(contains(read_file(place.path / "README.md"), "| beside held-out ones, left out |"));
  // The log counts epochs by batches.
  const auto points = results::read_metrics(place.path, 1000).train;
  REQUIRE(points.size() == 40);
  parts = {5, 20};
  for (const results::TrainPoint& p : points)
    EXPECT(p.epoch / points[0].epoch == doctest::Approx(double(parts.before(p.step))));
}

// Of the last line of the log that has one.
double last_loss(const fs::path& folder) {
  const std::string log = read_file(folder / "metrics.jsonl");
  double loss = 0;
  for (size_t begin = 0; begin < log.size(); begin = log.find('\n', begin) + 1) {
    const results::Json line = results::Json::parse(log.substr(begin, log.find('\n', begin) - begin));
    if (line.contains("lr")) loss = line.at("loss").get<double>();
  }
  return loss;
}

TEST_CASE("pretraining: ranks share the moments and divide the experts; what is saved has all of both") {
  const auto trained = [](const std::string& name, std::vector<std::string> more) {
    const Place place("pretrain-" + name);
    more.insert(more.begin(), {"--config", "softmax-moe", "--experts", "4", "--out", place.string()});
    run(with(std::move(more)));
    const results::Json timing = results::Json::parse(read_file(place.path / "timing.json"));
    return std::tuple(last_loss(place.path), last_evaluation(place.path).at("loss").get<double>(),
                      timing.value("moment_bytes", int64_t{0}));
  };
  const auto [loss, held_out, none] = trained("two", {"--ranks", "2"});
  EXPECT(none > 0);
  const auto [divided_loss, divided_held_out, divided_bytes] =
      trained("divided", {"--ranks", "2", "--expert-parallel", "2", "--shard-optimiser", "on"});
  EXPECT(std::abs(divided_loss - loss) < 1e-5 * loss);
  EXPECT(std::abs(divided_held_out - held_out) < 1e-5 * held_out);  // with everybody's experts
  EXPECT(divided_bytes < 0.55 * static_cast<double>(none));
}

TEST_CASE(
    "pretraining: moments of 16 bits are another run, and those of 32 are as they were before there was a choice") {
  const Place place("pretrain-moments");
  run(with({"--steps", "20", "--out", place.string()}));
  EXPECT(!contains(read_file(place.path / "pretraining.json"),
                   "its adam_state is \"float32\", and \"bfloat16\" is asked for"));
  const double loss = last_loss(place.path);
  EXPECT(contains(error_of([&] {
                    status_of(with({"--steps", "20", "--adam-state", "bfloat16", "--out", place.string()}));
                  }),
                  "adam"));
  const Place small("pretrain-small-moments");
  run(with({"--steps", "20", "--adam-state", "bfloat16", "--out", small.string()}));
  EXPECT(contains(error_of([&] {
                    status_of(with({"--steps", "20", "--out", small.string()}));
                  }),
                  "its adam_state is \"bfloat16\", and \"float32\" is asked for"));
  EXPECT(last_loss(small.path) != loss);
  EXPECT(std::abs(last_loss(small.path) - loss) < 0.02 * loss);
}

TEST_CASE("pretraining: the rate begins at its share of the peak and ends at 0") {
  AdamWOptions o;
  o.learning_rate = 2, o.warmup_steps = 4, o.total_steps = 12;
  EXPECT(scheduled_rate(o, 0) == 0);
  o.warmup_from = 0.25;
  const double wanted[] = {0.5, 0.875, 1.25, 1.625, 2, 1.75, 1.5};
  for (uint32_t step = 0; step < 7; ++step) EXPECT(scheduled_rate(o, step) == wanted[step]);
  EXPECT(scheduled_rate(o, 11) == 0.25);
  EXPECT(scheduled_rate(o, 12) == 0);
}

TEST_CASE("pretraining: minutes become steps: as many as fit, evaluations and a ramp counted") {
  PretrainOptions o = parsed(with({}));
  o.eval_every = 100, o.micro_batches = 1, o.ramp = 0;
  const int64_t plain = steps_in(1, o, 10, 0);
  EXPECT(plain == 6000);
  EXPECT(steps_in(1, o, 10, 1000) == 3000);  // an evaluation costs as much as its hundred steps
  o.micro_batches = 4, o.ramp = 1;
  const int64_t ramped = steps_in(1, o, 10, 0);
  EXPECT(ramped > 1.5 * plain);
  EXPECT(ramped < 2.7 * plain);
  EXPECT(steps_in(1e-9, o, 10, 0) == 1);
  o.eval_every = 0;
  EXPECT(evaluation_interval(o, 100) == 10);
  EXPECT(evaluation_interval(o, 3) == 1);
}

TEST_CASE("pretraining: a clock budget is recorded, and a resumed run keeps its steps") {
  const Place place("pretrain-clock");
  std::vector<std::string> words = with({"--out", place.string(), "--minutes", "0.01", "--steps", "0"});
  run(words);
  results::Json record = results::Json::parse(read_file(place.path / "pretraining.json"));
  const int64_t steps = record.at("plan").at("steps").get<int64_t>();
  EXPECT(steps >= 1);
  EXPECT(record.at("plan").at("step_ms").get<double>() > 0);
  // As if it had been killed: the rate is not measured again, nor is another one believed.
  record["plan"]["steps"] = 7, record["plan"]["step_ms"] = 1, record["computed"]["steps"] = 7;
  write_file_atomic(place.path / "pretraining.json", record.dump(2) + "\n");
  fs::rename(place.path / "model.safetensors", place.path / "checkpoint.safetensors");  // one that cannot be used
  fs::remove(place.path / "config.json");
  run(words);
  EXPECT(lines(place.path / "metrics.jsonl") == 2 + 1);  // losses at 5 and 7, an evaluation at 7
  EXPECT(results::Json::parse(read_file(place.path / "pretraining.json")) == record);
}

TEST_CASE("pretraining: the whole batch is trained on as the feed says, and empty sequences are harmless") {
  const PretrainOptions o = parsed(with({"--dropout", "0"}));
  const Corpus corpus = load_corpus(corpus_options(o));
  const PieceOptions pieces = training_pieces(o, corpus);
  EXPECT(pieces.masking.rows == 51);  // a fifth of 256
  // The same pieces with and without room for more: the same loss and gradient.
  std::vector<std::vector<double>> gradients;
  std::vector<double> losses;
  for (const int64_t more : {0, 64}) {
    Context context(test_device(), 42);
    RunModel run;
    run.name = "x", run.moe.router = context_router(), run.moe.n_experts = 4, run.moe.top_k = 2;
    ModelConfig config = model_config(o, run, corpus.vocabulary().size(), 1);
    Model model(context, config, 42);
    PieceOptions roomy = pieces;
    roomy.sequences += more;
    BatchBuffer buffer(context, o.tokens, roomy.sequences, o.max_length, false, corpus.vocabulary().size(),
                       roomy.masking);
    std::vector<int32_t> slot(static_cast<size_t>(buffer.ints()));
    BatchView view = buffer.view(slot.data());
    PieceStream stream(corpus.training, roomy);
    REQUIRE(stream.fill(view));
    buffer.upload(slot.data(), view, o.tokens);
    const Model::Output out = model.forward(buffer.batch(o.tokens, roomy.sequences), true);
    backward(out.loss);
    model.parameters().complete_gradients();
    losses.push_back(out.loss.value().item());
    gradients.push_back(values(model.parameters().gradients()));
  }
  EXPECT(losses[0] == losses[1]);
  EXPECT(gradients[0] == gradients[1]);
  EXPECT(largest(gradients[0]) > 1e-4);
}

TEST_CASE("pretraining: bad flags are named in one line") {
  const auto error = [](std::vector<std::string> more) { return error_of([&] { parsed(with(std::move(more))); }); };
  EXPECT(contains(error({"--steps", "0"}), "--steps, --minutes: expected one of them above 0"));
  EXPECT(contains(error({"--minutes", "2"}), "expected one of them above 0, got 40 and 2"));
  EXPECT(contains(error({"--tokens", "250"}), "--tokens: expected a multiple of --bucket 32, got 250"));
  EXPECT(
      contains(error({"--tokens", "64", "--max-length", "128"}), "--tokens: expected at least --max-length 128"));
  EXPECT(contains(error({"--schedule", "cosine"}), "--schedule: expected"));
  EXPECT(contains(error({"--held-out", "1"}), "--held-out: expected a share between 0 and 1"));
  EXPECT(contains(error({"--beta2", "1"}), "--beta1, --beta2"));
  EXPECT(contains(error({"--warmup", "500"}), "--warmup: expected a share of the steps"));
  EXPECT(contains(error({"--mask-rate", "0"}), "--mask-rate"));
  EXPECT(contains(error({"--no-such-flag", "1"}), "--help lists all flags"));
  EXPECT(contains(error({"--config", "zoo/bag-of-bigrams"}), "expected one whose encoder is bert, got bag"));
  EXPECT(contains(error({"--joint", "-1"}), "--joint: expected"));
  EXPECT(
      contains(error({"--joint", "20", "--task", "causal_lm"}), "--joint: expected a task that masks words, got"));
  EXPECT(
      contains(error({"--joint", "20", "--training-texts", "off"}), "which have topics, got --training-texts off"));
  EXPECT(contains(error({"--joint", "20", "--ranks", "2"}), "--joint: expected one rank, got --ranks 2"));
  const std::string asks = router_where([](const RouterRow& row) { return row.traits.needs_labels; });
  EXPECT(contains(error_of([&] {
                    status_of(with({"--joint", "20", "--config", "softmax-moe", "--router", asks}));
                  }),
                  "expected a router that asks no text for its topic"));
  const Place place("pretrain-bad");
  fs::create_directories(place.path);
  write_file_atomic(place.path / "vocab.txt", "[UNK]\n[CLS]\n[SEP]\na\nb\n");
  const std::string vocab = (place.path / "vocab.txt").string();
  EXPECT(contains(error_of([&] {
                    status_of({"--device", "cpu", "--dataset", "synthetic", "--cache", "", "--vocab", vocab,
                               "--out", (place.path / "o").string()});
                  }),
                  "expected a vocabulary with [MASK], found none in it"));
  write_file_atomic(place.path / "o/config.json", "{}");
  EXPECT(contains(error_of([&] {
                    status_of(with({"--out", (place.path / "o").string()}));
                  }),
                  "holds another model"));
  // A study's folder keeps its vocabulary, and what others left beside a model is theirs.
  const std::string out = (place.path / "results").string();
  write_file_atomic(out + "/study.txt", "name = ahr\n");
  write_file_atomic(out + "/vocab.txt", "mine\n");
  EXPECT(contains(error_of([&] { status_of(with({"--out", out})); }), "holds the results of a study (study.txt)"));
  EXPECT(read_file(out + "/vocab.txt") == "mine\n");
  fs::remove(out + "/study.txt");
  write_file_atomic(out + "/letter.tmp", "mine\n");
  write_file_atomic(out + "/model.safetensors.1.tmp", "ours\n");
  EXPECT(status_of(with({"--out", out})) == 0);
  EXPECT(fs::exists(out + "/letter.tmp"));
  EXPECT(!fs::exists(out + "/model.safetensors.1.tmp"));
}

}  // namespace
}  // namespace glia::test
