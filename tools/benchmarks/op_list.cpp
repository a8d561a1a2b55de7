#include "tools/benchmarks/op_list.h"

#include "engine/ops/attention/attention.h"
#include "engine/ops/elementwise/dropout.h"
#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/loss/softmax.h"
#include "engine/ops/moe/moe.h"
#include "engine/ops/norm/layer_norm.h"
#include "engine/ops/products/feed_forward.h"
#include "engine/ops/products/matmul.h"
#include "engine/ops/rows/bias.h"
#include "engine/ops/rows/reduce.h"
#include "engine/ops/rows/rows.h"
#include "engine/ops/rows/topk.h"

namespace glia {
namespace {

using Vars = std::vector<Var>;
constexpr auto kMaster = BenchInput::Kind::kMaster;

// Lengths like AG News: 52 tokens on average, 20 to 84.
std::vector<int32_t> lengths(const BenchSizes& s) {
  std::vector<int32_t> n;
  int64_t rows = 0;
  for (int64_t b = 0; b < s.B; ++b) {
    n.push_back(20 + static_cast<int32_t>(random_below(65, 1, purpose::kTest, 0, static_cast<uint64_t>(b))));
    rows += n.back();
  }
  for (int64_t b = 0; rows > s.T; b = (b + 1) % s.B)  // whatever does not fit is cut, a token a sequence
    if (n[b] > 1) --n[b], --rows;
  return n;
}

Tensor random_ids(Context& c, int64_t n, int64_t below) {
  std::vector<int32_t> ids;
  // Words are not uniform: half of the rows come from 200 frequent ids.
  for (int64_t i = 0; i < n; ++i) {
    const auto at = static_cast<uint64_t>(i);
    const bool frequent = random_bits(2, purpose::kTest, 0, at) & 1;
    ids.push_back(static_cast<int32_t>(
        random_below(frequent ? std::min<int64_t>(200, below) : below, 3, purpose::kTest, 0, at)));
  }
  return from_vector(c, ids, {n});
}

class List {
 public:
  List(Context& context, const BenchSizes& s, double w)
      : c_(context), s_(s), w_(w), sequences_(make_sequences(context, lengths(s), s.T)) {}

  std::vector<BenchOp> build() {
    elementwise();
    rows();
    products();
    experts();
    return std::move(ops_);
  }

 private:
  // A memory-bound op: `reads` and `writes` count activations of n elements.
  void memory(const std::string& name, std::vector<BenchInput> inputs,
              std::function<Var(Context&, const Vars&)> run, double n, double forward, double backward) {
    ops_.push_back({name, std::move(inputs), std::move(run), {0, forward * n * w_}, {0, backward * n * w_}});
  }
  void product(const std::string& name, std::vector<BenchInput> inputs,
               std::function<Var(Context&, const Vars&)> run, double flops, bool waits = false) {
    ops_.push_back({name, std::move(inputs), std::move(run), {flops, 0}, {2 * flops, 0}, waits});
  }

