#include "engine/ops/ranks/experts_over_ranks.h"

#include <bit>
#include <memory>
#include <numeric>

#include "engine/ops/moe/moe.h"
#include "engine/ops/ranks/own_experts_kernels.h"
#include "engine/ops/ranks/sum_over_ranks.h"

namespace glia {
namespace {

// Who of the communicator is in this rank's group, and which experts are whose.
struct Group {
  int first, size, place,
      all;          // the group's ranks [first, first + size), this one the place-th; `all` ranks there are
  int64_t experts;  // a rank

  int64_t begin() const { return place * experts; }
  int64_t end() const { return begin() + experts; }
  // Counts of the group's ranks among those of all.
  std::vector<int64_t> among_all(const std::vector<int64_t>& counts) const {
    std::vector<int64_t> each(static_cast<size_t>(all));
    std::copy(counts.begin(), counts.end(), each.begin() + first);
    return each;
  }
};

Group group_of(const Communicator& ranks, int64_t n_experts, int size) {
  CHECK(size >= 1 && ranks.size() % size == 0 && n_experts % size == 0,
        "experts over ranks: wants a divisor of {} ranks and {} experts, got {}", ranks.size(), n_experts, size);
  return {ranks.rank() / size * size, size, ranks.rank() % size, ranks.size(), n_experts / size};
}

// What goes to and comes from each rank of the group, in rows.
struct Traffic {
  std::vector<int64_t> sent, received;
  std::vector<Tensor> offsets;  // int32 [experts + 1], of each sender's rows among themselves

