// Losses on routing: rows of a table, each attached to any router that offers what it reads, with a weight option a
// number. Returned unweighted with their weights, and counted over real rows only. To add one: a row in losses.cpp;
// flags, config.json and the training log follow.
//
// A loss that is formed after the head, from the task's loss of each row, has no row here: it is one more term of
// Model::forward's sum, which holds routings and logits at once.
#pragma once
#include <map>
#include <memory>

#include "moe/oracle.h"
#include "moe/router.h"

namespace glia {

// The chosen experts' outputs before they are combined: row dispatch.row_of[t, k] of `outputs` is what expert
// experts[t, k] says of token t.
struct ExpertPairs {
  Var outputs;  // [N, H]
  Dispatch dispatch;
};

struct LossInputs {
  const Routing& routing;
  const RoutingInputs& in;
  const ExpertPairs* pairs;     // where a loss of weight other than 0 reads them, or nullptr
  const OptionValues& options;  // loss_weights(): of the row's table too
};

// What a loss reads beside gates and scores. Only routers and mixtures that have it may weigh such a loss.
enum class LossReads {
  kRouting,
  kCounted,  // and in training what the step's earlier micro-batches had (RoutingInputs::counted)
  kMatrix,   // Routing::matrix
  kExperts,  // that, and the experts' weights
  kOutputs,  // the pairs' outputs
};

struct LossRow {
  std::vector<std::string> names;  // in the log, one a number: {"balance", "energy"}
  std::vector<OptionRow> weights;  // their weights' flags, likewise
  bool always;                     // reported though all weights are 0
  const char* formula;
  const char* source;
  const char* differs;                     // from the source, and why; "": in nothing
  Var (*compute)(const LossInputs& from);  // [names.size()]
  std::vector<double> (*oracle)(const OracleRouting& routing, int64_t n_experts, int64_t per_token);
  LossReads reads = LossReads::kRouting;
  // Over several ranks: of all layers, so that what they sum over the ranks travels together; nullptr: each for itself.
  std::vector<Var> (*of_layers)(const std::vector<LossInputs>& layers) = nullptr;
  std::vector<OptionRow> options = {};  // beside the weights: numbers of the formula
  bool of_matrix() const { return reads == LossReads::kMatrix || reads == LossReads::kExperts; }
};

const std::vector<LossRow>& loss_registry();

// The flags of all weights but balance and energy, which MoeConfig has as members: configurations set those two.
std::vector<OptionRow> further_loss_weights();
// Those of losses that this router has what they read for.
std::vector<OptionRow> further_loss_weights(const RouterRow& router);
// Each followed by the other options of its loss.
std::vector<OptionRow> further_loss_options();
std::vector<OptionRow> further_loss_options(const RouterRow& router);

// The weights of a router's losses: the row's defaults, then what `given` sets; every flag of the table is in it, other
// options of the losses too. Errors: a weight other than 0 of a loss that reads what the router does not offer; another
// option, not as usual, of a loss whose weights are all 0.
OptionValues loss_weights(const RouterRow& router, const OptionValues& given);
// Of that loss without ranks and earlier micro-batches.
std::vector<double> switch_oracle(const OracleRouting& routing, int64_t n_experts, int64_t per_token);

bool several_ranks(const Var& x);
// A mean over this rank's rows, as its part of the mean over the rows of all.
Var over_ranks(const Var& mean, const Sequences& sequences);
// The mean over the sequences of all ranks that have rows.     x [B], finite → [1]
Var mean_of_sequences(const Var& x, const Sequences& sequences);
// load_losses() of the rows of all ranks.
Var load_losses_of(const Var& gates, const Tensor& experts, int64_t n_experts, const Sequences& sequences);
// [E, E]
Tensor identity(Context& context, int64_t n, DType dtype);

// E · Σ_e f_e P_e with f_e = counts_e / (T · per_token), P the rows' softmax; over several ranks of the rows of all, and
// then this rank's part.     scores [T, E], counts [E] of this rank
Var switch_loss_of(const Var& scores, Tensor counts, int64_t per_token, const Sequences& sequences);

// The losses of a pass over several ranks, which are formed behind its last layer. To outlive what it gave (AuxiliaryLosses::later).
struct KeptInputs;
class LaterLosses {
 public:
  // The inputs of one more layer. What is given forms its values; of a row with of_layers the first call those of all layers.
  std::function<Var()> add(const LossRow& row, std::shared_ptr<const KeptInputs> inputs);

 private:
  struct OfRow {
    std::vector<std::shared_ptr<const KeptInputs>> layers;
    std::vector<Var> values;
  };
  std::map<const LossRow*, OfRow> rows_;
};

// Appends to routing.losses. One expert has nothing to balance: none then.
// A loss on experts or their outputs is left out where there are none: a router alone. With Pass::later and several ranks the values
// are formed later (AuxiliaryLosses::later).
void attach_losses(Routing& routing, const OptionValues& weights, const RoutingInputs& in,
                   const ExpertPairs* pairs = nullptr);
// Whether a loss of weight other than 0 reads that.
bool any_loss_reads(LossReads what, const OptionValues& weights);

}  // namespace glia
