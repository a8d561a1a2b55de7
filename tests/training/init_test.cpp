// --init: what the weights' folder says about the model, and the flags that say something else.
#include <filesystem>

#include "engine/core/file.h"
#include "experiments/training/feed/data_source.h"
#include "experiments/training/presets.h"
#include "experiments/training/pretrained.h"
#include "experiments/training/run.h"
#include "experiments/training/training.h"
#include "nn/weights/hugging_face.h"
#include "nn/weights/pretrained.h"
#include "tests/nn/helpers.h"
#include "tests/temporary_folder.h"

namespace fs = std::filesystem;
using namespace glia;
using namespace glia::test;

namespace {

constexpr const char* kVocabulary = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\nc\nd\n##e\n";

// A folder as Hugging Face's libraries write it: 2 layers, hidden 8, 2 heads, FFN 16, 40 words, 16 positions.
struct Model8 {
  fs::path path = temporary_path("init");
  ModelConfig config = tiny_config("none", DType::kFloat32);
  explicit Model8(bool with_config = true) {
    fs::create_directories(path);
    config.bert.types = 1, config.bert.layer_norm_eps = 1e-6;
    Context context(Device::cpu());
    Model model(context, config, 5);
    export_hugging_face(path / "model.safetensors", model.parameters(), {});
    if (with_config)
      write_file_atomic(path / "config.json", hugging_face_config(config.bert, "BertModel", {}).dump());
    write_file_atomic(path / "vocab.txt", kVocabulary);
  }
  ~Model8() { fs::remove_all(path); }
  Options with(std::vector<std::string> more, const char* file = "") const {
    const std::string init = (path / file).string();
    std::vector<std::string> words{"train",     "--device",
                                   "cpu",       "--preset",
                                   "quick",     "--dataset",
                                   "synthetic", "--synthetic-rows",
                                   "80",        "--synthetic-test-rows",
                                   "20",        "--cache",
                                   "",          "--max-length",
                                   "16",        "--progress",
                                   "off",       "--batch",
                                   "4",         "--init",
                                   init};
    words.insert(words.end(), more.begin(), more.end());
    std::vector<const char*> argv;
    for (const std::string& word : words) argv.push_back(word.c_str());
    return resolve(parse_command_line(static_cast<int>(argv.size()), argv.data(), Flag::kTrainOnly, ""));
  }
};

Vocabulary words(int n) {
  std::vector<std::string> tokens = {"[UNK]", "[CLS]", "[SEP]"};
  while (static_cast<int>(tokens.size()) < n) tokens.push_back(fmt::format("w{}", tokens.size()));
  return Vocabulary::from_tokens(tokens, "vocab.txt");
}

}  // namespace

TEST_CASE("init: config.json beats the preset, and the vocabulary comes from the folder") {
  const Model8 folder;
  const Options o = folder.with({});
  EXPECT(o.layers == 2);
  EXPECT(o.hidden == 8);
  EXPECT(o.heads == 2);
  EXPECT(o.ffn == 16);
  EXPECT(o.positions == 16);
  EXPECT(o.types == 1);
  EXPECT(o.norm_eps == 1e-6);
  EXPECT(o.vocab == folder.path / "vocab.txt");
  EXPECT(o.lr == 0.001);  // the preset's
  // 16 positions are fewer than the preset's length.
  const std::string init = folder.path.string();
  const std::vector<const char*> argv{"train",     "--device", "cpu", "--preset", "quick",     "--dataset",
                                      "synthetic", "--cache",  "",    "--init",   init.c_str()};
  EXPECT(resolve(parse_command_line(static_cast<int>(argv.size()), argv.data(), Flag::kTrainOnly, "")).max_length ==
         16);
  // A file in the folder is the folder's.
  EXPECT(folder.with({}, "model.safetensors").heads == 2);
}