  void elementwise() {
    const int64_t N = s_.T * s_.K;
    const double n = static_cast<double>(N * s_.F), th = static_cast<double>(s_.T * s_.H);
    const Shape hidden{N, s_.F}, tokens{s_.T, s_.H};
    const std::string large = fmt::format(" [{}, {}]", N, s_.F), small = fmt::format(" [{}, {}]", s_.T, s_.H);
    memory(
        "add" + large, {{hidden}, {hidden}}, [](Context&, const Vars& x) { return add(x[0], x[1]); }, n, 3, 0);
    memory(
        "mul" + large, {{hidden}, {hidden}}, [](Context&, const Vars& x) { return mul(x[0], x[1]); }, n, 3, 5);
    memory(
        "tanh" + large, {{hidden}}, [](Context&, const Vars& x) { return tanh(x[0]); }, n, 2, 3);
    memory(
        "gelu" + large, {{hidden}}, [](Context&, const Vars& x) { return gelu(x[0]); }, n, 2, 3);
    memory(
        "gelu_tanh" + large, {{hidden}}, [](Context&, const Vars& x) { return gelu_tanh(x[0]); }, n, 2, 3);
    const BenchInput bias{{s_.F}, kMaster, 0.1};
    memory(
        "bias_add" + large, {{hidden}, bias}, [](Context&, const Vars& x) { return bias_add(x[0], x[1]); }, n, 2,
        1);
    memory(
        "bias_gelu" + large, {{hidden}, bias}, [](Context&, const Vars& x) { return bias_gelu(x[0], x[1]); }, n, 2,
        3);
    memory(
        "dropout" + large, {{hidden}},
        [](Context& c, const Vars& x) { return dropout(x[0], 0.1, c.random_key(purpose::kDropout)); }, n, 2, 2);
    memory(
        "sum over rows" + large, {{hidden}}, [](Context&, const Vars& x) { return sum(x[0], 0); }, n, 1, 1);
    memory(
        "sum of all" + large, {{hidden}}, [](Context&, const Vars& x) { return sum(x[0]); }, n, 1, 1);
    memory(
        "softmax" + large, {{hidden}}, [](Context&, const Vars& x) { return softmax(x[0]); }, n, 2, 3);
    memory(
        "layer_norm" + large, {{hidden}, {{s_.F}, kMaster}, {{s_.F}, kMaster}},
        [](Context&, const Vars& x) { return layer_norm(x[0], x[1], x[2], 1e-12); }, n, 2, 3);
    memory(
        "dropout" + small, {{tokens}},
        [](Context& c, const Vars& x) { return dropout(x[0], 0.1, c.random_key(purpose::kDropout)); }, th, 2, 2);
    const BenchInput gain{{s_.H}, kMaster};
    memory(
        "layer_norm" + small, {{tokens}, gain, gain},
        [](Context&, const Vars& x) { return layer_norm(x[0], x[1], x[2], 1e-12); }, th, 2, 3);
    const auto fused = [](Context& c, const Vars& x) {
      return dropout_residual_layer_norm(x[0], x[1], x[2], x[3], 1e-12, 0.1, c.random_key(purpose::kDropout));
    };
    memory("dropout_residual_layer_norm" + small, {{tokens}, {tokens}, gain, gain}, fused, th, 3, 5);
    memory(
        "dropout_residual_layer_norm, input bias and output dropout" + small,
        {{tokens}, {tokens}, gain, gain, gain},
        [](Context& c, const Vars& x) {
          return dropout_residual_layer_norm(x[0], x[1], x[2], x[3], 1e-12, 0.1, c.random_key(purpose::kDropout),
                                             {x[4], 0.1, c.random_key(purpose::kDropout + 1)});
        },
        th, 3, 5);
    const Shape eight{8 * s_.T, s_.H};
    memory(fmt::format("dropout_residual_layer_norm [{}, {}]", 8 * s_.T, s_.H), {{eight}, {eight}, gain, gain},
           fused, 8 * th, 3, 5);
  }

