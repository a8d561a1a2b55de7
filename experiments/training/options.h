// Everything a person can choose, in one table of flags {name, member, help}: it drives parsing, --help, the echo
// at the start and what config.json keeps. A flag that was not given takes its value from the study's configuration,
// then from the study, the protocol, the preset, and the default written at the member.
#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "data/datasets/options.h"
#include "engine/core/command_line/options.h"

namespace glia {

struct Options : DatasetOptions {  // what is said about data stands there
  // what is run
  std::string study = "ahr", configs = "all", cells = "all", config = "astrocyte-hierarchical", name;
  std::string seeds = "2", protocol = "clean", preset = "auto";
  // where and how
  std::string device = "auto", precision = "auto", gradients = "auto", kernels = "auto", out = "results",
              progress = "auto", tensorboard_times = "steps";
  int64_t jobs = 0, threads = 0, bucket = 0, ranks = 0;
  bool graphs = true, lazy_embedding = true, fresh = false, dry_run = false, estimate = true, report = true;
  bool check_finite = false, shard_optimiser = false;
  double checkpoint_seconds = 60, rank_timeout = 25;
  int64_t checkpoint_every = 0, trace_rows = 0, expert_parallel = 1;
  // model
  int64_t layers = 4, hidden = 512, heads = 8, ffn = 2048, experts = 8, top_k = 2;
  std::string encoder = "bert";
  int64_t ngrams = 2, ngram_buckets = 131072;  // of a bag
  double dropout = 0.1;
  std::string router;                // "": the configuration's
  double balance = -1, energy = -1;  // below 0: the configuration's
  double loss_scale = 1;             // times all losses but the task's
  OptionValues routing;              // options of routers and weights of losses, where given (moe/mixture.h)
  bool last_layer_cls = true;
  std::string init;
  double init_noise = 1e-4;
  int64_t init_layers = 0;
  std::string norm = "post";
  std::string position_encoding = "learned";
  // What only --init's weights can say otherwise (shape_by_weights); no flags.
  int64_t positions = 512, types = 2;
  double norm_eps = 1e-12;
  // training
  std::string task = "classification";
  double mask_rate = 0.15;
  std::string freeze, train, lr_of, weight_decay_of;
  int64_t epochs = 6, max_steps = 0, batch = 192, micro_batches = 1, eval_batch = 384, eval_every = 250,
          log_every = 50, chunks = 8;
  std::string reduction = "fast", adam_state = "float32";
  double lr = 5e-5, warmup = 500, weight_decay = 0.01, clip = 1.0;
  // what the two protocols differ in (docs/science.md 6)
  std::string padding = "packed", select = "validation";
  bool second_residual = false;
  int64_t utilisation_rows = 0;

  std::set<std::string> typed;  // flags of the command line: they win over what a study sets
};

struct Flag {
  // A row: the value lies in Options::routing, under the row's name.
  using Member = std::variant<std::string Options::*, int64_t Options::*, double Options::*, bool Options::*,
                              const OptionRow*>;
  // Which part of config.json keeps it; kNone: it may not change a result, so runs may differ in it.
  enum class Part { kNone, kData, kModel, kTrain, kProtocol };
  enum Programs { kAll = 3, kRunAll = 1, kTrainOnly = 2 };

  const char* name;  // "eval-every"; the key in JSON has "_" for "-"
  Member member;
  Part part;
  const char* help;
  Programs programs = kAll;
  const char* section = nullptr;  // heading in --help, on its first flag
};

const std::vector<Flag>& flags();
const Flag& find_flag(const std::string& name);  // an unknown name is an error

std::string value_text(const Options& options, const Flag& flag);
// Errors name the flag, what was expected and what came.
void set_value(Options& options, const Flag& flag, const std::string& text);
nlohmann::ordered_json to_json(const Options& options, Flag::Part part);

struct CommandLine {
  Options options;
  std::set<std::string> given;  // the flags that were typed
  bool done = false;            // --help was asked for and printed
};

// Throws Error for unknown flags and bad values. `programs` chooses the flags.
CommandLine parse_command_line(int argc, const char* const* argv, Flag::Programs programs,
                               const std::string& description);

// A word of a command, as a shell takes it for one: a path with spaces in quotes.
std::string quoted_word(const std::string& word);
// The command as it was typed.
std::string command_text(int argc, const char* const* argv);
// "--batch 32 --lr 0.0005 …": all flags whose value is not the built-in default.
std::string echo(const Options& options);

// What a flag's text may be, where that is a list: for the shell's completion. Empty: anything.
std::vector<std::string> flag_choices(const std::string& name);
// Of those that are no registry's rows; the error lists them.
void check_choices(const Options& options);
// Ranges and combinations, before anything is computed; check_choices first.
void check_options(const Options& options);
// That --batch has a sequence for each rank in each of --micro-batches. Pretraining has no --batch: each of its micro-batches is
// one of --tokens places, and a rank may have none of its pieces.
void check_batch(const Options& options, int64_t ranks = 1);

// "5": seeds 0…4; "0,2,7" and "3-5": these. Errors for anything else.
std::vector<int> parse_seeds(const std::string& text);
// The key of a flag in config.json: "eval-every" → "eval_every".
std::string json_key(const std::string& flag);

}  // namespace glia
