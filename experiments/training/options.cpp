#include "experiments/training/options.h"
#include "experiments/tasks/task.h"

#include <fmt/format.h>
#include <omp.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cmath>
#include <deque>
#include <filesystem>

#include "data/text/utf8.h"
#include "engine/core/check.h"
#include "engine/core/command_line/manual.h"
#include "moe/losses/losses.h"

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

std::vector<std::string> split(const std::string& text, char at) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(at, begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

// A member of the base as one of Options: only its type is of interest.
template <class T> T O::*own(T DatasetOptions::*);

// The table of data options (data/datasets/options.cpp), before the model's flags.
std::vector<Flag> with_data(std::vector<Flag> table) {
  std::vector<Flag> data;
  for (const DataOption& option : data_options()) {
    const Flag::Part part = option.kept == DataOption::Kept::kData       ? kData
                            : option.kept == DataOption::Kept::kProtocol ? kProtocol
                                                                         : kNone;
    const auto member =
        std::visit([](auto m) -> Flag::Member { return static_cast<decltype(own(m))>(m); }, option.member);
    data.push_back({option.row.name, member, part, option.row.help, Flag::kAll, data.empty() ? "Data" : nullptr});
  }
  const auto model = std::find_if(table.begin(), table.end(), [](const Flag& f) { return f.part == kModel; });
  table.insert(model, data.begin(), data.end());
  return table;
}

}  // namespace

// An option that two routers share appears once. Not in a header: tests give it rows that no router has.
void add_flag(std::vector<Flag>& table, const OptionRow& row, const char* section) {
  const auto key = [](const OptionRow& r) {
    const std::vector<std::string> choices(r.choices.begin(), r.choices.end());
    return std::tuple(r.standard, std::string(r.help), r.least, r.most, choices);
  };
  for (const Flag& flag : table)
    if (std::string_view(flag.name) == row.name) {
      const auto* other = std::get_if<const OptionRow*>(&flag.member);
      CHECK(other && key(**other) == key(row),
            "{}: --{} is another flag's name; routers that share an option have one row of it", section, row.name);
      return;
    }
  table.push_back({row.name, &row, kNone, row.help, Flag::kAll, section});
}

namespace {

// Behind them the flags that the registries of losses and routers add.
std::vector<Flag> with_routing(std::vector<Flag> table) {
  const auto add = [&](const OptionRow& row, const char* section) { add_flag(table, row, section); };
  static const std::vector<OptionRow> shared = shared_options();
  for (const OptionRow& row : shared)
    add(row, "Losses on routing, instead of the router's own weights; updates of experts");
  static std::deque<std::string> sections;  // flags point into it
  for (const RouterRow& router : router_registry())
    for (const OptionRow& row : router.options)
      add(row, sections.emplace_back(fmt::format("Router {}", router.name)).c_str());
  return table;
}

}  // namespace

