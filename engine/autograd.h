// Reverse-mode automatic differentiation on an eager tape.
//
// A Var is a tensor plus, where a gradient is wanted, the node that made it. An op computes its value and calls
// record() with a lambda that maps the output's gradient to the inputs'; what the lambda captures is the saved
// state. Execution is eager, so the creation order is a topological order: backward() visits nodes by descending
// id, without recursion, and drops each node's lambda (its saved tensors) as soon as it has run. Gradients are kept
// for leaves only.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "engine/tensor.h"

namespace glia {

struct Node;
class Var;

// What a gradient lambda writes to.
class Grads {
 public:
  explicit Grads(Node& node) : node_(node) {}
  // Whether input i wants a gradient; computing one that nobody wants is wasted, adding it is harmless.
  bool wants(size_t i) const;
  // Uninitialised memory of input i's shape and gradient dtype (its own dtype, but for some leaves), to be
  // overwritten (=) and then passed to add(i, …). For a parameter it is its own gradient buffer where possible,
  // which saves a copy.
  Tensor buffer(size_t i);
  // The same in `dtype` whatever the gradient's is, for add_cast(): where a kernel sums in a wider type.
  Tensor buffer(size_t i, DType dtype);
  // Whether buffer(i) is the parameter's own gradient buffer, and nothing was added to the gradient yet.
  bool owns_buffer(size_t i) const;
  DType dtype(size_t i) const;  // of input i's gradient
  // dL/d(input i) += g. Checks shape, gradient dtype and context. g itself is kept, so it must not be written to
  // afterwards.
  void add(size_t i, Tensor g);
  void add_cast(size_t i, const Tensor& g);  // add(), g in any floating dtype

 private:
  friend std::vector<Var> record_joint(const char*, std::vector<Tensor>, std::vector<Var>,
                                       std::function<void(std::span<const Tensor>, Grads&)>);
  Node& node_;
};

using BackwardFunction = std::function<void(const Tensor& dy, Grads& in)>;
// For ops whose gradient kernel can add on load: the output's gradient as the sum of 1 … kMaxTerms tensors, one a
// consumer, which saves writing the sum and reading it again.
constexpr size_t kMaxTerms = kMostTerms;
using SummingBackwardFunction = std::function<void(std::span<const Tensor> dy, Grads& in)>;
// For ops with several outputs: the gradient of each, undefined where nobody uses that output.
using JointBackwardFunction = std::function<void(std::span<const Tensor> dy, Grads& in)>;

class Var {
 public:
  Var() = default;
  Var(Tensor value) : value_(std::move(value)) {}  // a constant: implicit on purpose, so ops take tensors
  // A leaf that collects a gradient. `buffer`, where given, is the memory its gradient is written to. A bfloat16
  // buffer makes a wider leaf's gradient bfloat16: only ops that compute it in that dtype (the weights of products)
  // then take it.
  static Var parameter(Tensor value, Tensor buffer = {});

  bool defined() const { return value_.defined(); }
  const Tensor& value() const { return value_; }
  const Shape& shape() const { return value_.shape(); }
  int rank() const { return value_.rank(); }
  int64_t size(int i) const { return value_.size(i); }
  DType dtype() const { return value_.dtype(); }
  Context& context() const { return value_.context(); }
  bool requires_grad() const { return node_ != nullptr; }

  // Leaves: the gradient after backward(), undefined before and when no path reached the leaf.
  Tensor grad() const;
  void clear_grad();
  // Leaves: a copy of the value in another dtype (the bfloat16 weights of mixed precision), kept up to date by
  // whoever updates the value. value_as(t) gives the value itself, the copy, or converts.
  void set_copy(Tensor copy) { copy_ = std::move(copy); }
  const Tensor& copy() const { return copy_; }
  Tensor value_as(DType dtype) const;

 private:
  friend Var record_summing(const char*, Tensor, std::vector<Var>, SummingBackwardFunction);
  friend Var record_without_gradient(const char*, Tensor);
  friend void backward(const Var&, Tensor);
  Tensor value_, copy_;
  std::shared_ptr<Node> node_;
};

// The op's output. Where no input wants a gradient (or under NoGrad) the lambda is dropped and the result is a
// constant. `op` must outlive the tape: a string literal.
Var record(const char* op, Tensor value, std::vector<Var> inputs, BackwardFunction backward);

Var record_summing(const char* op, Tensor value, std::vector<Var> inputs, SummingBackwardFunction backward);

// The outputs of an op that has several and one gradient for all.
std::vector<Var> record_joint(const char* op, std::vector<Tensor> values, std::vector<Var> inputs,
                              JointBackwardFunction backward);

// For ops that have no gradient (top-k's indices, argmax): the result is a constant. The op's name is what
// tools/gradcheck reports as "declares no gradient".
Var record_without_gradient(const char* op, Tensor value);

// dL/d(leaf) for every leaf below `loss`, added to what the leaves hold. `loss` has one element, or `dy` has its
// shape. The tape is consumed: a second call is an error.
void backward(const Var& loss, Tensor dy = {});

// No tape is recorded while one of these lives.
class NoGrad {
 public:
  explicit NoGrad(Context& context) : context_(context), before_(context.grad_enabled) {
    context.grad_enabled = false;
  }
  ~NoGrad() { context_.grad_enabled = before_; }
  NoGrad(const NoGrad&) = delete;
  NoGrad& operator=(const NoGrad&) = delete;

 private:
  Context& context_;
  bool before_;
};

}  // namespace glia
