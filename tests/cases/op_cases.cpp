// The table's rows for the op families that are not products: element-wise, bias, dropout, reductions, softmax,
// layer norm, rows, top-k, sequences. Sizes are small and odd on purpose; the multiples of 8 take the wide paths of
// the kernels.
#include "tests/cases/op_cases.h"

#include <cmath>

#include "engine/ops/elementwise/dropout.h"
#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/loss/softmax.h"
#include "engine/ops/norm/layer_norm.h"
#include "engine/ops/rows/bias.h"
#include "engine/ops/rows/reduce.h"
#include "engine/ops/rows/rows.h"
#include "engine/ops/rows/topk.h"
#include "engine/ops/sequences/sequences.h"

namespace glia {
namespace {

using Vars = std::vector<Var>;
using Cases = std::vector<OpCase>;

Tensor ints(Context& context, const std::vector<int32_t>& values) {
  return from_vector(context, values, {static_cast<int64_t>(values.size())});
}

// A row for each of two shapes: one odd, one that packs of 16 bytes divide.
void add_unary(Cases& cases, const char* name, Var (*op)(const Var&), CaseInput input = {}) {
  for (const Shape& shape : {Shape{3, 5, 7}, Shape{4, 32}}) {
    input.shape = shape;
    cases.push_back({std::string(name) + (shape.rank() == 3 ? "/odd" : ""), {input}, [op](Context&, const Vars& x) {
                       return op(x[0]);
                     }});
  }
}

void add_elementwise(Cases& cases) {
  const CaseInput away_from_zero{{}, -2, 2, 0.1}, positive{{}, 0.2, 3}, wide{{}, -4, 4};
  add_unary(cases, "exp", exp);
  add_unary(cases, "log", log, positive);
  add_unary(cases, "tanh", tanh, wide);
  add_unary(cases, "sigmoid", sigmoid, wide);
  add_unary(cases, "softplus", softplus, wide);
  add_unary(cases, "relu", relu, away_from_zero);
  add_unary(cases, "gelu", gelu, wide);
  add_unary(cases, "gelu_tanh", gelu_tanh, wide);
  add_unary(cases, "square", square);
  add_unary(cases, "scale", [](const Var& x) { return scale(x, -1.75); });
  add_unary(cases, "add_scalar", [](const Var& x) { return add_scalar(x, 0.3); });

  const CaseInput odd{{3, 5, 7}}, even{{2, 64}};
  CaseInput divisor = odd;
  divisor.low = -2, divisor.high = 2, divisor.keep_from = 0.4;
  cases.push_back({"add", {odd, odd}, [](Context&, const Vars& x) { return add(x[0], x[1]); }});
  cases.push_back({"add/same_twice", {even}, [](Context&, const Vars& x) { return add(x[0], x[0]); }});
  cases.push_back({"sub", {even, even}, [](Context&, const Vars& x) { return sub(x[0], x[1]); }});
  cases.push_back({"mul", {odd, odd}, [](Context&, const Vars& x) { return mul(x[0], x[1]); }});
  cases.push_back({"mul/same_twice", {even}, [](Context&, const Vars& x) { return mul(x[0], x[0]); }});
  cases.push_back({"mul/constant", {even}, [](Context& c, const Vars& x) {
                     return mul(full(c, x[0].shape(), 1.5, x[0].dtype()), x[0]);
                   }});
  cases.push_back({"div", {odd, divisor}, [](Context&, const Vars& x) { return div(x[0], x[1]); }});
  cases.push_back({"reshape", {odd}, [](Context&, const Vars& x) { return square(reshape(x[0], {7, 15})); }});
  cases.push_back({"rows_view", {odd}, [](Context&, const Vars& x) { return square(rows(x[0], 1, 3)); }});
  cases.push_back({"rows_view/overlapping", {even}, [](Context&, const Vars& x) {
                     return mul(rows(x[0], 0, 1), rows(x[0], 1, 2));
                   }});
  cases.push_back({"cast", {odd}, [](Context&, const Vars& x) { return cast(square(x[0]), DType::kFloat64); }});
}

void add_bias(Cases& cases) {
  for (const auto& [suffix, shape] :
       {std::pair{"", Shape{9, 64}}, {"/odd", Shape{2, 5, 7}}, {"/long", Shape{70, 272}}}) {
    const CaseInput x{shape, -3, 3}, b{{shape[-1]}};
    const std::string s = suffix;
    cases.push_back({"bias_add" + s, {x, b}, [](Context&, const Vars& v) { return bias_add(v[0], v[1]); }});
    cases.push_back({"bias_gelu" + s, {x, b}, [](Context&, const Vars& v) { return bias_gelu(v[0], v[1]); }});
  }
}

void add_dropout(Cases& cases) {
  for (const auto& [suffix, shape] : {std::pair{"", Shape{6, 64}}, {"/odd", Shape{3, 5, 7}}})
    cases.push_back({std::string("dropout") + suffix, {{shape}}, [](Context& c, const Vars& x) {
                       return dropout(x[0], 0.3, c.random_key(purpose::kTest));
                     }});
}

void add_reduce(Cases& cases) {
  const CaseInput odd{{3, 5, 7}};
  for (int axis = 0; axis < 3; ++axis) {
    const std::string s = "/axis" + std::to_string(axis);
    cases.push_back({"sum" + s, {odd}, [axis](Context&, const Vars& x) { return sum(x[0], axis); }});
    cases.push_back({"mean" + s, {odd}, [axis](Context&, const Vars& x) { return mean(x[0], axis); }});
    CaseInput distinct = odd;
    distinct.spacing = 0.03;
    cases.push_back({"max" + s, {distinct}, [axis](Context&, const Vars& x) { return max(x[0], axis); }});
  }
  cases.push_back({"sum/all", {{{300, 7}}}, [](Context&, const Vars& x) { return sum(x[0]); }});
  cases.push_back({"mean/all", {{{40, 64}}}, [](Context&, const Vars& x) { return mean(x[0]); }});
  cases.push_back({"sum/long_rows", {{{2, 1500}}}, [](Context&, const Vars& x) { return sum(x[0], -1); }});
  cases.push_back({"sum/long_columns", {{{600, 3}}}, [](Context&, const Vars& x) { return sum(x[0], 0); }});
}

void add_softmax(Cases& cases) {
  const auto softmaxes = [&](const std::string& suffix, const Shape& shape) {
    const CaseInput x{shape, -4, 4};
    cases.push_back({"softmax" + suffix, {x}, [](Context&, const Vars& v) { return softmax(v[0]); }});
    cases.push_back({"log_softmax" + suffix, {x}, [](Context&, const Vars& v) { return log_softmax(v[0]); }});
    cases.push_back({"logsumexp" + suffix, {x}, [](Context&, const Vars& v) { return logsumexp(v[0]); }});
  };
  softmaxes("", {5, 64});
  softmaxes("/odd", {2, 3, 7});
  softmaxes("/long", {2, 1100});  // one block a row on a GPU
  softmaxes("/one", {4, 1});
  const auto entropy = [&](const char* name, int64_t rows, int64_t classes, int64_t labelled) {
    cases.push_back({name, {{{rows, classes}, -3, 3}}, [=](Context& c, const Vars& x) {
                       std::vector<int32_t> labels(static_cast<size_t>(rows), -1);
                       for (int64_t r = 0; r < labelled; ++r)
                         labels[static_cast<size_t>(r)] = static_cast<int32_t>(r * 5 % classes);
                       return cross_entropy(x[0], ints(c, labels));
                     }});
  };
  entropy("cross_entropy", 6, 4, 6);
  entropy("cross_entropy/odd", 11, 7, 11);
  entropy("cross_entropy/many_rows", 300, 3, 300);
  entropy("cross_entropy/unlabelled", 40, 4, 33);
}

void add_layer_norm(Cases& cases) {
  // On a GPU 64 and 96 fit one warp's registers, 1100 needs several; 7 takes the path for any length.
  for (const auto& [suffix, shape] : {std::pair{"", Shape{9, 64}},
                                      {"/odd", Shape{2, 5, 7}},
                                      {"/partial", Shape{35, 96}},
                                      {"/warps", Shape{3, 1100}}}) {
    const CaseInput x{shape, -2, 2}, gain{{shape[-1]}, 0.5, 1.5}, bias{{shape[-1]}};
    const std::string s = suffix;
    cases.push_back({"layer_norm" + s, {x, gain, bias}, [](Context&, const Vars& v) {
                       return layer_norm(v[0], v[1], v[2], 1e-5);
                     }});
    for (const double p : {0.0, 0.25})
      cases.push_back({"dropout_residual_layer_norm" + s + (p > 0 ? "" : "/p0"),
                       {x, x, gain, bias},
                       [p](Context& c, const Vars& v) {
                         return dropout_residual_layer_norm(v[0], v[1], v[2], v[3], 1e-5, p,
                                                            c.random_key(purpose::kTest));
                       }});
    for (const double p : {0.0, 0.25})
      cases.push_back({"dropout_residual_layer_norm/extras" + s + (p > 0 ? "" : "/p0"),
                       {x, x, gain, bias, bias},
                       [p](Context& c, const Vars& v) {
                         return dropout_residual_layer_norm(v[0], v[1], v[2], v[3], 1e-5, p,
                                                            c.random_key(purpose::kTest),
                                                            {v[4], 0.5, c.random_key(purpose::kTest + 1)});
                       }});
  }
  cases.push_back(
      {"dropout_residual_layer_norm/alone", {{{5, 32}}, {{32}, 0.5, 1.5}, {{32}}}, [](Context& c, const Vars& v) {
         return dropout_residual_layer_norm(v[0], {}, v[1], v[2], 1e-5, 0, {},
                                            {{}, 0.5, c.random_key(purpose::kTest)});
       }});
  cases.push_back({"layer_norm/two_consumers", {{{5, 32}}, {{32}, 0.5, 1.5}, {{32}}}, [](Context&, const Vars& v) {
                     const Var y = layer_norm(v[0], v[1], v[2], 1e-5);
                     return add(mul(y, y), add(y, scale(y, 0.5)));
                   }});
  cases.push_back(
      {"dropout_residual_layer_norm/x_twice", {{{5, 32}}, {{32}, 0.5, 1.5}, {{32}}}, [](Context& c, const Vars& v) {
         return dropout_residual_layer_norm(v[0], v[0], v[1], v[2], 1e-5, 0.5, c.random_key(purpose::kTest));
       }});
  cases.push_back({"dropout_residual_layer_norm/one_bias",
                   {{{5, 32}}, {{5, 32}}, {{32}, 0.5, 1.5}},
                   [](Context& c, const Vars& v) {
                     const Var y = dropout_residual_layer_norm(v[0], v[1], v[2], v[2], 1e-5, 0.5,
                                                               c.random_key(purpose::kTest),
                                                               {v[2], 0.25, c.random_key(purpose::kTest + 1)});
                     return add(mul(y, y), y);
                   }});
}

void add_rows(Cases& cases) {
  for (const auto& [suffix, h] : {std::pair{"", int64_t{32}}, {"/odd", int64_t{7}}}) {
    const std::string s = suffix;
    const CaseInput x{{6, h}};
    cases.push_back({"gather_rows" + s, {x}, [](Context& c, const Vars& v) {
                       return gather_rows(v[0], ints(c, {5, 0, -1, 0, 3, 3, 3, 5}));
                     }});
    cases.push_back({"scatter_rows" + s, {x}, [](Context& c, const Vars& v) {
                       return scatter_rows(v[0], ints(c, {4, 1, -1, 4, 4, 0}), 7);
                     }});
    // Runs of equal ids that end inside, at and beyond the chunks of the sorted sum.
    cases.push_back({"embedding" + s, {x}, [](Context& c, const Vars& v) {
                       std::vector<int32_t> ids(20, 2);
                       ids.insert(ids.end(), 12, 0);
                       ids.insert(ids.end(), 130, 4);
                       ids.insert(ids.end(), {5, 2, 0, 5, 2});
                       return embedding(v[0], ints(c, ids), v[0].dtype());
                     }});
  }
  cases.push_back({"scatter_last", {{{5, 3}}}, [](Context& c, const Vars& v) {
                     const std::vector<int32_t> at = {0, 6, 2, 1, 2, 3, 6, 5, 4, 2, 0, 1, 3, -1, 5};
                     return scatter_last(v[0], from_vector(c, at, {5, 3}), 7);
                   }});
}

void add_top_k(Cases& cases) {
  const auto top = [&](const char* name, Shape shape, int64_t k) {
    CaseInput x{shape};
    x.spacing = 0.02;
    cases.push_back({name, {x}, [k](Context&, const Vars& v) { return top_k(v[0], k).values; }});
  };
  top("top_k", {6, 8}, 2);
  top("top_k/odd", {5, 7}, 3);
  top("top_k/all", {3, 5}, 5);
  top("top_k/wide", {2, 100}, 4);
  OpCase indices{"top_k/indices", {{{4, 6}, -1, 1, 0, 0.05}}, {}, true, false};
  indices.run = [](Context&, const Vars& v) {
    const TopK top = top_k(v[0], 2);
    return record_without_gradient("top_k/indices", cast(top.values.value(), DType::kFloat64));
  };
  cases.push_back(indices);
}

void add_sequences(Cases& cases) {
  for (const auto& [suffix, h] : {std::pair{"", int64_t{40}}, {"/odd", int64_t{5}}}) {
    const std::string s = suffix;
    const auto of = [](Context& c) { return make_sequences(c, {3, 1, 12}, 18); };
    const CaseInput tokens{{18, h}}, one_each{{3, h}};
    cases.push_back({"sequence_mean" + s, {tokens}, [of](Context& c, const Vars& x) {
                       return sequence_mean(x[0], of(c), false);
                     }});
    cases.push_back({"sequence_mean/skip_first" + s, {tokens}, [of](Context& c, const Vars& x) {
                       return sequence_mean(x[0], of(c), true);
                     }});
    cases.push_back({"sequence_mean/keys" + s, {tokens}, [](Context& c, const Vars& x) {
                       return sequence_mean(x[0], make_sequences(c, {6, 6, 6}, 18, {6, 1, 4}), true);
                     }});
    cases.push_back({"position_embedding" + s, {{{13, h}}}, [of](Context& c, const Vars& x) {
                       return position_embedding(x[0], of(c), x[0].dtype());
                     }});
    // With the host's order and with a sort; ids that nobody has in the tail, and valid ones.
    for (const bool ordered : {false, true})
      cases.push_back({(ordered ? "input_embedding/ordered" : "input_embedding") + s,
                       {{{5, h}}, {{13, h}}, {{2, h}}},
                       [=](Context& c, const Vars& x) {
                         const Sequences q = of(c);
                         std::vector<int32_t> ids(static_cast<size_t>(q.tokens), 3);
                         for (size_t t = 0; t < ids.size(); t += 2) ids[t] = t % 4 ? 1 : 4;
                         ids.back() = -1;
                         const RowOrder order = ordered ? order_rows(c, ids, 5) : RowOrder{};
                         return input_embedding({x[0], x[1], x[2]}, ints(c, ids), q, x[0].dtype(), order);
                       }});
    cases.push_back(
        {"first_rows" + s, {tokens}, [of](Context& c, const Vars& x) { return first_rows(x[0], of(c)); }});
    cases.push_back({"sequence_broadcast" + s, {one_each}, [of](Context& c, const Vars& x) {
                       return sequence_broadcast(x[0], of(c));
                     }});
  }
}

}  // namespace

std::vector<Tensor> make_inputs(Context& context, const OpCase& c, DType dtype, uint64_t seed) {
  std::vector<Tensor> tensors;
  for (uint32_t i = 0; i < c.inputs.size(); ++i) {
    const CaseInput& input = c.inputs[i];
    const int64_t n = input.shape.numel();
    std::vector<double> values(static_cast<size_t>(n));
    const std::vector<int32_t> order = random_permutation(n, seed, purpose::kTest, i);
    for (int64_t e = 0; e < n; ++e) {
      double v = input.low + (input.high - input.low) * uniform_from(random_bits(seed, purpose::kTest + 1, i, e));
      if (input.spacing > 0) v = (order[e] - n / 2) * input.spacing;
      if (std::abs(v) < input.keep_from) v += v < 0 ? -input.keep_from : input.keep_from;
      values[e] = static_cast<double>(bfloat16(v));
    }
    tensors.push_back(from_vector(context, values, input.shape, dtype));
  }
  return tensors;
}

std::vector<OpCase> op_cases() {
  Cases cases;
  add_elementwise(cases);
  add_bias(cases);
  add_dropout(cases);
  add_reduce(cases);
  add_softmax(cases);
  add_layer_norm(cases);
  add_rows(cases);
  add_top_k(cases);
  add_sequences(cases);
  add_product_cases(cases);
  add_layer_cases(cases);
  add_router_cases(cases);
  add_task_cases(cases);
  return cases;
}

}  // namespace glia