const std::vector<Flag>& flags() {
  constexpr auto all = Flag::kAll, run_all = Flag::kRunAll, train = Flag::kTrainOnly;
  static const std::vector<Flag> table = with_routing(with_data({
      {"study", &O::study, kNone, "a built-in study or the file of another one (docs/studies.md)", all,
       "What is run"},
      {"configs", &O::configs, kNone, "its configurations, separated by commas, or all", run_all},
      {"cells", &O::cells, kNone, "of a study with a grid: its recipes, separated by commas, all, or chosen",
       run_all},
      {"config", &O::config, kNone, "the configuration", train},
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
      {"out", &O::out, kNone,
       "result folder; finished runs in it are skipped, unfinished ones resumed; where a study, data or a preset is "
       "typed its name has them: results-small"},
      {"fresh", &O::fresh, kNone, "on: begin the asked runs anew, whatever is in the result folder"},
      {"jobs", &O::jobs, kNone,
       "runs side by side; 0: two on each GPU; on a CPU one, or with --preset quick one a core", run_all},
      {"threads", &O::threads, kNone, "CPU threads of each run; 0: all cores shared by the runs side by side"},
      {"graphs", &O::graphs, kNone, "replay each training step as a CUDA graph"},
      {"lazy-embedding", &O::lazy_embedding, kNone,
       "update a word's row when it is read, not in every step; the bits of one rank are the same"},
      {"check-finite", &O::check_finite, kNone,
       "on: name the first op whose output is not finite (slow, no CUDA graphs); also GLIA_CHECK_FINITE=1"},
      {"bucket", &O::bucket, kNone, "tokens of a batch are rounded up to this; 0: 128 on a GPU, 32 on a CPU"},
      {"ranks", &O::ranks, kNone,
       "who share each step: 0: the processes that mpirun or srun started; else so many, threads where no launcher is, a GPU "
       "each (docs/scaling.md)",
       train},
      {"expert-parallel", &O::expert_parallel, kNone,
       "ranks over which each layer's experts are divided: tokens travel to them (docs/scaling.md)", train},
      {"shard-optimiser", &O::shard_optimiser, kNone,
       "each rank keeps and updates its part of AdamW's moments (docs/scaling.md)", train},
      {"rank-timeout", &O::rank_timeout, kNone, "seconds without an answer after which a rank counts as lost",
       train},
      {"checkpoint-seconds", &O::checkpoint_seconds, kNone, "time between checkpoints"},
      {"checkpoint-every", &O::checkpoint_every, kNone, "steps between checkpoints; 0: by time"},
      {"trace-rows", &O::trace_rows, kNone,
       "at each evaluation keep the routing of so many test rows, for router saturation (tools/analyse); 0: none"},
      {"progress", &O::progress, kNone, "live, lines, off, or auto: live on a terminal"},
      {"estimate", &O::estimate, kNone, "measure a few steps first and say how long it takes"},
      {"dry-run", &O::dry_run, kNone, "on: say what would be run and how long it takes, and stop"},
      {"report", &O::report, kNone, "on: pictures, report.html and TensorBoard events beside the tables"},
      {"tensorboard-times", &O::tensorboard_times, kNone,
       "steps: a second a step, so that equal runs have equal bytes; real: when it was"},

      {"layers", &O::layers, kModel, "encoder layers L", all, "Model"},
      {"hidden", &O::hidden, kModel, "hidden size H"},
      {"heads", &O::heads, kModel, "attention heads A"},
      {"ffn", &O::ffn, kModel, "FFN size F, of each expert too"},
      {"experts", &O::experts, kModel, "experts E of each layer"},
      {"top-k", &O::top_k, kModel, "experts K a token"},
      {"encoder", &O::encoder, kModel,
       "bert, or bag: the mean of word pieces' and n-grams' rows and a linear layer (fastText), --hidden wide"},
      {"ngrams", &O::ngrams, kModel,
       "of a bag: n-grams of at most so many word pieces; 1: none beside single ones"},
      {"ngram-buckets", &O::ngram_buckets, kModel, "of a bag: rows of each table that n-grams are hashed into"},
      {"dropout", &O::dropout, kModel, "dropout, hidden and attention"},
      {"position-encoding", &O::position_encoding, kModel,
       "how a row knows its place: learned, a row of a table each, or rotary, which turns queries and keys"},
      {"norm", &O::norm, kModel, "where layers have their norms: post, as BERT, or pre, as GPT-2"},
      {"router", &O::router, kNone, "a router of the registry, or none: instead of the configuration's", train},
      {"balance", &O::balance, kNone, "weight α of the balance loss; below 0: the configuration's", train},
      {"energy", &O::energy, kNone, "weight β of the energy loss; below 0: the configuration's", train},
      {"last-layer-cls", &O::last_layer_cls, kNone,
       "run the last layer's experts on CLS rows only, which is exact"},
      {"init", &O::init, kTrain,
       "weights to start from: a Hugging Face folder, a file of weights, a run's or export's folder, or run:NAME, a run of "
       "this study (run:FOLDER/NAME: of another result folder)"},
      {"init-noise", &O::init_noise, kTrain,
       "standard deviation of the noise on each expert's copy of the pretrained FFN"},
      {"init-layers", &O::init_layers, kNone, "only so many of the pretrained layers, from below; 0: all of them"},

      {"epochs", &O::epochs, kTrain, "epochs", all, "Training"},
      {"max-steps", &O::max_steps, kTrain, "stop after so many steps; 0: all epochs"},
      {"task", &O::task, kTrain,
       "classification; masked_lm: words that are masked (BERT's first pretraining task); or causal_lm: each token's next "
       "one, from those before it"},
      {"mask-rate", &O::mask_rate, kTrain, "masked_lm: share of the word pieces that are to be predicted"},
      {"freeze", &O::freeze, kTrain,
       "parameters that are not trained: patterns on their names with * and ?, {last} for the last layer's number, separated "
       "by commas"},
      {"train", &O::train, kTrain, "exceptions to --freeze; without it, all that is trained"},
      {"lr-of", &O::lr_of, kTrain, "learning rates of their own: PATTERN=VALUE, …; of several the last counts"},
      {"weight-decay-of", &O::weight_decay_of, kTrain, "weight decay likewise, of parameters that decay"},
      {"loss-scale", &O::loss_scale, kTrain,
       "what the weights of all losses but the task's are multiplied by: a router's own losses, weaker or stronger"},
      {"batch", &O::batch, kTrain, "sequences of a step"},
      {"reduction", &O::reduction, kTrain,
       "order of sums over ranks: fast, or exact: the same bits whatever the number of processes", train},
      {"chunks", &O::chunks, kTrain,
       "with --reduction exact: parts of each batch, one tree over which all sums follow", train},
      {"micro-batches", &O::micro_batches, kTrain,
       "parts of a step that run one after another, for memory; losses on routing are each part's own"},
      {"lr", &O::lr, kTrain, "learning rate of AdamW"},
      {"warmup", &O::warmup, kTrain, "steps of linear warm-up; below 1: that part of all steps"},
      {"weight-decay", &O::weight_decay, kTrain, "on everything but biases and norms"},
      {"clip", &O::clip, kTrain, "global gradient norm; 0: no clipping"},
      {"adam-state", &O::adam_state, kTrain,
       "AdamW's two moments: float32, or bfloat16, rounded at random: 4 bytes a weight less and a faster update"},
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
  }));
  return table;
}

