#include "experiments/training/options.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cmath>
#include <iostream>

#include "engine/core/check.h"
#include "experiments/studies/configurations.h"

namespace glia {
namespace {

using O = Options;
constexpr auto kNone = Flag::Part::kNone, kData = Flag::Part::kData, kModel = Flag::Part::kModel,
               kTrain = Flag::Part::kTrain, kProtocol = Flag::Part::kProtocol;

template <class T> T parse_number(const Flag& flag, const std::string& text, const char* wanted) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || text.empty())
    fail_input("--{}: expected {}, got '{}'", flag.name, wanted, text);
  if constexpr (std::is_floating_point_v<T>)
    if (!std::isfinite(value)) fail_input("--{}: expected a finite number, got '{}'", flag.name, text);
  return value;
}

bool parse_switch(const Flag& flag, const std::string& text) {
  if (text == "on" || text == "true" || text == "yes" || text == "1") return true;
  if (text == "off" || text == "false" || text == "no" || text == "0") return false;
  fail_input("--{}: expected on or off, got '{}'", flag.name, text);
}

std::string json_key(const char* name) {
  std::string key = name;
  std::replace(key.begin(), key.end(), '-', '_');
  return key;
}

std::vector<std::string> split(const std::string& text, char at) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(at, begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

}  // namespace

