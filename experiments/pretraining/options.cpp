#include "experiments/pretraining/options.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <span>

#include "data/datasets/layouts.h"
#include "engine/core/check.h"
#include "engine/core/command_line/manual.h"
#include "engine/device/context.h"
#include "experiments/studies/study.h"
#include "experiments/tasks/task.h"
#include "experiments/training/presets.h"
#include "experiments/training/pretrained.h"

namespace glia {
namespace {

using P = PretrainOptions;

template <class T>
PretrainOption option(const char* name, T P::*member, bool kept, const char* help,
                      double least = -std::numeric_limits<double>::infinity(),
                      double most = std::numeric_limits<double>::infinity(),
                      std::vector<const char*> choices = {}) {
  return {{name, OptionValue(P{}.*member), help, least, most, std::move(choices)}, member, kept};
}

OptionValue value_of(const P& o, const PretrainOption& option) {
  return std::visit([&](auto member) { return OptionValue(o.*member); }, option.member);
}

void set_own(P& o, const PretrainOption& option, const std::string& text) {
  const OptionValue value = parse_option(option.row, text);
  std::visit([&](auto member) { o.*member = std::get<std::decay_t<decltype(o.*member)>>(value); }, option.member);
}

std::vector<const char*> layout_names() {
  std::vector<const char*> names = {kNoLayout};
  for (const LayoutRow& row : layout_registry()) names.push_back(row.name);
  return names;
}

// Sizes by name, as the presets of ./experiments/train.
const FlagSet kSizes[] = {
    {"quick",
     "the loss falls within a minute on two CPU cores",
     {{"layers", "2"},
      {"hidden", "64"},
      {"heads", "4"},
      {"ffn", "128"},
      {"max-length", "64"},
      {"tokens", "1024"},
      {"steps", "600"},
      {"lr", "0.003"},
      {"vocab-size", "2000"},
      {"held-out", "0.05"},
      {"log-every", "25"},
      {"eval-every", "150"}}},
    {"full", "the paper's encoder, as good as seven minutes of a large GPU make it", {{"minutes", "6.67"}}},
};

void set_by_name(P& o, const std::string& name, const std::string& text) {
  for (const PretrainOption& own : pretrain_options())
    if (name == own.row.name) return set_own(o, own, text);
  set_value(o, find_flag(name), text);
}

void apply_size(P& o, const std::set<std::string>& given) {
  for (const FlagSet& size : kSizes)
    if (o.size == size.name) {
      const bool length = given.contains("steps") || given.contains("minutes");
      for (const auto& [flag, value] : size.values) {
        const bool of_length = std::string_view(flag) == "steps" || std::string_view(flag) == "minutes";
        if (!given.contains(flag) && !(length && of_length)) set_by_name(o, flag, value);
      }
      return;
    }
  CHECK(false, "pretrain: no size '{}'", o.size);
}

// A layout says itself what is held out, and has no other text beside it.
void settle_layout(P& o, const std::set<std::string>& given) {
  if (o.layout == kNoLayout) return;
  for (const char* name : {"held-out", "overlap-words", "max-documents"})
    if (given.contains(name))
      fail_input("--{}: expected none with --layout {}, which says itself what is held out", name, o.layout);
  constexpr const char* kRead[] = {"vocab", "lowercase", "max-length", "prompt", "cache"};
  for (const DataOption& data : data_options())
    if (given.contains(data.row.name) &&
        std::ranges::find(kRead, std::string_view(data.row.name)) == std::end(kRead))
      fail_input("--{}: not read with --layout {}, beside whose text there is none", data.row.name, o.layout);
  if (!given.contains("training-texts")) o.training_texts = false;
}

void check(const P& o) {
  for (const PretrainOption& own : pretrain_options()) check_option(own.row, value_of(o, own));
  check_options(o);
  if (o.held_out <= 0 || o.held_out >= 1)
    fail_input("--held-out: expected a share between 0 and 1, got {}", o.held_out);
  if (o.beta1 >= 1 || o.beta2 >= 1)
    fail_input("--beta1, --beta2: expected numbers below 1, got {} and {}", o.beta1, o.beta2);
  if (find_task(o.task).targets == TaskRow::Targets::kLabels)
    fail_input("--task: expected one that predicts words, got {}", o.task);
  if (o.joint > 0 && find_task(o.task).targets != TaskRow::Targets::kMaskedWords)
    fail_input("--joint: expected a task that masks words, got --task {}", o.task);
  if (o.joint > 0 && !o.training_texts)
    fail_input("--joint: expected the data set's training texts, which have topics, got --training-texts off");
  if (o.joint > 0 && (o.ranks > 1 || o.reduction == "exact"))
    fail_input("--joint: expected one rank, got --ranks {} and --reduction {}", o.ranks, o.reduction);
  if (o.prompt == "title") fail_input("--prompt: expected none or sentence of running text, got title");
  if ((o.steps > 0) == (o.minutes > 0))
    fail_input("--steps, --minutes: expected one of them above 0, got {} and {}", o.steps, o.minutes);
  if (o.minutes > 0 && (o.ranks > 1 || o.reduction == "exact"))
    fail_input("--minutes: expected --steps where ranks share a run, got {}", o.minutes);
  if (o.tokens % o.bucket != 0)
    fail_input("--tokens: expected a multiple of --bucket {}, got {}", o.bucket, o.tokens);
  if (o.tokens < o.max_length)
    fail_input("--tokens: expected at least --max-length {}, got {}", o.max_length, o.tokens);
  if (o.warmup > 1) fail_input("--warmup: expected a share of the steps, at most 1, got {}", o.warmup);
}

void resolve(P& o, const std::set<std::string>& given) {
  o.typed = given;
  // What the configuration's study sets for it, as far as pretraining has it: experts a token, options of its router.
  std::vector<std::pair<std::string, std::string>> settings;
  const std::vector<const Flag*> shared = shared_flags();
  const Study study = find_study(o.study);
  for (const auto& setting : configuration_of(study, o.config).settings) {
    if (setting.first == "encoder" && setting.second != "bert")
      fail_input("--config {}: expected one whose encoder is bert, got {}, which has no words to predict", o.config,
                 setting.second);
    if (std::ranges::any_of(shared, [&](const Flag* flag) { return setting.first == flag->name; }))
      settings.push_back(setting);
  }
  apply_settings(o, settings);
  if (o.device == "auto") o.device = automatic_device();
  const bool gpu = Device::parse(o.device).is_cuda();
  if (o.precision == "auto") o.precision = gpu ? "bfloat16" : "float32";
  if (o.gradients == "auto") o.gradients = gpu ? o.precision : "float32";
  settle_data_options(o, given);
  if (o.size == "auto") o.size = gpu ? "full" : "quick";
  apply_size(o, given);
  // Half-way is the peak of a cycle; a warm-up is short.
  if (!given.contains("warmup")) o.warmup = o.schedule == "one-cycle" ? 0.5 : 0.05;
  shape_by_weights(o, given);
  if (o.init_layers > 0 && o.init.empty()) refuse_init_layers(o.init_layers);
  settle_layout(o, given);
  if (finite_check_wanted()) o.check_finite = true;
  // Every output is read back, or sums go through the host, which no capture can hold.
  if (o.check_finite || o.reduction == "exact") o.graphs = false;
  if (o.bucket == 0) o.bucket = gpu ? 128 : 32;
  check(o);
}

std::string shown(const std::string& help, const std::string& standard) {
  return standard.empty() ? help : fmt::format("{} [{}]", help, standard);
}

// What a shared flag means here: of two it is not what ./experiments/train says of them.
std::string help_of(const Flag& flag) {
  const std::string name = flag.name;
  if (name == "warmup") return "share of the steps over which the rate rises [0.05; with --schedule one-cycle 0.5]";
  if (name == "eval-every") return "steps between evaluations; 0: ten in all [0]";
  return shown(flag.help, value_text(P{}, flag));
}

}  // namespace

PretrainOptions::PretrainOptions() {
  config = "dense", task = "masked_lm", out = "pretrained";
  mask_rate = 0.2, dropout = 0, lr = 1e-3, eval_every = 0;
  report = false, select = "last";
}

const std::vector<PretrainOption>& pretrain_options() {
  constexpr double kMost = 1e12;
  static const std::vector<PretrainOption> table{
      option("corpus", &P::corpus, false,
             "text files, a document a line, or folders of them, separated by commas; .xz and .gz too"),
      option(
          "layout", &P::layout, true,
          "lines: a document a line; or what of a folder with published files is held out and what a token is: ptb, ptb-test "
          "(which holds the test part out), tinyshakespeare",
          -kMost, kMost, layout_names()),
      option("training-texts", &P::training_texts, true, "the data set's training texts are pretrained on too"),
      option("overlap-words", &P::overlap_words, true,
             "leave out documents that share so many words in a row with a test row; 0: none", 0, 1000),
      option("held-out", &P::held_out, true, "share of each source's documents that is held out", 0, 1),
      option("max-documents", &P::max_documents, true, "of each source; 0: all", 0, kMost),
      option("preset", &P::size, false, "quick, full, or auto: quick on a CPU", -kMost, kMost,
             {"auto", "quick", "full"}),
      option("seed", &P::seed, true, "of weights, order, borders and masks", 0, kMost),
      option("steps", &P::steps, false, "updates; 0: by --minutes", 0, kMost),
      option("minutes", &P::minutes, false,
             "of the clock, evaluations included, turned into steps by the rate that is measured first", 0, 1e6),
      option("tokens", &P::tokens, true, "places of a batch, all of them filled", 64, 1 << 24),
      option("ramp", &P::ramp, true, "share of the steps over which --micro-batches grow from one batch to all", 0,
             1),
      option(
          "schedule", &P::schedule, true,
          "linear: up from 0, down to 0; one-cycle: up from a quarter of the rate; --warmup says where the peak is",
          -kMost, kMost, {"linear", "one-cycle"}),
      option(
          "joint", &P::joint, true,
          "learn the data set's topics too, masked words weighing so much more than they (20: TLM); 0: words alone",
          0, 1e6),
      option("beta1", &P::beta1, true, "AdamW's decay of the mean gradient", 0, 1),
      option("beta2", &P::beta2, true, "AdamW's decay of its square", 0, 1),
      option("eps", &P::eps, true, "AdamW's epsilon", 1e-30, 1),
      option(
          "dump", &P::dump, false,
          "a folder to write the ids, the split, the held-out and the first training batches to, for other programs (tests/peer)"),
  };
  return table;
}

std::vector<const Flag*> shared_flags() {
  std::vector<const Flag*> shared;
  for (const char* name : {"config",
                           "device",
                           "precision",
                           "gradients",
                           "kernels",
                           "out",
                           "fresh",
                           "threads",
                           "ranks",
                           "expert-parallel",
                           "shard-optimiser",
                           "rank-timeout",
                           "graphs",
                           "check-finite",
                           "bucket",
                           "checkpoint-seconds",
                           "checkpoint-every",
                           "progress",
                           "layers",
                           "hidden",
                           "heads",
                           "ffn",
                           "experts",
                           "top-k",
                           "dropout",
                           "router",
                           "balance",
                           "energy",
                           "init",
                           "init-layers",
                           "norm",
                           "position-encoding",
                           "task",
                           "mask-rate",
                           "reduction",
                           "chunks",
                           "micro-batches",
                           "lr",
                           "warmup",
                           "weight-decay",
                           "clip",
                           "adam-state",
                           "eval-every",
                           "log-every"})
    shared.push_back(&find_flag(name));
  const auto absent = [](const std::string& name) { return name == "max-rows" || name == "max-test-rows"; };
  for (const DataOption& data : data_options())
    if (!absent(data.row.name)) shared.push_back(&find_flag(data.row.name));
  for (const Flag& flag : flags())
    if (std::holds_alternative<const OptionRow*>(flag.member)) shared.push_back(&flag);
  return shared;
}

PretrainCommand parse_pretrain(int argc, const char* const* argv) {
  PretrainCommand command;
  P& o = command.options;
  std::set<std::string> given;
  CLI::App app(
      "Pretraining: weights of one's own for --init and for transformers, or a language model, from any text.");
  app.get_formatter()->column_width(34);
  const auto add = [&](const char* name, bool is_switch, const std::string& help, const std::string& group,
                       auto set) {
    app.add_option_function<std::string>(
           std::string("--") + name,
           [set, &given, name, is_switch](const std::string& text) {
             set(is_switch && text.empty() ? "on" : text);
             given.insert(name);
           },
           help)
        ->group(group)
        ->expected(is_switch ? 0 : 1, 1)
        ->take_last()
        ->type_name("");
  };
  for (const PretrainOption& own : pretrain_options())
    add(own.row.name, std::holds_alternative<bool>(own.row.standard),
        shown(own.row.help, option_text(own.row.standard)), "Pretraining",
        [&o, &own](const std::string& text) { set_own(o, own, text); });
  std::string section = "Where and how";
  for (const Flag* flag : shared_flags()) {
    if (flag->section) section = flag->section;
    add(flag->name, std::holds_alternative<bool Options::*>(flag->member), help_of(*flag), section,
        [&o, flag](const std::string& text) { set_value(o, *flag, text); });
  }
  app.footer("Without --corpus the data set's training texts are the text.");
  command.done = !parse_flags(app, "pretrain", argc, argv, [](const std::string& name) {
    for (const PretrainOption& own : pretrain_options())
      if (name == own.row.name) return std::vector<std::string>(own.row.choices.begin(), own.row.choices.end());
    return flag_choices(name);
  });
  if (!command.done) resolve(o, given);
  return command;
}

CorpusOptions corpus_options(const PretrainOptions& o) {
  return {o, o.corpus, o.training_texts, o.overlap_words, o.held_out, o.max_documents, o.joint > 0, o.layout};
}

std::string echo_own(const PretrainOptions& o) {
  std::string text;
  for (const PretrainOption& own : pretrain_options())
    text +=
        fmt::format("{}--{} {}", text.empty() ? "" : " ", own.row.name, quoted_word(option_text(value_of(o, own))));
  return text;
}

nlohmann::ordered_json identity_of(const PretrainOptions& o) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  const P standard;
  // Runs from before there was a choice have none of these; whoever leaves them alone is as they were.
  const auto later = [](std::string_view name) {
    return std::ranges::count(
               std::initializer_list<std::string_view>{"joint", "layout", "task", "norm", "prompt",
                                                       "position-encoding", "adam-state", "init-layers"},
               name) > 0;
  };
  for (const PretrainOption& own : pretrain_options())
    if (own.kept && !(later(own.row.name) && value_of(o, own) == value_of(standard, own)))
      std::visit([&](const auto& v) { json[option_key(own.row.name)] = v; }, value_of(o, own));
  // Where and how a run goes on changes no bit of it.
  for (const Flag* flag : shared_flags()) {
    const std::string name = flag->name;
    const bool matters =
        flag->part == Flag::Part::kData || flag->part == Flag::Part::kModel || flag->part == Flag::Part::kTrain ||
        flag->part == Flag::Part::kProtocol ||
        std::ranges::count(std::initializer_list<std::string_view>{"config", "router", "balance", "energy",
                                                                   "precision", "gradients", "bucket"},
                           std::string_view(name)) > 0;
    const auto* row = std::get_if<const OptionRow*>(&flag->member);
    if (o.reduction == "fast" && (name == "reduction" || name == "chunks")) continue;  // as the later ones
    if (later(name) && value_text(o, *flag) == value_text(standard, *flag)) continue;
    if (matters || (row && o.routing.contains(name))) json[json_key(name)] = value_text(o, *flag);
  }
  return json;
}

}  // namespace glia
