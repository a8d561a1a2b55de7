// What experts are for, asked by experiment and not by counting (docs/analysis.md): a saved model predicts its test rows
// again without an expert, with a topic's busiest ones alone, without each token's first choice. A classifier is judged by its accuracy, a
// language model by what its words cost.
#pragma once
#include "experiments/analysis/report/analysis_report.h"
#include "experiments/records/predictions.h"
#include "experiments/training/evaluation.h"

namespace glia {

// Which experts may be chosen, [L] of [E]; empty: all.
using Allowed = std::vector<std::vector<char>>;

// The classes that the model predicts for the evaluator's rows, in their order. Where the router adds a bias to its logits
// (parameter "….router.token.bias"), a forbidden expert's is −1e9, and so is what else is added to its claim (load_bias,
// subset.bias), so that the router chooses as if it were not there; elsewhere, and where the next layer's router reads the
// logits, tokens keep their other experts and lose what it gave them.
using results::Predictions;
// An error where the task predicts words.
Predictions predict(Model& model, const Evaluator& evaluator, const Allowed& allowed = {});
bool masks_logits(const Model& model);  // the first of the two ways

struct Causal {
  // What the values below are: accuracies, nats a word, or nats a masked piece of a word (the losses as in eval.json). What is lost
  // without an expert is positive where the model is worse for it, in each of them.
  enum class Measure { kAccuracy, kNatsAWord, kNatsAPiece } measure = Measure::kAccuracy;
  bool masked = false;                         // masks_logits()
  int64_t rows = 0;                            // sequences
  std::vector<std::string> topics;             // [C]
  double whole = 0;                            // of the model as it is
  std::vector<double> topic_whole;             // [C]; NaN for a topic without rows
  std::vector<std::vector<double>> lost;       // [L][E] what is lost without the expert; below 0: gained
  std::vector<results::Matrix> lost_by_topic;  // [L] of [C, E]
  std::vector<int> kept;                       // numbers of experts m: 1, 2, 4, … E
  results::Matrix kept_alone;  // [C, m] of a topic's rows with its m busiest experts of each layer alone
  double without_first = 0, first_alone = 0;  // without each token's largest gate, with it alone
};

// `utilisation` [L] of [C, E] says which experts are a topic's busiest.
Causal knock_out(Model& model, const Evaluator& evaluator, const TokenSplit& split, const Options& options,
                 const Vocabulary& vocabulary, const std::vector<results::Matrix>& utilisation,
                 const std::vector<std::string>& topics);

results::Json to_json(const Causal& causal);
std::vector<results::Table> causal_tables(const Causal& causal);
// What is lost, topics × experts: points of accuracy, or nats.
drawing::Picture lost_picture(const Causal& causal);

}  // namespace glia