const std::vector<Flag>& flags() {
  constexpr auto all = Flag::kAll, run_all = Flag::kRunAll, train = Flag::kTrainOnly;
  static const std::vector<Flag> table{
      {"configs", &O::configs, kNone, "configurations, separated by commas, or all", run_all, "What is run"},
      {"config", &O::config, kNone, "the configuration", train, "What is run"},
      {"name", &O::name, kNone, "name of the run's folder, where it is not the configuration's", train},
      {"seeds", &O::seeds, kNone,
       "how many seeds (5: seed0 … seed4), or which (0,2 or 3-5); seed i is random seed 42 + i"},
      {"protocol", &O::protocol, kNone, "clean, or paper: as the published code does it"},
      {"preset", &O::preset, kNone, "quick, small, paper, or auto: from device and data"},

      {"device", &O::device, kNone, "cpu, cuda (all GPUs), cuda:N, or auto", all, "Where and how"},
      {"precision", &O::precision, kNone, "float32, bfloat16, or auto: bfloat16 on a GPU"},
      {"gradients", &O::gradients, kNone,
       "of matrices: float32, bfloat16 (wants that precision), or auto: as the precision on a GPU"},
      {"kernels", &O::kernels, kNone, "products on a GPU: hopper, portable, or auto: the fastest that it has"},
      {"out", &O::out, kNone, "result folder; finished runs in it are skipped, unfinished ones resumed"},
      {"fresh", &O::fresh, kNone, "on: begin the asked runs anew, whatever is in the result folder"},
      {"jobs", &O::jobs, kNone,
       "runs side by side; 0: two on each GPU; on a CPU one, or with --preset quick one a core", run_all},
      {"threads", &O::threads, kNone, "CPU threads of each run; 0: all cores shared by the runs side by side"},
      {"graphs", &O::graphs, kNone, "replay each training step as a CUDA graph"},
      {"lazy-embedding", &O::lazy_embedding, kNone,
       "update a word's row when it is read, not in every step; the bits are the same"},
      {"check-finite", &O::check_finite, kNone,
       "on: name the first op whose output is not finite (slow, no CUDA graphs); also GLIA_CHECK_FINITE=1"},
      {"bucket", &O::bucket, kNone, "tokens of a batch are rounded up to this; 0: 128 on a GPU, 32 on a CPU"},
      {"checkpoint-seconds", &O::checkpoint_seconds, kNone, "time between checkpoints"},
      {"checkpoint-every", &O::checkpoint_every, kNone, "steps between checkpoints; 0: by time"},
      {"progress", &O::progress, kNone, "live, lines, off, or auto: live on a terminal"},
      {"estimate", &O::estimate, kNone, "measure a few steps first and say how long it takes"},
      {"dry-run", &O::dry_run, kNone, "on: say what would be run and how long it takes, and stop"},
      {"report", &O::report, kNone, "on: pictures, report.html and TensorBoard events beside the tables"},

      {"dataset", &O::dataset, kData, "ag_news, csv, synthetic, or auto: AG News where it lies, else synthetic",
       all, "Data"},
      {"data", &O::data, kNone, "folder of the data set"},
      {"vocab", &O::vocab, kNone, "WordPiece vocabulary; without: beside the data, else trained on the spot"},
      {"vocab-size", &O::vocab_size, kData, "tokens of a vocabulary that is trained on the spot"},
      {"cache", &O::cache, kNone, "folder for token ids; empty: none"},
      {"max-length", &O::max_length, kData, "tokens of a sequence, [CLS] and [SEP] included"},
      {"max-rows", &O::max_rows, kData, "training rows, a stratified part, rounded class by class; 0: all"},
      {"max-test-rows", &O::max_test_rows, kData, "test rows, likewise; 0: all"},
      {"validation-fraction", &O::validation_fraction, kProtocol,
       "part of the training rows held out for model selection"},
      {"split-seed", &O::split_seed, kData, "fixes the validation rows, whatever the run's seed"},
      {"skip-bad-rows", &O::skip_bad_rows, kData, "on: leave out malformed rows of a file, else they are errors"},
      {"csv-train", &O::csv_train, kData, "--dataset csv: the training file"},
      {"csv-test", &O::csv_test, kData, "--dataset csv: the test file; without it a tenth of the rows"},
      {"csv-label", &O::csv_label, kData, "--dataset csv: the label's column, by name or number from 1"},
      {"csv-text", &O::csv_text, kData, "--dataset csv: the text columns, separated by commas"},
      {"csv-header", &O::csv_header, kData, "--dataset csv: whether the first line holds names"},
      {"topics", &O::topics, kData, "synthetic: topics"},
      {"synthetic-rows", &O::synthetic_rows, kData, "synthetic: training rows"},
      {"synthetic-test-rows", &O::synthetic_test_rows, kData, "synthetic: test rows"},
      {"synthetic-seed", &O::synthetic_seed, kData, "synthetic: seed of the corpus"},
      {"difficulty", &O::difficulty, kData, "synthetic: 0 every topical word tells the topic, 1 none does"},

      {"layers", &O::layers, kModel, "encoder layers L", all, "Model"},
      {"hidden", &O::hidden, kModel, "hidden size H"},
      {"heads", &O::heads, kModel, "attention heads A"},
      {"ffn", &O::ffn, kModel, "FFN size F, of each expert too"},
      {"experts", &O::experts, kModel, "experts E of each layer"},
      {"top-k", &O::top_k, kModel, "experts K a token"},
      {"dropout", &O::dropout, kModel, "dropout, hidden and attention"},
      {"router", &O::router, kNone, "a router of the registry, or none: instead of the configuration's", train},
      {"balance", &O::balance, kNone, "weight α of the balance loss; below 0: the configuration's", train},
      {"energy", &O::energy, kNone, "weight β of the energy loss; below 0: the configuration's", train},
      {"last-layer-cls", &O::last_layer_cls, kNone,
       "run the last layer's experts on CLS rows only, which is exact"},
      {"init", &O::init, kTrain, "pretrained weights (safetensors, Hugging Face's BERT names or ours)"},
      {"init-noise", &O::init_noise, kTrain,
       "standard deviation of the noise on each expert's copy of the pretrained FFN"},

      {"epochs", &O::epochs, kTrain, "epochs", all, "Training"},
      {"max-steps", &O::max_steps, kTrain, "stop after so many steps; 0: all epochs"},
      {"batch", &O::batch, kTrain, "sequences of a step"},
      {"lr", &O::lr, kTrain, "learning rate of AdamW"},
      {"warmup", &O::warmup, kTrain, "steps of linear warm-up; below 1: that part of all steps"},
      {"weight-decay", &O::weight_decay, kTrain, "on everything but biases and norms"},
      {"clip", &O::clip, kTrain, "global gradient norm; 0: no clipping"},
      {"eval-every", &O::eval_every, kTrain, "steps between evaluations; 0: once an epoch"},
      {"eval-batch", &O::eval_batch, kTrain, "sequences of an evaluation batch"},
      {"log-every", &O::log_every, kTrain, "steps that a line of metrics.jsonl averages over"},

      {"padding", &O::padding, kProtocol,
       "packed: no padding token exists; padded: every sequence has --max-length tokens", all,
       "What the protocols differ in"},
      {"select", &O::select, kProtocol, "the model that counts: best on validation, best on test, or last"},
      {"second-residual", &O::second_residual, kProtocol,
       "MoE layers add the residual and a second norm after attention"},
      {"utilisation-rows", &O::utilisation_rows, kProtocol,
       "shuffled test rows for the specialisation; 0: the whole test set"},
  };
  return table;
}

