#include "engine/autograd.h"

#include <algorithm>
#include <queue>

namespace glia {

struct Node {
  uint64_t id = 0;
  const char* op = "";
  bool leaf = false;
  bool freed = false;
  Shape shape;
  DType dtype = DType::kFloat32;  // of the gradient
  Context* context = nullptr;
  std::vector<Tensor> terms;  // what the consumers have added so far, in their order; not for leaves
  std::vector<int> outputs;   // of a joint node: which output each term belongs to
  Tensor grad;                // leaves: the gradient
  Tensor buffer;              // leaves: where the gradient should lie, or undefined
  std::vector<std::shared_ptr<Node>> inputs;  // null where no gradient is wanted
  SummingBackwardFunction backward;

  // A chain of a million nodes must not be destroyed by a million nested destructors: unlink iteratively.
  ~Node() {
    std::vector<std::shared_ptr<Node>> pending;
    release_into(pending);
    while (!pending.empty()) {
      const std::shared_ptr<Node> node = std::move(pending.back());
      pending.pop_back();
      if (node.use_count() == 1) node->release_into(pending);
    }
  }
  void release_into(std::vector<std::shared_ptr<Node>>& pending) {
    for (auto& input : inputs)
      if (input) pending.push_back(std::move(input));
    inputs.clear();
    backward = nullptr;  // captures tensors, never Vars, so it holds no node
  }
};

Var Var::parameter(Tensor value, Tensor buffer) {
  Var v(std::move(value));
  CHECK(is_floating(v.dtype()), "parameter: wants a floating dtype, got {}", v.dtype());
  CHECK(!buffer.defined() ||
            (buffer.shape() == v.shape() && (buffer.dtype() == v.dtype() || buffer.dtype() == DType::kBFloat16)),
        "parameter: gradient buffer must be {} (or bfloat16) {}, got {} {}", v.dtype(), v.shape(), buffer.dtype(),
        buffer.shape());
  v.node_ = std::make_shared<Node>();
  v.node_->id = v.context().next_node_id++;
  v.node_->op = "parameter";
  v.node_->leaf = true;
  v.node_->shape = v.shape();
  v.node_->dtype = buffer.defined() ? buffer.dtype() : v.dtype();
  v.node_->context = &v.context();
  v.node_->buffer = std::move(buffer);
  return v;
}

Tensor Var::grad() const {
  CHECK(node_ && node_->leaf, "grad: only leaves keep a gradient");
  return node_->grad;
}

void Var::clear_grad() {
  CHECK(node_ && node_->leaf, "clear_grad: only leaves keep a gradient");
  node_->grad = {};
}

Tensor Var::value_as(DType dtype) const {
  if (dtype == value_.dtype()) return value_;
  if (copy_.defined() && copy_.dtype() == dtype) return copy_;
  return cast(value_, dtype);
}

bool Grads::wants(size_t i) const { return i < node_.inputs.size() && node_.inputs[i] != nullptr; }

bool Grads::owns_buffer(size_t i) const {
  return wants(i) && node_.inputs[i]->leaf && node_.inputs[i]->buffer.defined() && !node_.inputs[i]->grad.defined();
}

DType Grads::dtype(size_t i) const {
  CHECK(wants(i), "{}: input {} wants no gradient", node_.op, i);
  return node_.inputs[i]->dtype;
}

Tensor Grads::buffer(size_t i) {
  CHECK(wants(i), "{}: input {} wants no gradient", node_.op, i);
  Node& input = *node_.inputs[i];
  if (owns_buffer(i)) return input.buffer;
  return empty(*input.context, input.shape, input.dtype);
}

Tensor Grads::buffer(size_t i, DType dtype) {
  if (dtype == this->dtype(i)) return buffer(i);
  return empty(*node_.inputs[i]->context, node_.inputs[i]->shape, dtype);
}

void Grads::add_cast(size_t i, const Tensor& g) {
  if (wants(i)) add(i, g.dtype() == dtype(i) ? g : cast(g, dtype(i)));
}

namespace {

// What a leaf holds += g.
void add_to_leaf(Node& leaf, Tensor g) {
  if (!leaf.grad.defined()) {
    if (leaf.buffer.defined() && g.raw() != leaf.buffer.raw()) {
      leaf.buffer.copy_from(g);
      g = leaf.buffer;
    }
    leaf.grad = std::move(g);
  } else if (leaf.buffer.defined()) {
    accumulate(leaf.grad, g);  // the buffer is nobody else's
  } else {
    // The first tensor may be another input's gradient too: add to it in place only when nobody else holds it.
    Tensor sum = leaf.grad.is_unique() ? leaf.grad : leaf.grad.clone();
    accumulate(sum, g);
    leaf.grad = std::move(sum);
  }
}

}  // namespace

void Grads::add(size_t i, Tensor g) {
  if (!wants(i)) return;
  Node& input = *node_.inputs[i];
  CHECK(g.defined(), "gradient of {}: input {} was given an undefined tensor", node_.op, i);
  CHECK(g.shape() == input.shape && g.dtype() == input.dtype && &g.context() == input.context,
        "gradient of {}: input {} wants {} {} on {}, got {} {} on {}", node_.op, i, input.dtype, input.shape,
        input.context->device().str(), g.dtype(), g.shape(), g.device().str());
  if (input.leaf) add_to_leaf(input, std::move(g));
  else input.terms.push_back(std::move(g));
}

Var record(const char* op, Tensor value, std::vector<Var> inputs, BackwardFunction backward) {
  return record_summing(op, std::move(value), std::move(inputs),
                        [backward = std::move(backward)](std::span<const Tensor> dy, Grads& in) {
                          backward(dy.size() == 1 ? dy[0] : sum_of(dy), in);
                        });
}

Var record_summing(const char* op, Tensor value, std::vector<Var> inputs, SummingBackwardFunction backward) {
  Context& context = value.context();
  if (context.check_finite && !all_finite(value))
    fail_input("{}: the first op whose output is not finite (NaN or Inf); output {} {}", op, value.dtype(),
               value.shape());
  Var v(std::move(value));
  if (!context.grad_enabled ||
      std::none_of(inputs.begin(), inputs.end(), [](const Var& x) { return x.requires_grad(); }))
    return v;
  auto node = std::make_shared<Node>();
  node->id = context.next_node_id++;
  node->op = op;
  node->shape = v.shape();
  node->dtype = v.dtype();
  node->context = &context;
  node->inputs.reserve(inputs.size());
  for (Var& x : inputs) {
    CHECK(!x.node_ || x.node_->context == &context, "{}: inputs of two contexts", op);
    CHECK(!x.node_ || !x.node_->freed, "{}: an input's tape was consumed by backward()", op);
    node->inputs.push_back(std::move(x.node_));
  }
  node->backward = std::move(backward);
  v.node_ = std::move(node);
  return v;
}

// One node for the op, and behind it one for each output, which passes its gradient on under the output's number.
// Outputs are younger than the joint node, so all of them have run when its turn comes.
std::vector<Var> record_joint(const char* op, std::vector<Tensor> values, std::vector<Var> inputs,
                              JointBackwardFunction backward) {
  CHECK(!values.empty(), "{}: wants an output", op);
  const Var joint = record_summing(
      op, values[0], std::move(inputs),
      [backward = std::move(backward), count = values.size()](std::span<const Tensor> terms, Grads& in) {
        std::vector<Tensor> dy(count);
        for (size_t i = 0; i < terms.size(); ++i) dy[static_cast<size_t>(in.node_.outputs[i])] = terms[i];
        backward(dy, in);
      });
  std::vector<Var> all;
  for (size_t i = 0; i < values.size(); ++i)
    all.push_back(record(op, values[i], {joint}, [i](const Tensor& dy, Grads& in) {
      in.node_.inputs[0]->terms.push_back(dy);
      in.node_.inputs[0]->outputs.push_back(static_cast<int>(i));
    }));
  return all;
}

Var record_without_gradient(const char*, Tensor value) { return Var(std::move(value)); }

void backward(const Var& loss, Tensor dy) {
  CHECK(loss.requires_grad(), "backward: nothing that wants a gradient led to this value");
  CHECK(dy.defined() || loss.value().numel() == 1, "backward: a value of shape {} needs a gradient to start from",
        loss.shape());
  if (!dy.defined()) dy = full(loss.context(), loss.shape(), 1.0, loss.dtype());
  CHECK(dy.shape() == loss.shape() && dy.dtype() == loss.dtype(), "backward: wants a gradient {} {}, got {} {}",
        loss.dtype(), loss.shape(), dy.dtype(), dy.shape());
  CHECK(&dy.context() == &loss.context(), "backward: the value and its gradient are of two contexts");

  const auto older = [](const std::shared_ptr<Node>& a, const std::shared_ptr<Node>& b) { return a->id < b->id; };
  std::priority_queue<std::shared_ptr<Node>, std::vector<std::shared_ptr<Node>>, decltype(older)> queue(older);
  CHECK(!loss.node_->freed, "backward: this tape was consumed by an earlier backward()");
  if (loss.node_->leaf) {
    CHECK(dy.dtype() == loss.node_->dtype, "backward: this leaf keeps a {} gradient, got {}", loss.node_->dtype,
          dy.dtype());
    return add_to_leaf(*loss.node_, std::move(dy));
  }
  std::vector<std::shared_ptr<Node>> leaves;  // whose gradients lie where the ops left them
  loss.node_->terms.push_back(std::move(dy));
  queue.push(loss.node_);
  while (!queue.empty()) {
    const std::shared_ptr<Node> node = queue.top();
    queue.pop();
    node->freed = true;
    std::vector<Tensor> terms = std::move(node->terms);
    node->terms.clear();
    while (terms.size() > kMaxTerms &&
           node->outputs.empty()) {  // the first four become one; of a joint node they are several
      const Tensor sum = sum_of(std::span(terms).first(kMaxTerms));
      terms.erase(terms.begin(), terms.begin() + kMaxTerms - 1);
      terms.front() = sum;
    }
    Grads in(*node);
    std::vector<bool> queued(node->inputs.size());
    for (size_t i = 0; i < node->inputs.size(); ++i) queued[i] = node->inputs[i] && !node->inputs[i]->terms.empty();
    node->backward(terms, in);
    for (size_t i = 0; i < node->inputs.size(); ++i) {
      const auto& input = node->inputs[i];
      if (input && input->leaf && !input->buffer.defined() && input->grad.defined()) leaves.push_back(input);
      if (!input || input->leaf || queued[i] || input->terms.empty()) continue;
      CHECK(!input->freed, "{}: an input's tape was consumed by an earlier backward()", node->op);
      if (std::find(node->inputs.begin(), node->inputs.begin() + i, input) == node->inputs.begin() + i)
        queue.push(input);
    }
    node->backward = nullptr;  // frees the saved tensors now
    node->inputs.clear();
  }
  // add(a, b) gives both the same tensor: whoever clips a's gradient in place would change b's.
  for (const auto& leaf : leaves)
    if (!leaf->grad.is_unique()) leaf->grad = leaf->grad.clone();
}

}  // namespace glia