TEST_CASE("init: a typed flag that contradicts config.json is an error that names both") {
  const Model8 folder;
  const auto error = [&](std::vector<std::string> more) { return error_of([&] { folder.with(more); }); };
  for (const char* flag : {"--hidden", "--heads", "--ffn", "--layers"}) {
    INFO(flag);
    EXPECT(contains(error({flag, "4"}),
                    std::string(flag) + " 4: contradicts " + (folder.path / "config.json").string()));
  }
  EXPECT(error({"--heads", "2", "--hidden", "8"}).empty());
  EXPECT(contains(error({"--layers", "1"}), "--init-layers 1 leaves the upper ones out"));
  EXPECT(folder.with({"--init-layers", "1"}).layers == 1);
  EXPECT(contains(error({"--init-layers", "3"}), "--init-layers 3"));
  EXPECT(contains(error({"--max-length", "17"}), "--max-length: expected 3 … 16, the weights' positions"));
  write_file_atomic(folder.path / "other.txt", std::string(kVocabulary) + "more\n");
  EXPECT(contains(error({"--vocab", (folder.path / "other.txt").string()}), "other.txt: has other tokens than"));
  write_file_atomic(folder.path / "same.txt", kVocabulary);
  EXPECT(error({"--vocab", (folder.path / "same.txt").string()}).empty());
  EXPECT(contains(error({"--vocab", "bytes"}), "--vocab bytes: has other tokens than"));
  Vocabulary::of_bytes().save(folder.path / "vocab.txt");
  EXPECT(error({"--vocab", "bytes"}).empty());
}

TEST_CASE("init: the norms' place comes from config.json; without a vocabulary of theirs weights are refused") {
  const Model8 folder;
  EXPECT(contains(error_of([&] { folder.with({"--norm", "pre"}); }), "--norm pre: contradicts"));
  fs::remove(folder.path / "vocab.txt");
  const Options o = folder.with({});
  EXPECT(o.vocab.empty());
  const Dataset data = load_data(o);
  EXPECT(contains(error_of([&] { describe_weights(check_weights(o), data.vocabulary()); }), "expected --vocab"));
  // What transformers writes since version 5.
  write_file_atomic(
      folder.path / "tokenizer.json",
      R"({"normalizer": {"type": "BertNormalizer", "lowercase": false}, "pre_tokenizer": {"type": "BertPreTokenizer"},
                        "model": {"type": "WordPiece", "vocab": {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "A": 3}}})");
  const Options found = folder.with({});
  EXPECT(found.vocab == folder.path / "tokenizer.json");
  const Dataset other = load_data(found);
  EXPECT(other.vocabulary().size() == 4);
  EXPECT(!other.tokenizer->lowercase());
  write_file_atomic(folder.path / "tokenizer_config.json", R"({"tokenizer_class": "PreTrainedTokenizerFast"})");
  EXPECT(!load_data(found).tokenizer->lowercase());
}

TEST_CASE("init: a file alone takes its shape from the flags, and its tensors must agree with them") {
  const Model8 folder(false);
  const auto with = [&](std::vector<std::string> more) { return folder.with(more, "model.safetensors"); };
  const Options o = with({"--layers", "2", "--hidden", "8", "--heads", "4", "--ffn", "16"});
  EXPECT(o.heads == 4);
  EXPECT(o.positions == 16);
  EXPECT(o.types == 1);
  EXPECT(contains(check_weights(o).text, "the flags say how many heads"));
  const auto error = [&](std::vector<std::string> more) { return error_of([&] { check_weights(with(more)); }); };
  EXPECT(contains(error({"--layers", "2", "--hidden", "16", "--ffn", "16"}),
                  "its tensors say --hidden 8, and the model has 16"));
  EXPECT(contains(error({"--layers", "2", "--hidden", "8", "--ffn", "24"}), "its tensors say --ffn 16"));
  EXPECT(contains(error({"--layers", "1", "--hidden", "8", "--ffn", "16"}),
                  "--init-layers 1 leaves the upper ones out"));
  EXPECT(
      contains(error({"--layers", "3", "--hidden", "8", "--ffn", "16"}), "has 2 encoder layers, and the model 3"));
  EXPECT(error({"--init-layers", "1", "--hidden", "8", "--ffn", "16"}).empty());
  // Without its config.json a folder is read the same way.
  EXPECT(folder.with({"--layers", "2", "--hidden", "8", "--heads", "4", "--ffn", "16"}).vocab ==
         folder.path / "vocab.txt");
}

TEST_CASE("init: a config.json that contradicts its own tensors is an error before anything is trained") {
  const Model8 folder;
  const auto error = [&](const char* key, int64_t value) {
    auto json = hugging_face_config(folder.config.bert, "BertModel", {});
    json[key] = value;
    write_file_atomic(folder.path / "config.json", json.dump());
    return error_of([&] { check_weights(folder.with({})); });
  };
  EXPECT(error("vocab_size", 40).empty());
  for (const int64_t words : {39, 41, 1 << 30})
    EXPECT(contains(error("vocab_size", words), fmt::format("config.json says vocab_size {}", words)));
  EXPECT(contains(error("type_vocab_size", 2), "its table has 1 rows, and"));
  EXPECT(contains(error("max_position_embeddings", 64), "config.json says max_position_embeddings 64"));
  EXPECT(contains(error_of([&] { folder.with({}, "not-there"); }), "found nothing there (names of a hub"));
}