const Flag& find_flag(const std::string& name) {
  for (const Flag& flag : flags())
    if (name == flag.name) return flag;
  fail_input("unknown flag --{}; --help lists them all", name);
}

std::string value_text(const Options& options, const Flag& flag) {
  return std::visit(
      [&](auto member) -> std::string {
        const auto& value = options.*member;
        if constexpr (std::is_same_v<std::decay_t<decltype(value)>, bool>) return value ? "on" : "off";
        else return fmt::format("{}", value);
      },
      flag.member);
}

void set_value(Options& options, const Flag& flag, const std::string& text) {
  std::visit(
      [&](auto member) {
        auto& value = options.*member;
        using T = std::decay_t<decltype(value)>;
        if constexpr (std::is_same_v<T, std::string>) value = text;
        else if constexpr (std::is_same_v<T, bool>) value = parse_switch(flag, text);
        else if constexpr (std::is_same_v<T, int64_t>) value = parse_number<T>(flag, text, "a whole number");
        else value = parse_number<T>(flag, text, "a number");
      },
      flag.member);
}

nlohmann::ordered_json to_json(const Options& options, Flag::Part part) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  for (const Flag& flag : flags())
    if (flag.part == part)
      std::visit([&](auto member) { json[json_key(flag.name)] = options.*member; }, flag.member);
  return json;
}

CommandLine parse_command_line(int argc, const char* const* argv, Flag::Programs programs,
                               const std::string& description) {
  CommandLine line;
  CLI::App app(description);
  app.get_formatter()->column_width(34);
  std::string section;
  for (const Flag& flag : flags()) {
    if (!(flag.programs & programs)) continue;
    if (flag.section) section = flag.section;
    app.add_option_function<std::string>(
           std::string("--") + flag.name,
           [&line, &flag](const std::string& text) {
             set_value(line.options, flag, text);
             line.given.insert(flag.name);
           },
           fmt::format("{} [{}]", flag.help, value_text(Options{}, flag)))
        ->group(section)
        ->take_last()  // a flag that is typed twice: the later one counts
        ->type_name("");
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    std::cout << app.help();
    line.done = true;
  } catch (const CLI::ParseError& error) {
    fail_input("{} (--help lists all flags)", error.what());
  }
  return line;
}

std::string command_text(int argc, const char* const* argv) {
  std::string text;
  for (int i = 0; i < argc; ++i) {
    const std::string word = argv[i];
    const bool plain = !word.empty() && word.find_first_of(" \t\n\"'$\\*?;&|<>()") == std::string::npos;
    text += (i ? " " : "") + (plain ? word : "'" + word + "'");
  }
  return text;
}

std::string echo(const Options& options) {
  std::string text;
  const Options defaults;
  for (const Flag& flag : flags()) {
    const std::string value = value_text(options, flag);
    if (value != value_text(defaults, flag))
      text += fmt::format("{}--{} {}", text.empty() ? "" : " ", flag.name, value);
  }
  return text;
}

