// The weights of a model. Modules declare what they need; materialise() then lays all of it into flat arenas: first
// the parameters that weight decay applies to, then the others, then groups with a rate or decay of their own, then those that are not trained, every tensor padded with
// zeros to kAlign elements.
// The optimiser, the gradient norm, clipping and checkpoints each walk one flat buffer. In mixed precision the
// gradients may be two: those of the products' weights in bfloat16, which then come first, and the others.
#pragma once
#include <deque>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/ops/rows/rows.h"

namespace glia {

struct Init {
  enum class Kind { kNormal, kZero, kOne } kind = Kind::kZero;
  double std = 0;

  static Init normal(double std) { return {Kind::kNormal, std}; }
  static Init zero() { return {}; }
  static Init one() { return {Kind::kOne, 0}; }
};

struct Parameter {
  std::string name;  // dotted and stable: "encoder.layer.0.attention.qkv.weight"
  Shape shape;
  Init init;
  bool decay = false;
  bool product = false;  // only multiplied, by ops that compute its gradient in the activations' dtype
  Var var;               // defined from materialise() on; its value and gradient are views of the arenas
  int64_t offset = 0;    // first element in the arenas
  // Of the table, where an optimiser lets rows wait that a step does not touch: to be called before rows of the
  // value are read. Brings those of the order up to date, or all where it is undefined.
  std::function<void(const RowOrder&)> before_read;
  Tensor touched;        // then the rows where the gradient was written (RowOrder); undefined: all
  bool frozen = false;   // not trained: a constant without gradient and moments
  int expert_axis = -1;  // the axis that counts the experts, or −1: what permuting or sharding experts goes along
  int expert_ranks =
      1;  // over how many ranks the experts are divided: each computes its own's gradient (engine/ops/ranks)
  bool owned =
      false;  // then nobody but who computes with an expert reads its weights: they may be that rank's alone
  // What stands in a dense layer's place says how that layer's pretrained weights start it: each expert is `dense_factor`
  // times the tensor of that name, plus the warm start's noise. Parts that are added to each other share a factor of 1,
  // so that what they start from is not doubled. Empty: by its own name or fresh.
  std::string dense_name = {};
  double dense_factor = 1;
  double rate = -1, weight_decay = -1;  // its own learning rate and decay; below 0: the optimiser's
  bool grouped() const { return rate >= 0 || weight_decay >= 0; }
};

// Parameters that share a rate and a decay of their own: elements [begin, end), those below `decayed` decay.
struct ParameterGroup {
  double rate = -1, weight_decay = -1;
  int64_t begin = 0, decayed = 0, end = 0;
};

// A tensor that is not trained but belongs to the model: a router's load bias. Float32, or float64 with float64
// parameters. Checkpointed as "state.<name>", part of the best model, the same for all who asked for a shared name.
struct State {
  std::string name;
  Shape shape;
  Init init;
  bool shared = false;
  Tensor value = {};  // defined from materialise() on
};

// Elements of a flat buffer.
struct ElementRange {
  int64_t begin = 0, end = 0;
};

class ParameterSet {
 public:
  static constexpr int64_t kAlign = 64;

  ParameterSet() = default;
  ParameterSet(const ParameterSet&) = delete;
  ParameterSet& operator=(const ParameterSet&) = delete;

  // The pointer stays valid as long as the set. A name that is taken is an error.
  // `product`: whether its gradient may be bfloat16 in mixed precision. True for weights of linear(),
  // feed_forward() and expert_ffn() on activations in the compute dtype; an op that wants another gradient dtype
  // refuses such a weight.
  Parameter* add(std::string name, const Shape& shape, Init init, bool decay, bool product = false);
  // The one parameter [V, H] of which a step reads few rows. It decays.
  Parameter* add_table(std::string name, const Shape& shape, Init init);
  // A name that is taken is an error, unless both are `shared` and of one shape: then both get the same state.
  State* add_state(std::string name, const Shape& shape, Init init, bool shared = false);

  // Not trained: its value is a constant, nothing of it is in gradients or moments. Before materialise().
  void freeze(std::string_view name);