  void rows() {
    const double th = static_cast<double>(s_.T * s_.H), bh = static_cast<double>(s_.B * s_.H);
    const Shape tokens{s_.T, s_.H}, one_each{s_.B, s_.H};
    const std::string small = fmt::format(" [{}, {}]", s_.T, s_.H);
    const Tensor words = random_ids(c_, s_.T, s_.V), labels = random_ids(c_, s_.B, s_.C),
                 classes = random_ids(c_, s_.T, s_.F);
    const Sequences& q = sequences_;
    ops_.push_back({"embedding" + fmt::format(" [{}, {}] x {}", s_.V, s_.H, s_.T),
                    {{{s_.V, s_.H}, kMaster}},
                    [words, w = w_](Context&, const Vars& x) {
                      return embedding(x[0], words, w == 2 ? DType::kBFloat16 : DType::kFloat32);
                    },
                    {0, th * (4 + w_)},
                    {0, th * w_ + 4.0 * static_cast<double>(s_.V * s_.H)}});
    memory(
        "gather_rows to" + fmt::format(" [{}, {}]", s_.B, s_.H), {{tokens}},
        [q](Context&, const Vars& x) { return gather_rows(x[0], q.first_rows); }, 1, 2 * bh, bh + th);
    memory(
        "sequence_mean" + small, {{tokens}}, [q](Context&, const Vars& x) { return sequence_mean(x[0], q, true); },
        th, 1, 1);
    memory(
        "sequence_broadcast" + small, {{one_each}},
        [q](Context&, const Vars& x) { return sequence_broadcast(x[0], q); }, th, 1, 1);
    memory(
        fmt::format("cross_entropy [{}, {}]", s_.B, s_.C), {{{s_.B, s_.C}}},
        [labels](Context&, const Vars& x) { return cross_entropy(x[0], labels); }, static_cast<double>(s_.B * s_.C),
        1, 2);
    memory(
        fmt::format("cross_entropy [{}, {}]", s_.T, s_.F), {{{s_.T, s_.F}}},
        [classes](Context&, const Vars& x) { return cross_entropy(x[0], classes); },
        static_cast<double>(s_.T * s_.F), 1, 2);
    memory(
        fmt::format("top_k [{}, {}]", s_.T, s_.E), {{{s_.T, s_.E}}},
        [k = s_.K](Context&, const Vars& x) { return top_k(x[0], k).values; }, static_cast<double>(s_.T * s_.E), 1,
        1);
  }

  void products() {
    const auto linear_row = [&](const char* name, int64_t in, int64_t out) {
      product(
          fmt::format("linear, {} [{}, {}] -> {}", name, s_.T, in, out),
          {{{s_.T, in}}, {{out, in}, kMaster, 0.02}, {{out}, kMaster, 0.02}},
          [](Context&, const Vars& x) { return linear(x[0], x[1], x[2]); },
          2.0 * static_cast<double>(s_.T * in * out));
    };
    linear_row("q k v", s_.H, 3 * s_.H);
    linear_row("attention out", s_.H, s_.H);
    linear_row("up", s_.H, s_.F);
    linear_row("down", s_.F, s_.H);
    product(
        fmt::format("feed_forward [{}, {}]", s_.T, s_.H), ffn_inputs({s_.T, s_.H}, {}),
        [](Context&, const Vars& x) { return feed_forward(x[0], x[1], x[2], x[3], x[4]); },
        4.0 * static_cast<double>(s_.T * s_.H * s_.F));
    double pairs = 0;
    for (const int32_t n : lengths(s_)) pairs += static_cast<double>(n) * n;
    for (const double p : {0.0, 0.1})
      ops_.push_back({fmt::format("attention, {} [{}, {}]", p > 0 ? "dropout" : "no dropout", s_.T, 3 * s_.H),
                      {{{s_.T, 3 * s_.H}}},
                      [p, heads = s_.A, q = sequences_](Context& c, const Vars& x) {
                        return attention(x[0], q, {heads, false, p, c.random_key(purpose::kDropout)});
                      },
                      {4 * pairs * static_cast<double>(s_.H), 4 * w_ * static_cast<double>(s_.T * s_.H)},
                      {10 * pairs * static_cast<double>(s_.H), 8 * w_ * static_cast<double>(s_.T * s_.H)}});
  }

  std::vector<BenchInput> ffn_inputs(const Shape& x, const std::vector<int64_t>& experts) const {
    const auto weight = [&](int64_t out, int64_t in) {
      return experts.empty() ? BenchInput{{out, in}, kMaster, 0.02}
                             : BenchInput{{experts[0], out, in}, kMaster, 0.02};
    };
    const auto bias = [&](int64_t out) {
      return experts.empty() ? BenchInput{{out}, kMaster, 0.02} : BenchInput{{experts[0], out}, kMaster, 0.02};
    };
    return {{x}, weight(s_.F, s_.H), bias(s_.F), weight(s_.H, s_.F), bias(s_.H)};
  }

