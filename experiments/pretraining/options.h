// What a person can choose about pretraining: flags of its own, and those of ./experiments/train that mean the same here.
#pragma once

#include "data/datasets/corpus.h"
#include "experiments/training/options.h"

namespace glia {

struct PretrainOptions : Options {
  PretrainOptions();  // Options with the defaults that pretraining wants

  std::string size = "auto";  // --preset
  int64_t seed = 42;
  std::string corpus, layout = kNoLayout;
  bool training_texts = true;
  int64_t overlap_words = 8, max_documents = 0;
  double held_out = 0.01;
  int64_t steps = 0;
  double minutes = 0;
  int64_t tokens = 65536;
  double ramp = 0;
  double joint = 0;
  std::string schedule = "linear";
  double beta1 = 0.9, beta2 = 0.98, eps = 1e-6;
  std::string dump;
};

struct PretrainOption {
  using P = PretrainOptions;
  using Member = std::variant<std::string P::*, int64_t P::*, double P::*, bool P::*>;
  OptionRow row;  // its default is the member's
  Member member;
  bool kept;  // says what is computed: a run is resumed with the same value only
};
const std::vector<PretrainOption>& pretrain_options();  // pretraining's own
// The flags of ./experiments/train that it has too.
std::vector<const Flag*> shared_flags();

struct PretrainCommand {
  PretrainOptions options;
  bool done = false;  // --help was asked for and printed
};
// Parses, fills in device, preset and precision, checks: what cannot be done is an error of one line.
PretrainCommand parse_pretrain(int argc, const char* const* argv);

CorpusOptions corpus_options(const PretrainOptions& options);
// All of pretraining's own flags: what echo() has of the others. Processes that share a run have the same.
std::string echo_own(const PretrainOptions& options);
// All that says what is computed, by its keys; --minutes is not in it, the number of steps that it became is.
nlohmann::ordered_json identity_of(const PretrainOptions& options);

}  // namespace glia