  int64_t rows() const { return std::accumulate(received.begin(), received.end(), int64_t{0}); }
};

Traffic exchange_counts(Communicator& ranks, const Group& g, const Tensor& offsets) {
  const int32_t* starts = offsets.data<int32_t>();
  std::vector<int32_t> own(static_cast<size_t>(g.size * g.experts)), theirs(own.size());
  for (size_t e = 0; e < own.size(); ++e) own[e] = starts[e + 1] - starts[e];
  const std::vector<int64_t> one = g.among_all(std::vector<int64_t>(static_cast<size_t>(g.size), 1));
  ranks.all_to_all_rows(own.data(), one, theirs.data(), one, g.experts * int64_t{sizeof(int32_t)});
  Traffic t;
  for (int q = 0; q < g.size; ++q) {
    t.sent.push_back(starts[(q + 1) * g.experts] - starts[q * g.experts]);
    std::vector<int32_t> of_sender(static_cast<size_t>(g.experts) + 1);
    std::partial_sum(theirs.begin() + q * g.experts, theirs.begin() + (q + 1) * g.experts, of_sender.begin() + 1);
    t.received.push_back(of_sender.back());
    t.offsets.push_back(from_vector(offsets.context(), of_sender, {g.experts + 1}));
  }
  return t;
}

Tensor to_experts(const Tensor& x, const Group& g, const Traffic& t) {
  Tensor y = empty(x.context(), {t.rows(), x.size(1)}, x.dtype());
  x.context().communicator().all_to_all_rows(x.raw(), g.among_all(t.sent), y.raw(), g.among_all(t.received),
                                             x.size(1) * size_of(x.dtype()));
  return y;
}
// → [rows, ..], 0 behind those that were sent.
Tensor to_senders(const Tensor& y, int64_t rows, const Group& g, const Traffic& t) {
  Tensor x = zeros(y.context(), {rows, y.size(1)}, y.dtype());
  y.context().communicator().all_to_all_rows(y.raw(), g.among_all(t.received), x.raw(), g.among_all(t.sent),
                                             y.size(1) * size_of(y.dtype()));
  return x;
}

// This rank's experts on one sender's rows: a short tape of its own, which the op's gradient runs.
struct Sender {
  int64_t begin = 0, end = 0;  // its rows
  Var x, y;
  std::array<Var, 4> weights;
};

Var leaf(const Tensor& value, bool wanted, DType gradient) {
  if (!wanted) return value;
  return Var::parameter(value,
                        gradient == value.dtype() ? Tensor() : empty(value.context(), value.shape(), gradient));
}

// Weight i of this rank's experts; its gradient lies in `memory`, where that is given.
Var own_weight(const DividedExperts& experts, size_t i, const Group& g, bool grad, const Tensor& memory = {}) {
  const Var& w = experts.weights[i];
  const Tensor value = w.value().rows(g.begin(), g.end());
  Var own = memory.defined() ? Var::parameter(value, memory)
                             : leaf(value, grad && w.requires_grad(), experts.gradient_dtype(i));
  if (w.copy().defined()) own.set_copy(w.copy().rows(g.begin(), g.end()));
  return own;
}

Sender compute(const Tensor& rows, int64_t begin, int64_t end, bool wants_x, const DividedExperts& experts,
               const Group& g, const Tensor& offsets) {
  Sender s{begin, end, {}, {}, {}};
  if (begin == end) return s;
  const bool grad = rows.context().grad_enabled;
  s.x = leaf(rows.rows(begin, end), grad && wants_x, rows.dtype());
  for (size_t i = 0; i < 4; ++i) s.weights[i] = own_weight(experts, i, g, grad);
  s.y = expert_ffn(s.x, s.weights[0], s.weights[1], s.weights[2], s.weights[3], offsets);
  return s;
}

// The sum of terms [first, end) along the tree whose left half is the largest power of two: in terms[first], which it overwrites.
void sum_tree(std::vector<Tensor>& terms, size_t first, size_t end) {
  if (end - first == 1) return;
  const size_t middle = first + std::bit_ceil(end - first) / 2;
  sum_tree(terms, first, middle);
  sum_tree(terms, middle, end);
  accumulate(terms[first], terms[middle]);
}

// Of weight i, over the senders: this rank's part of `all` [E, ..].
void weight_gradient(const std::vector<Sender>& senders, size_t i, const Group& g, const Tensor& all) {
  fill(all, -0.0);
  Tensor own = all.rows(g.begin(), g.end());
  std::vector<Tensor> terms;
  for (const Sender& s : senders) {
    const Tensor term = s.y.defined() ? s.weights[i].grad() : Tensor();
    terms.push_back(term.defined() ? term : zeros_like(own));  // whoever sent nothing
  }
  sum_tree(terms, 0, terms.size());
  own.copy_from(terms[0]);
}

}  // namespace

Var expert_ffn_over_ranks(const Var& x, const DividedExperts& experts, const Tensor& offsets) {
  Context& context = x.context();
  const Group g = group_of(context.communicator(), experts.weights[0].size(0), experts.ranks);
  CHECK(context.device().is_cpu() && x.rank() == 2 && offsets.shape() == Shape{g.size * g.experts + 1},
        "expert_ffn_over_ranks: wants x [N, H] and offsets [{}] in a CPU's memory, got {} and {} on {}",
        g.size * g.experts + 1, x.shape(), offsets.shape(), context.device().str());
  const auto traffic = std::make_shared<const Traffic>(exchange_counts(context.communicator(), g, offsets));
  const auto senders = std::make_shared<std::vector<Sender>>();
  const Tensor rows = to_experts(x.value(), g, *traffic);
  Tensor outputs = empty(context, {rows.size(0), experts.weights[2].size(1)}, x.dtype());
  int64_t begin = 0;
  for (size_t s = 0; s < traffic->received.size(); ++s) {
    const int64_t end = begin + traffic->received[s];
    senders->push_back(compute(rows, begin, end, x.requires_grad(), experts, g, traffic->offsets[s]));
    if (end > begin) outputs.rows(begin, end).copy_from(senders->back().y.value());
    begin = end;
  }
  const int64_t n = x.size(0);
  return record("expert_ffn_over_ranks", to_senders(outputs, n, g, *traffic),
                {x, experts.weights[0], experts.weights[1], experts.weights[2], experts.weights[3]},
                [traffic, senders, g, n, hidden = x.size(1)](const Tensor& dy, Grads& in) {
                  const Tensor doutputs = to_experts(dy, g, *traffic);
                  Tensor drows = empty(dy.context(), {traffic->rows(), hidden}, dy.dtype());
                  for (const Sender& s : *senders) {
                    if (!s.y.defined() || !s.y.requires_grad()) continue;
                    backward(s.y, doutputs.rows(s.begin, s.end));
                    if (in.wants(0)) drows.rows(s.begin, s.end).copy_from(s.x.grad());
                  }
                  if (in.wants(0)) in.add(0, to_senders(drows, n, g, *traffic));
                  for (size_t i = 0; i < 4; ++i) {
                    if (!in.wants(i + 1)) continue;
                    const Tensor all = in.buffer(i + 1);
                    weight_gradient(*senders, i, g, all);
                    in.add(i + 1, all);
                  }
                });
}

namespace {

// Of the choices of all ranks this rank's, counted from its first expert; −1 for the others'.
Tensor own_choices(const Tensor& experts, const Group& g) {
  const Tensor own = empty_like(experts);
  const OwnExperts k{experts.numel(), static_cast<int32_t>(g.begin()), static_cast<int32_t>(g.end())};
  on_device(
      experts.context(), "own_choices", [&] { cpu::own_choices(k, experts.data<int32_t>(), own.data<int32_t>()); },
      [&](auto& cuda) { cuda::own_choices(k, experts.data<int32_t>(), own.data<int32_t>(), cuda.stream); });
  return own;
}

// to [n, ..] := this rank's rows of the sum over the ranks of from [R n, ..].
Tensor sum_of_own_rows(const Tensor& from, Tensor to) {
  from.context().communicator().reduce_scatter(from.raw(), to.raw(), to.numel(), from.dtype(), Reduction::kSum);
  return to;
}

// What of the layer one rank computes: a short tape of its own, which the op's gradient runs.
struct OwnLayer {
  Var x, gates, y;
  std::array<Var, 4> weights;
  std::array<bool, 4> in_place{};  // their gradients lie where the whole parameter's do
};

}  // namespace

Var expert_layer_over_ranks(const Var& x, const Var& gates, const Tensor& experts, int64_t capacity,
                            const DividedExperts& divided) {
  Context& context = x.context();
  Communicator& ranks = context.communicator();
  const int64_t n_experts = divided.weights[0].size(0);
  const Group g = group_of(ranks, n_experts, divided.ranks);
  CHECK(
      g.size == g.all && x.rank() == 2 && gates.shape() == experts.shape() && gates.size(0) == x.size(0),
      "expert_layer_over_ranks: wants one group of {} ranks, x [T, H], gates and experts [T, K], got {}, {}, {} and {}",
      g.all, g.size, x.shape(), gates.shape(), experts.shape());
  const bool grad = context.grad_enabled;
  const auto own = std::make_shared<OwnLayer>();
  Tensor chosen;
  together(ranks, [&] {
    own->x = leaf(rows_of_all_ranks(x.value()), grad && x.requires_grad(), x.dtype());
    own->gates = leaf(rows_of_all_ranks(gates.value()), grad && gates.requires_grad(), gates.dtype());
    chosen = rows_of_all_ranks(experts);
  });
  for (size_t i = 0; i < 4; ++i) {
    const Var& w = divided.weights[i];
    const Tensor& all = divided.gradients[i];
    own->in_place[i] = grad && divided.own && w.requires_grad() && all.defined() && !w.grad().defined();
    own->weights[i] = own_weight(divided, i, g, grad, own->in_place[i] ? all.rows(g.begin(), g.end()) : Tensor());
  }
  const Dispatch d =
      make_dispatch(own_choices(chosen, g), g.experts, expert_alignment(context, x.dtype()), capacity * g.size);
  own->y = expert_layer(own->x, own->gates, d, own->weights[0], own->weights[1], own->weights[2], own->weights[3]);
  const Tensor y = sum_of_own_rows(own->y.value(), empty(context, {x.size(0), own->y.size(1)}, x.dtype()));
  return record("expert_layer_over_ranks", y,
                {x, gates, divided.weights[0], divided.weights[1], divided.weights[2], divided.weights[3]},
                [own, g](const Tensor& dy, Grads& in) {
                  backward(own->y, rows_of_all_ranks(dy));
                  Tensor dx, dgates;
                  together(dy.context().communicator(), [&] {
                    if (in.wants(0)) dx = sum_of_own_rows(own->x.grad(), in.buffer(0));
                    if (in.wants(1)) dgates = sum_of_own_rows(own->gates.grad(), in.buffer(1));
                  });
                  if (in.wants(0)) in.add(0, dx);
                  if (in.wants(1)) in.add(1, dgates);
                  for (size_t i = 0; i < 4; ++i) {
                    if (!in.wants(i + 2)) continue;
                    CHECK(!own->in_place[i] || in.owns_buffer(i + 2),
                          "expert_layer_over_ranks: weight {} has had a gradient since the forward pass", i);
                    const Tensor all = in.buffer(i + 2);
                    if (!own->in_place[i]) {
                      fill(all, -0.0);
                      all.rows(g.begin(), g.end()).copy_from(own->weights[i].grad());
                    }
                    in.add(i + 2, all);
                  }
                });
}

namespace cpu {
void own_choices(const OwnExperts& k, const int32_t* experts, int32_t* own) {
  for (int64_t i = 0; i < k.n; ++i) own[i] = k.of(experts[i]);
}
}  // namespace cpu

}  // namespace glia