  // Its own learning rate (of the schedule's top) or, where it decays, decay, 0 or more. Before materialise(). Its gradient is not bfloat16.
  void set_rate(std::string_view name, double rate);
  void set_weight_decay(std::string_view name, double weight_decay);

  // float32 (float64 in tests) values and gradients; with_copy adds bfloat16 weights for mixed precision. A
  // parameter's numbers depend on the seed, its name and its shape, not on which other modules exist or on the
  // device. bfloat16_gradients (wants with_copy) keeps the gradients of decayed `product` weights in bfloat16,
  // which is what autocast gives: 6 bytes a weight less to move each step. A weight used twice then sums its
  // gradients in bfloat16.
  void materialise(Context& context, uint64_t seed, DType dtype = DType::kFloat32, bool with_copy = false,
                   bool bfloat16_gradients = false);
  bool materialised() const { return values_.defined(); }
  // Draws one parameter again from another stream: purpose kWarmStart. For models whose FFN is re-initialised.
  void redraw(const Parameter& p, Init init, uint64_t seed);
  // Uses these leaves instead of arenas, in the order of declaration; for gradient checks. States start anew.
  void bind(std::span<const Var> vars);

  // To be called before each backward(): forgets the gradients without touching memory.
  void clear_gradients();
  // After backward(): zeroes what no path reached, so that the flat gradient is complete. Again it does nothing, until
  // clear_gradients(): ranks add theirs between this and the optimiser, which calls it for those who did not.
  void complete_gradients();
  // The bfloat16 weights := the values. The optimiser does it as it goes; call it after values were set in another
  // way.
  void refresh_copy();

  const std::deque<Parameter>& all() const { return parameters_; }
  const Parameter& get(std::string_view name) const;   // an error when there is none
  const Parameter* find(std::string_view name) const;  // nullptr when there is none

  std::deque<State>& states() { return states_; }
  const std::deque<State>& states() const { return states_; }

  Context& context() const { return values_.context(); }
  Parameter* table() const { return table_; }  // nullptr where there is none; the first behind low_size
  const Tensor& values() const { return settled(values_); }  // [flat_size]; no row waits
  // The flat gradient, in two parts: elements [0, low_size) in bfloat16, undefined where low_size is 0, and the
  // others in the values' dtype, [trained_size − low_size].
  const Tensor& low_gradients() const { return low_gradients_; }
  const Tensor& gradients() const { return gradients_; }
  int64_t low_size() const { return low_size_; }          // a multiple of kAlign, ≤ decayed_size
  Tensor gradient(const Parameter& p) const;              // p's part of either, in p's shape
  const Tensor& copy() const { return settled(copy_); }   // [flat_size] bfloat16, or undefined
  int64_t flat_size() const { return flat_size_; }        // with padding
  int64_t trained_size() const { return trained_size_; }  // [0, trained_size) is trained, a multiple of kAlign
  int64_t decayed_size() const { return decayed_size_; }  // [0, decayed_size) decays, a multiple of kAlign
  const std::vector<ParameterGroup>& groups() const { return groups_; }  // [.., trained_size), one behind the other
  int64_t count() const;                                                 // scalars, without padding
  Tensor slice(const Tensor& flat, const Parameter& p) const;            // p's part of a flat buffer, in p's shape

 private:
  Parameter& declared(std::string_view name, const char* what);  // before materialise()
  void place(bool bfloat16_gradients);
  void make_states(Context& context, uint64_t seed, DType dtype);
  const Tensor& settled(const Tensor& t) const {
    if (table_ && table_->before_read) table_->before_read({});
    return t;
  }

  std::deque<Parameter> parameters_;
  std::deque<State> states_;
  Parameter* table_ = nullptr;
  Tensor values_, low_gradients_, gradients_, copy_;
  std::vector<ParameterGroup> groups_;
  bool complete_ = false;  // the gradients, since they were cleared
  int64_t flat_size_ = 0, trained_size_ = 0, decayed_size_ = 0, low_size_ = 0;
};

}  // namespace glia