std::string json_key(const std::string& flag) {
  std::string key = flag;
  std::replace(key.begin(), key.end(), '-', '_');
  return key;
}

const Flag& find_flag(const std::string& name) {
  for (const Flag& flag : flags())
    if (name == flag.name) return flag;
  fail_input("unknown flag --{}; --help lists them all", name);
}

std::string value_text(const Options& options, const Flag& flag) {
  if (const auto* row = std::get_if<const OptionRow*>(&flag.member)) {
    const auto found = options.routing.all().find(flag.name);
    return option_text(found == options.routing.all().end() ? (*row)->standard : found->second);
  }
  return std::visit(
      [&](auto member) -> std::string {
        if constexpr (std::is_same_v<decltype(member), const OptionRow*>) return "";  // above
        else if constexpr (std::is_same_v<decltype(member), bool Options::*>) return options.*member ? "on" : "off";
        else return fmt::format("{}", options.*member);
      },
      flag.member);
}

void set_value(Options& options, const Flag& flag, const std::string& text) {
  const auto assign = [&](auto& value) {
    using T = std::decay_t<decltype(value)>;
    if constexpr (std::is_same_v<T, std::string>) value = text;
    else if constexpr (std::is_same_v<T, bool>) value = parse_switch(flag, text);
    else if constexpr (std::is_same_v<T, int64_t>) value = parse_number<T>(flag, text, "a whole number");
    else value = parse_number<T>(flag, text, "a number");
  };
  std::visit(
      [&](auto member) {
        if constexpr (std::is_same_v<decltype(member), const OptionRow*>)
          options.routing.set(flag.name, parse_option(*member, text));
        else assign(options.*member);
      },
      flag.member);
}

nlohmann::ordered_json to_json(const Options& options, Flag::Part part) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  for (const Flag& flag : flags())
    if (flag.part == part)
      std::visit(
          [&](auto member) {
            // A router's options are kept by the runs that have it (run_config).
            if constexpr (!std::is_same_v<decltype(member), const OptionRow*>) {
              if constexpr (std::is_same_v<decltype(member), std::string Options::*>)
                json[json_key(flag.name)] = utf8::escaped(options.*member);
              else json[json_key(flag.name)] = options.*member;
            }
          },
          flag.member);
  return json;
}