void check_options(const Options& o) {
  const auto want = [](bool good, const char* name, const char* wanted, const auto& got) {
    if (!good) fail_input("--{}: expected {}, got '{}'", name, wanted, got);
  };
  const auto one_of = [](const char* name, const std::string& got, std::initializer_list<const char*> known) {
    std::string list;
    for (const char* k : known) {
      if (got == k) return;
      list += (list.empty() ? "" : ", ") + std::string(k);
    }
    fail_input("--{}: expected one of {}; got '{}'", name, list, got);
  };
  one_of("protocol", o.protocol, {"clean", "paper"});
  one_of("precision", o.precision, {"float32", "bfloat16"});
  one_of("gradients", o.gradients, {"float32", "bfloat16"});
  one_of("kernels", o.kernels, {"auto", "hopper", "portable"});
  want(o.gradients == "float32" || o.precision == "bfloat16", "gradients", "float32 with --precision float32",
       o.gradients);
  one_of("progress", o.progress, {"auto", "live", "lines", "off"});
  one_of("padding", o.padding, {"packed", "padded"});
  one_of("select", o.select, {"validation", "test", "last"});
  for (const auto& [name, value] : {std::pair{"layers", o.layers},
                                    {"hidden", o.hidden},
                                    {"heads", o.heads},
                                    {"ffn", o.ffn},
                                    {"experts", o.experts},
                                    {"top-k", o.top_k},
                                    {"epochs", o.epochs},
                                    {"batch", o.batch},
                                    {"eval-batch", o.eval_batch},
                                    {"log-every", o.log_every},
                                    {"topics", o.topics}})
    want(value >= 1, name, "at least 1", value);
  for (const auto& [name, value] : {std::pair{"jobs", o.jobs},
                                    {"threads", o.threads},
                                    {"bucket", o.bucket},
                                    {"checkpoint-every", o.checkpoint_every},
                                    {"max-rows", o.max_rows},
                                    {"max-test-rows", o.max_test_rows},
                                    {"max-steps", o.max_steps},
                                    {"eval-every", o.eval_every},
                                    {"utilisation-rows", o.utilisation_rows}})
    want(value >= 0, name, "0 or more", value);
  want(o.max_length >= 3 && o.max_length <= 512, "max-length", "3 … 512", o.max_length);
  want(o.hidden % o.heads == 0, "heads", "a divisor of --hidden", o.heads);
  want(o.top_k <= o.experts, "top-k", "at most --experts", o.top_k);
  want(o.dropout >= 0 && o.dropout < 1, "dropout", "0 … below 1", o.dropout);
  want(o.lr > 0, "lr", "a positive number", o.lr);
  want(o.warmup >= 0, "warmup", "0 or more", o.warmup);
  want(o.weight_decay >= 0, "weight-decay", "0 or more", o.weight_decay);
  want(o.clip >= 0, "clip", "0 or more", o.clip);
  want(o.init_noise >= 0, "init-noise", "0 or more", o.init_noise);
  want(o.checkpoint_seconds >= 0, "checkpoint-seconds", "0 or more", o.checkpoint_seconds);
  want(o.validation_fraction >= 0 && o.validation_fraction < 1, "validation-fraction", "0 … below 1",
       o.validation_fraction);
  if (o.select == "validation" && o.validation_fraction == 0)
    fail_input("--select validation: wants --validation-fraction above 0");
  want(o.name.find('/') == std::string::npos && o.name != "." && o.name != "..", "name",
       "a folder's name, not a path", o.name);
  if (o.out.empty()) fail_input("--out: expected a folder, got ''");
}

std::vector<int> parse_seeds(const std::string& text) {
  const auto number = [&](const std::string& part) {
    int value = -1;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), value);
    if (error != std::errc{} || end != part.data() + part.size() || part.empty() || value < 0 || value > 100000)
      fail_input("--seeds: expected a number of seeds (5), a list (0,2) or a range (3-5), got '{}'", text);
    return value;
  };
  std::vector<int> seeds;
  if (text.find_first_of(",-") == std::string::npos) {
    for (int i = 0; i < number(text); ++i) seeds.push_back(i);
    if (seeds.empty()) fail_input("--seeds: expected at least one seed, got '{}'", text);
    return seeds;
  }
  for (const std::string& part : split(text, ',')) {
    if (part.empty() && !seeds.empty()) continue;  // "3," is a list of one
    const size_t dash = part.find('-');
    const int first = number(part.substr(0, dash)),
              last = dash == std::string::npos ? first : number(part.substr(dash + 1));
    if (last < first) fail_input("--seeds: expected a range from the lower to the higher seed, got '{}'", part);
    for (int i = first; i <= last; ++i)
      if (std::find(seeds.begin(), seeds.end(), i) == seeds.end()) seeds.push_back(i);
  }
  return seeds;
}

std::vector<std::string> parse_configs(const std::string& text) {
  std::vector<std::string> names;
  if (text == "all") {
    for (const Configuration& c : configurations()) names.emplace_back(c.name);
    return names;
  }
  for (const std::string& name : split(text, ',')) {
    configuration(name);  // throws for an unknown one
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  }
  return names;
}

}  // namespace glia