TEST_CASE("init: what a file lacks of the encoder, or has in integers, is named before any run begins") {
  const Model8 folder;
  const std::string path = (folder.path / "model.safetensors").string();
  std::string whole = read_file(path);
  whole.replace(whole.find("checksum"), 8, "nobody's");  // else the file is known to be altered
  write_file_atomic(path, whole);
  EXPECT(error_of([&] { check_weights(folder.with({})); }).empty());
  // In the header a name of the same length stands for another tensor, a type of the same size for another type.
  const auto error = [&](const std::string& from, const std::string& to) {
    std::string changed = whole;
    REQUIRE(changed.find(from) != std::string::npos);
    write_file_atomic(path, changed.replace(changed.find(from), from.size(), to));
    return error_of([&] { check_weights(folder.with({})); });
  };
  for (const std::string name : {"layer.1.attention.self.query.bias", "layer.0.output.LayerNorm.weight",
                                 "layer.1.intermediate.dense.weight", "embeddings.token_type_embeddings.weight"}) {
    std::string other = name;
    other.back() = '_';
    INFO(error(name, other));
    EXPECT(contains(error(name, other), "expected 'bert."));
    EXPECT(contains(error(name, other), name + "', found no tensor of that name"));
  }
  const size_t at = whole.find("layer.1.attention.self.query.bias"), type = whole.find("F32", at);
  const std::string field = whole.substr(at, type + 3 - at);
  EXPECT(contains(error(field, field.substr(0, field.size() - 3) + "I32"),
                  "query.bias': expected floating point numbers, got I32"));
}

TEST_CASE("init: the words' rows are said, the model is shaped and filled, and the report lists every tensor") {
  const Model8 folder;
  const Options o = folder.with({});
  const CheckedWeights checked = check_weights(o);
  EXPECT(checked.words == 40);
  EXPECT(contains(describe_weights(checked, words(10)), "of 40 rows of words the vocabulary's 10"));
  EXPECT(!contains(describe_weights(checked, words(40)), "rows"));
  EXPECT(
      contains(error_of([&] { describe_weights(checked, words(41)); }), "40 rows, and the vocabulary 41 tokens"));
  const Dataset data = load_data(o);
  Context context(Device::cpu());
  Trainer trainer(context, data, o, run_model(o, configuration("softmax-moe")), 42);
  const BertConfig& shape = trainer.model().config().bert;
  EXPECT(shape.vocabulary == 10);
  EXPECT(shape.positions == 16);
  EXPECT(shape.types == 1);
  EXPECT(shape.layer_norm_eps == 1e-6);
  const WarmStartReport& report = trainer.warm_start_report();
  EXPECT(report.copied.size() + report.fresh.size() == trainer.model().parameters().all().size());
  const std::string text = report_text(o, report);
  EXPECT(contains(text, "copied  embeddings.word.weight\n"));
  EXPECT(contains(text, "fresh   classifier.weight\n"));
  EXPECT(contains(text, "unused  classifier.weight\n"));
}

TEST_CASE("init: other weights under the same path are another run; records from before there was a hash are not") {
  Model8 folder;
  const Options o = folder.with({"--max-steps", "1", "--seeds", "1"});
  const Dataset data = load_data(o);
  const auto config = [&] {
    return run_config(plan_runs(o, {"softmax-moe"}).at(0), data, data_fingerprint(data), "cpu", "x");
  };
  const results::RunConfig first = config();
  EXPECT(first.train.at("weights_hash").get<std::string>().size() == 16);
  EXPECT(config().train == first.train);
  const TemporaryFolder out("other-weights");
  const std::string run = results::run_folder(out.path, 0, "softmax-moe");
  results::begin_run(run, first, false);
  require_same_run(run, config());
  {
    Context context(Device::cpu());
    Model other(context, folder.config, 6);
    export_hugging_face(folder.path / "model.safetensors", other.parameters(), {});
  }
  const results::RunConfig second = config();
  EXPECT(contains(error_of([&] { require_same_run(run, second); }), "its train.weights_hash is"));
  results::Run a, b;
  a.folder = "a", b.folder = "b", a.config = first, b.config = second;
  EXPECT(contains(error_of([&] { results::require_comparable({a, b}); }), "the same train.weights_hash"));
  // As an earlier version wrote it.
  results::RunConfig old = first;
  old.train.erase("weights_hash");
  results::begin_run(run, old, false);
  require_same_run(run, second);
}