CommandLine parse_command_line(int argc, const char* const* argv, Flag::Programs programs,
                               const std::string& description) {
  CommandLine line;
  CLI::App app(description);
  app.get_formatter()->column_width(34);
  std::string section;
  const auto set = [&line](const Flag& flag, const std::string& text) {
    set_value(line.options, flag, text);
    line.given.insert(flag.name);
  };
  for (const Flag& flag : flags()) {
    if (!(flag.programs & programs)) continue;
    if (flag.section) section = flag.section;
    const bool is_switch = std::holds_alternative<bool O::*>(flag.member);
    app.add_option_function<std::string>(
           std::string("--") + flag.name,
           [&set, &flag, is_switch](const std::string& text) {
             set(flag, is_switch && text.empty() ? "on" : text);
           },
           fmt::format("{} [{}]", flag.help, value_text(Options{}, flag)))
        ->group(section)
        ->expected(is_switch ? 0 : 1, 1)  // a bare switch is on
        ->take_last()                     // a flag that is typed twice: the later one counts
        ->type_name("");
    if (is_switch)
      app.add_flag_callback(std::string("--no-") + flag.name, [&set, &flag] { set(flag, "off"); })
          ->group("");  // not listed: the help's last line says it
  }
  app.footer("A switch takes on or off, or stands alone: --dry-run is --dry-run on, --no-report is --report off.");
  const std::string path = argv[0];
  line.done = !parse_flags(app, path.substr(path.rfind('/') + 1), argc, argv, flag_choices);
  return line;
}

// Bytes that are no text are shown, not kept.
std::string quoted_word(const std::string& given) {
  const std::string word = utf8::escaped(given);
  if (!word.empty() && word.find_first_of(" \t\n\"'$\\*?;&|<>()[]{}!`~#") == std::string::npos) return word;
  std::string text = "'";
  for (const char c : word) text += c == '\'' ? "'\\''" : std::string(1, c);
  return text + "'";
}

std::string command_text(int argc, const char* const* argv) {
  std::string text;
  for (int i = 0; i < argc; ++i) text += (i ? " " : "") + quoted_word(argv[i]);
  return text;
}

std::string echo(const Options& options) {
  std::string text;
  const Options defaults;
  for (const Flag& flag : flags()) {
    const std::string value = value_text(options, flag);
    if (value != value_text(defaults, flag))
      text += fmt::format("{}--{} {}", text.empty() ? "" : " ", flag.name, quoted_word(value));
  }
  return text;
}

namespace {

struct Bound {
  const char* name;
  int64_t value;
  double least, most;
};

// Beyond these no machine goes; below them the memory decides (check_memory).
std::vector<Bound> bounds(const Options& o) {
  const double threads = std::max(256, 4 * omp_get_num_procs()), steps = 1e12;
  return {{"layers", o.layers, 1, 1000},
          {"hidden", o.hidden, 1, 1 << 17},
          {"heads", o.heads, 1, 1 << 17},
          {"ffn", o.ffn, 1, 1 << 20},
          {"experts", o.experts, 1, 1 << 16},
          {"top-k", o.top_k, 1, 1 << 16},
          {"init-layers", o.init_layers, 0, 1000},
          {"ngrams", o.ngrams, 1, 16},
          {"ngram-buckets", o.ngram_buckets, 1, 1 << 28},
          {"epochs", o.epochs, 1, 1e6},
          {"batch", o.batch, 1, 1 << 20},
          {"micro-batches", o.micro_batches, 1, 1 << 20},
          {"eval-batch", o.eval_batch, 1, 1 << 20},
          {"log-every", o.log_every, 1, steps},
          {"jobs", o.jobs, 0, threads},
          {"threads", o.threads, 0, threads},
          {"bucket", o.bucket, 0, 1 << 20},
          {"ranks", o.ranks, 0, 1 << 14},
          {"chunks", o.chunks, 2, 1 << 10},
          {"expert-parallel", o.expert_parallel, 1, 1 << 14},
          {"checkpoint-every", o.checkpoint_every, 0, steps},
          {"trace-rows", o.trace_rows, 0, 1e9},
          {"max-steps", o.max_steps, 0, steps},
          {"eval-every", o.eval_every, 0, steps},
          {"utilisation-rows", o.utilisation_rows, 0, 1e9}};
}

// A model that is far beyond the memory is refused before anything of it is made. A lower bound: weights, gradients,
// two moments and the best model so far, 4 bytes each. A GPU's memory is not known here; none has a terabyte.
void check_memory(const Options& o) {
  const auto real = [](int64_t n) { return static_cast<double>(n); };
  const double h = real(o.hidden), layer = 4 * h * h + 2 * real(o.experts) * h * real(o.ffn);
  const double bytes = 20 * real(o.layers) * layer;
  const bool gpu = o.device.starts_with("cuda");
  const double memory = gpu ? 1e12 : static_cast<double>(sysconf(_SC_PHYS_PAGES)) * real(sysconf(_SC_PAGE_SIZE));
  if (bytes > 2 * memory)
    fail_input("--layers, --hidden, --ffn, --experts: a model of at least {:.0f} GB, and {} {:.0f} GB", bytes / 1e9,
               gpu ? "no GPU has" : "this machine has", memory / 1e9);
}

}  // namespace