  void experts() {
    const Sequences& q = sequences_;
    const DType type = w_ == 2 ? DType::kBFloat16 : DType::kFloat32;
    const double th = static_cast<double>(s_.T * s_.H);
    const NoGrad no_grad(c_);
    const Var logits = random_normal(c_, {s_.T, s_.E}, 1, 5, purpose::kTest);
    const Gates gates = top_k_gates(logits, s_.K, q);
    const Dispatch d = make_dispatch(gates.experts, s_.E, expert_alignment(c_, type));
    const double nh = static_cast<double>(d.rows * s_.H);
    ops_.push_back(
        {fmt::format("router_logits, add [{}, {}]", s_.T, s_.H),
         {{{s_.T, s_.H}}, {{s_.E, s_.H}, kMaster, 0.02}, {{s_.E}, kMaster, 0.02}, {{s_.B, s_.E}, kMaster}},
         [q](Context&, const Vars& x) { return router_logits(x[0], x[1], x[2], x[3], ContextMode::kAdd, q); },
         {2 * th * static_cast<double>(s_.E), th * w_},
         {4 * th * static_cast<double>(s_.E), 2 * th * w_}});
    memory(
        fmt::format("top_k_gates [{}, {}]", s_.T, s_.E), {{{s_.T, s_.E}, kMaster}},
        [q, k = s_.K](Context&, const Vars& x) { return top_k_gates(x[0], k, q).gates; },
        static_cast<double>(s_.T * s_.E) * 4 / w_, 1, 1);
    memory(
        fmt::format("load_losses [{}, {}]", s_.T, s_.K), {{{s_.T, s_.K}, kMaster}},
        [q, e = gates.experts, n = s_.E](Context&, const Vars& x) { return load_losses(x[0], e, n, q); },
        static_cast<double>(s_.T * s_.K) * 4 / w_, 1, 1);
    memory(
        fmt::format("dispatch_rows [{}, {}] -> {}", s_.T, s_.H, d.rows), {{{s_.T, s_.H}}},
        [d](Context&, const Vars& x) { return dispatch_rows(x[0], d); }, 1, th + nh, th + nh);
    memory(
        fmt::format("combine_rows {} -> [{}, {}]", d.rows, s_.T, s_.H), {{{d.rows, s_.H}}, {{s_.T, s_.K}, kMaster}},
        [d](Context&, const Vars& x) { return combine_rows(x[0], x[1], d); }, 1, th + nh, th + 2 * nh);
    const double flops = 4.0 * static_cast<double>(s_.T * s_.K * s_.H * s_.F);
    product(
        fmt::format("expert_ffn, fused [{}, {}]", d.rows, s_.H), ffn_inputs({d.rows, s_.H}, {s_.E}),
        [d](Context&, const Vars& x) { return expert_ffn(x[0], x[1], x[2], x[3], x[4], d.offsets); }, flops,
        expert_alignment(c_, type) == 1);
    product(
        fmt::format("expert_ffn, loop of products [{}, {}]", d.rows, s_.H), ffn_inputs({d.rows, s_.H}, {s_.E}),
        [d](Context&, const Vars& x) { return expert_ffn_reference(x[0], x[1], x[2], x[3], x[4], d.offsets); },
        flops, true);
  }

  Context& c_;
  const BenchSizes s_;
  const double w_;
  const Sequences sequences_;
  std::vector<BenchOp> ops_;
};

}  // namespace

std::vector<BenchOp> bench_op_list(Context& context, const BenchSizes& s, double w) {
  return List(context, s, w).build();
}

}  // namespace glia