void check_options(const Options& o) {
  const auto want = [](bool good, const char* name, const char* wanted, const auto& got) {
    if (!good) fail_input("--{}: expected {}, got '{}'", name, wanted, got);
  };
  check_data_options(o);
  check_choices(o);
  want(o.gradients == "float32" || o.precision == "bfloat16", "gradients", "float32 with --precision float32",
       o.gradients);
  for (const Bound& bound : bounds(o)) {
    const OptionRow row{bound.name, int64_t{0}, "", bound.least, bound.most};
    check_option(row, bound.value);
  }
  const std::string lengths =
      fmt::format("3 … {}{}", o.positions, o.positions == 512 ? "" : ", the weights' positions");
  want(o.max_length >= 3 && o.max_length <= o.positions, "max-length", lengths.c_str(), o.max_length);
  check_memory(o);
  want(o.hidden % o.heads == 0, "heads", "a divisor of --hidden", o.heads);
  if (o.position_encoding == "rotary") {
    want(find_task(o.task).causal(), "position-encoding", "learned with this --task, whose encoder is BERT's",
         o.position_encoding);
    want(o.hidden / o.heads % 2 == 0, "position-encoding", "learned where --hidden / --heads is odd",
         o.position_encoding);
  }
  want(o.top_k <= o.experts, "top-k", "at most --experts", o.top_k);
  want(o.dropout >= 0 && o.dropout < 1, "dropout", "0 … below 1", o.dropout);
  find_task(o.task);
  want(o.encoder != "bag" || o.task == "classification", "encoder", "bert with this --task", o.encoder);
  want(o.mask_rate > 0 && o.mask_rate < 1, "mask-rate", "a number between 0 and 1", o.mask_rate);
  want(o.loss_scale >= 0, "loss-scale", "0 or more", o.loss_scale);
  want(o.lr > 0, "lr", "a positive number", o.lr);
  want(o.warmup >= 0, "warmup", "0 or more", o.warmup);
  want(o.weight_decay >= 0, "weight-decay", "0 or more", o.weight_decay);
  want(o.clip >= 0, "clip", "0 or more", o.clip);
  want(o.init_noise >= 0, "init-noise", "0 or more", o.init_noise);
  want(o.checkpoint_seconds >= 0, "checkpoint-seconds", "0 or more", o.checkpoint_seconds);
  want(o.rank_timeout > 0, "rank-timeout", "a positive number", o.rank_timeout);
  if (o.reduction == "exact" && o.ranks > 0)
    fail_input("--ranks: expected --chunks instead, with --reduction exact, got '{}'", o.ranks);
  if (o.select == "validation" && o.validation_fraction == 0)
    fail_input("--select validation: wants --validation-fraction above 0");
  want(o.name.find('/') == std::string::npos && o.name != "." && o.name != "..", "name",
       "a folder's name, not a path", o.name);
  if (o.out.empty()) fail_input("--out: expected a folder, got ''");
  if (std::error_code none; std::filesystem::exists(o.out, none) && !std::filesystem::is_directory(o.out, none))
    fail_input("--out {}: expected a folder, found a file", o.out);
}

void check_batch(const Options& o, int64_t ranks) {
  if (o.batch % o.micro_batches != 0)
    fail_input("--micro-batches: expected a divisor of --batch, got '{}'", o.micro_batches);
  if (o.batch / o.micro_batches < ranks)
    fail_input("--batch: expected a sequence for each of {} ranks in each micro-batch, got {}", ranks,
               o.batch / o.micro_batches);
}

std::vector<int> parse_seeds(const std::string& text) {
  const auto number = [&](const std::string& part) {
    int value = -1;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), value);
    if (error != std::errc{} || end != part.data() + part.size() || part.empty() || value < 0 || value > 100000)
      fail_input("--seeds: expected a number of seeds (5), a list (0,2) or a range (3-5), up to 100000, got '{}'",
                 text);
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

}  // namespace glia
