// What the table cannot say: exact values and ties, fused ops against their references, edge cases, error messages.
#include <array>
#include <cmath>
#include <thread>

#include "engine/ops/elementwise/dropout.h"
#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/loss/softmax.h"
#include "engine/ops/norm/layer_norm.h"
#include "engine/ops/rows/bias.h"
#include "engine/ops/rows/reduce.h"
#include "engine/ops/rows/rows.h"
#include "engine/ops/rows/topk.h"
#include "engine/ops/sequences/sequences.h"
#include "tests/device.h"
#include "tests/test.h"

using namespace glia;
using glia::test::contains;
using glia::test::error_of;

namespace {

using Vars = std::vector<Var>;
using Values = std::vector<double>;
using Run = std::function<Var(const Vars&)>;

Tensor ints(Context& c, const std::vector<int32_t>& v) {
  return from_vector(c, v, {static_cast<int64_t>(v.size())});
}
Var matrix(Context& c, const Values& v, const Shape& shape) { return from_vector(c, v, shape, DType::kFloat32); }

std::vector<Values> evaluate(const Run& run, const std::vector<Tensor>& values, DType dtype) {
  Vars inputs;
  for (const Tensor& v : values) inputs.push_back(Var::parameter(cast(v, dtype)));
  const Var y = run(inputs);
  std::vector<Values> results = {y.value().to_vector<double>()};
  backward(y, cast(random_normal(y.context(), y.shape(), 1, 9, purpose::kTest, 99), y.dtype()));
  for (const Var& x : inputs) results.push_back(x.grad().to_vector<double>());
  return results;
}

double distance(const Values& a, const Values& b) {
  double error = 0;
  for (size_t i = 0; i < a.size(); ++i) error += (a[i] - b[i]) * (a[i] - b[i]);
  return std::sqrt(error);
}

// docs/contributing.md, tolerances: against float64, the fused op errs at most twice as much as the plain ops in the same precision, its
// gradients three times. Inputs fit bfloat16, so that all runs see the same numbers.
void compare(const char* what, const Run& fused, const Run& plain, const std::vector<Tensor>& values) {
  std::vector<Tensor> inputs;
  for (const Tensor& v : values) inputs.push_back(cast(cast(v, DType::kBFloat16), DType::kFloat64));
  const auto exact = evaluate(plain, inputs, DType::kFloat64),
             fused_exact = evaluate(fused, inputs, DType::kFloat64);
  for (size_t i = 0; i < exact.size(); ++i)
    EXPECT(distance(fused_exact[i], exact[i]) <= 1e-12 * distance(exact[i], Values(exact[i].size())));
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    const auto reference = evaluate(plain, inputs, dtype), got = evaluate(fused, inputs, dtype);
    for (size_t i = 0; i < exact.size(); ++i) {
      const double error = distance(got[i], exact[i]), allowed = (i ? 3 : 2) * distance(reference[i], exact[i]);
      INFO(what, " in ", std::string(name(dtype)), ", result ", i, ": error ", error, ", allowed ", allowed);
      EXPECT(error <= allowed);
    }
  }
}

}  // namespace

TEST_CASE("fused: bias + GELU, and dropout + residual + layer norm, err no more than the plain ops") {
  Context c(test::device(), 3);
  for (const auto& [rows, n] : {std::pair<int64_t, int64_t>{40, 512}, {33, 200}, {7, 33}, {37, 2056}, {19, 8192}}) {
    const auto normal = [&](const Shape& s, double std, uint32_t i) {
      return random_normal(c, s, std, 3, purpose::kTest, i);
    };
    compare(
        "bias_gelu", [](const Vars& v) { return bias_gelu(v[0], v[1]); },
        [](const Vars& v) { return bias_gelu_reference(v[0], v[1]); },
        {normal({rows, n}, 2, 1), normal({n}, 0.5, 2)});
    const RandomKey key = c.random_key(purpose::kDropout);
    for (const double p : {0.0, 0.1}) {
      const std::vector<Tensor> inputs{normal({rows, n}, 1, 1), normal({rows, n}, 1, 2), normal({n}, 0.3, 3),
                                       normal({n}, 0.3, 4)};
      compare(
          "dropout_residual_layer_norm",
          [&](const Vars& v) { return dropout_residual_layer_norm(v[0], v[1], v[2], v[3], 1e-12, p, key); },
          [&](const Vars& v) {
            return dropout_residual_layer_norm_reference(v[0], v[1], v[2], v[3], 1e-12, p, key);
          },
          inputs);
      std::vector<Tensor> with_bias = inputs;
      with_bias.push_back(normal({n}, 0.5, 5));
      const auto extras = [&](const Vars& v) {
        return LayerNormExtras{v[4], p, c.random_key(purpose::kDropout + 1)};
      };
      compare(
          "dropout_residual_layer_norm, input bias and output dropout",
          [&](const Vars& v) {
            return dropout_residual_layer_norm(v[0], v[1], v[2], v[3], 1e-12, p, key, extras(v));
          },
          [&](const Vars& v) {
            return dropout_residual_layer_norm_reference(v[0], v[1], v[2], v[3], 1e-12, p, key, extras(v));
          },
          with_bias);
    }
  }
}

TEST_CASE("bias, layer norm, embedding: float32 masters under bfloat16 activations") {
  Context c(test::device());
  const Var x = Var::parameter(random_normal(c, {6, 64}, 1, 1, purpose::kTest, 1, DType::kBFloat16));
  const Var b = Var::parameter(random_normal(c, {64}, 1, 1, purpose::kTest, 2)),
            g = Var::parameter(full(c, {64}, 1));
  const Var table = Var::parameter(random_normal(c, {5, 64}, 1, 1, purpose::kTest, 3));
  const Var words = embedding(table, ints(c, {4, 0, 4, 1, 2, 2}), DType::kBFloat16);
  const Var y = layer_norm(bias_gelu(bias_add(add(x, words), b), b), g, b, 1e-12);
  EXPECT(y.dtype() == DType::kBFloat16);
  backward(y, full(c, y.shape(), 1, DType::kBFloat16));
  EXPECT(x.grad().dtype() == DType::kBFloat16);
  EXPECT(b.grad().dtype() == DType::kFloat32);
  EXPECT(table.grad().dtype() == DType::kFloat32);
  EXPECT(table.grad().rows(3, 4).to_vector<double>() == Values(64, 0.0));  // never looked up
  // The master's conversion happens once: in the lookup.
  EXPECT(words.value().rows(0, 1).to_vector<double>() ==
         cast(table.value().rows(4, 5), DType::kBFloat16).to_vector<double>());
}

TEST_CASE("embedding: frequent ids are added in chunks, in ascending order, and counted exactly") {
  Context c(test::device());
  std::vector<int32_t> ids;
  std::vector<double> count(40, 0);
  for (int i = 0; i < 3000; ++i) {
    const int32_t id = i % 3 ? 17 : static_cast<int32_t>(random_below(40, 8, purpose::kTest, 0, i));
    ids.push_back(id), ++count[id];
  }
  const Var table = Var::parameter(zeros(c, {40, 3}));
  backward(sum(embedding(table, ints(c, ids), DType::kFloat32)));
  const auto g = table.grad().to_vector<double>();
  for (int i = 0; i < 40; ++i) REQUIRE(g[3 * i + 1] == count[i]);
}

TEST_CASE("input embedding: the sum of its parts; the host's order gives the bits of the device's sort") {
  Context c(test::device());
  for (const int64_t h : {64, 6})
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
      INFO(h, " ", name(dtype));
      const int64_t n = 900;
      const Sequences q = make_sequences(c, std::vector<int32_t>(40, 50), 2048);
      std::vector<int32_t> ids(static_cast<size_t>(q.tokens), -1);
      for (size_t t = 0; t < 2000; ++t)  // a third is one word: its runs cross chunks
        ids[t] = t % 3 ? static_cast<int32_t>(random_below(n, 8, purpose::kTest, 0, t)) : 17;
      const Tensor index = ints(c, ids), dy = random_normal(c, {q.tokens, h}, 1, 3, purpose::kTest, 9, dtype);
      const auto table = [&](int64_t rows, uint32_t i) {
        return random_normal(c, {rows, h}, 1, 3, purpose::kTest, i);
      };
      const Tensor words = table(n, 1), positions = table(60, 2), types = table(2, 3);
      const auto run = [&](auto&& op) {
        const EmbeddingTables t{Var::parameter(words), Var::parameter(positions), Var::parameter(types)};
        const Var y = op(t);
        backward(y, dy);
        return std::array<Values, 4>{y.value().to_vector<double>(), t.words.grad().to_vector<double>(),
                                     t.positions.grad().to_vector<double>(), t.types.grad().to_vector<double>()};
      };
      const auto plain =
          run([&](const EmbeddingTables& t) { return input_embedding_reference(t, index, q, dtype); });
      const auto sorted = run([&](const EmbeddingTables& t) { return input_embedding(t, index, q, dtype); });
      const auto ordered =
          run([&](const EmbeddingTables& t) { return input_embedding(t, index, q, dtype, order_rows(c, ids, n)); });
      EXPECT(sorted == ordered);
      EXPECT(sorted[1] == plain[1]);
      EXPECT(sorted[2] == plain[2]);
      for (size_t i = 0; i < sorted[0].size(); ++i)  // one rounding, not three
        EXPECT(std::abs(sorted[0][i] - plain[0][i]) <=
               (dtype == DType::kFloat32 ? 0 : 0.02 * (1 + std::abs(plain[0][i]))));
      for (size_t i = 0; i < sorted[3].size(); ++i)
        EXPECT(sorted[3][i] == doctest::Approx(plain[3][i]).epsilon(1e-4));
    }
}

TEST_CASE("input embedding: the weights' copies are read where all tables have such") {
  Context c(test::device());
  const std::vector<int32_t> ids = {4, 0, 4, 2, -1};
  const Sequences q = make_sequences(c, {3, 1}, 5);
  std::vector<Var> masters, copies;
  for (const auto& [rows, i] : {std::pair<int64_t, uint32_t>{5, 1}, {4, 2}, {2, 3}}) {
    const Tensor t = random_normal(c, {rows, 16}, 1, 3, purpose::kTest, i);
    masters.push_back(Var::parameter(t));
    masters.back().set_copy(cast(t, DType::kBFloat16));
    copies.push_back(masters.back().copy());
  }
  const auto run = [&](const std::vector<Var>& v) {
    return input_embedding({v[0], v[1], v[2]}, ints(c, ids), q, DType::kBFloat16);
  };
  const Var y = run(masters);
  EXPECT(y.value().to_vector<float>() == run(copies).value().to_vector<float>());
  masters[1].set_copy({});
  EXPECT(y.value().to_vector<float>() != run(masters).value().to_vector<float>());
  backward(sum(cast(y, DType::kFloat32)));
  EXPECT(masters[0].grad().dtype() == DType::kFloat32);
}

TEST_CASE("input embedding: the gradient of touched rows alone leaves the others what they are") {
  Context c(test::device());
  const std::vector<int32_t> ids = {4, 0, 4, 2};
  const Tensor buffer = full(c, {5, 8}, 7);
  const Sequences q = make_sequences(c, {4});
  const Var words = Var::parameter(zeros(c, {5, 8}), buffer), table = Var::parameter(zeros(c, {5, 8}));
  const RowOrder order = order_rows(c, ids, 5);
  Tensor touched;
  const auto sum_of = [&](const Var& w) {
    const EmbeddingTables tables{w, zeros(c, {4, 8}), zeros(c, {2, 8})};
    return sum(input_embedding(tables, ints(c, ids), q, DType::kFloat32, order, &touched));
  };
  backward(sum_of(words));
  EXPECT(touched.raw() == order.touched.raw());
  EXPECT(words.grad().raw() == buffer.raw());
  const auto g = buffer.to_vector<double>();
  for (int i = 0; i < 5; ++i) EXPECT(g[8 * i + 3] == Values{1, 7, 1, 7, 2}[i]);
  EXPECT(contains(error_of([&] { backward(sum_of(words)); }), "clear it first"));  // the other rows hold anything
  touched = {};
  backward(sum_of(table));  // no buffer of its own: all rows
  EXPECT(!touched.defined());
  const auto whole = table.grad().to_vector<double>();
  for (int i = 0; i < 5; ++i) EXPECT(whole[8 * i + 3] == Values{1, 0, 1, 0, 2}[i]);
}

TEST_CASE("input embedding: behind another use of the table its gradient is added whole") {
  Context c(test::device());
  const std::vector<int32_t> ids = {4, 0, 4, 2};
  const Tensor buffer = full(c, {5, 8}, 7);
  const Sequences q = make_sequences(c, {4});
  const Var words = Var::parameter(zeros(c, {5, 8}), buffer);
  const RowOrder order = order_rows(c, ids, 5);
  Tensor touched;
  const Var in = sum(input_embedding({words, zeros(c, {4, 8}), zeros(c, {2, 8})}, ints(c, ids), q, DType::kFloat32,
                                     order, &touched));
  backward(add(in, scale(sum(words), 10)));  // the later use comes first in backward
  EXPECT(!touched.defined());
  const auto g = buffer.to_vector<double>();
  for (int i = 0; i < 5; ++i) EXPECT(g[8 * i + 3] == Values{11, 10, 11, 10, 12}[i]);
}

TEST_CASE("rows: −1 is nobody, anything else outside is NaN") {
  Context c(test::device());
  const Var x = matrix(c, {1, 2, 3, 4, 5, 6}, {3, 2});
  const auto y = gather_rows(x, ints(c, {2, -1, 3, -2})).value().to_vector<double>();
  EXPECT(Values(y.begin(), y.begin() + 4) == Values{5, 6, 0, 0});
  EXPECT(std::isnan(y[4]));
  EXPECT(std::isnan(y[7]));
  EXPECT(scatter_rows(x, ints(c, {1, 1, -1}), 3).value().to_vector<double>() == Values{0, 0, 4, 6, 0, 0});
  EXPECT(scatter_rows(matrix(c, {}, {0, 2}), ints(c, {}), 2).value().to_vector<double>() == Values(4, 0.0));
}

TEST_CASE("top_k: of equal values the lower index comes first; infinities and NaN come last") {
  Context c(test::device());
  const double inf = INFINITY;
  const TopK top = top_k(matrix(c, {1, 3, 3, 2, 3, 0, 0, 0, 0, 0, -inf, NAN, 5, -inf, NAN}, {3, 5}), 4);
  EXPECT(top.indices.to_vector<int32_t>() == std::vector<int32_t>{1, 2, 4, 3, 0, 1, 2, 3, 2, 0, 1, 3});
  EXPECT(top.values.value().to_vector<double>()[3] == 2);
  EXPECT(std::isnan(top.values.value().to_vector<double>()[10]));
  std::vector<double> wide(1000, 0.0);
  wide[997] = wide[500] = 1;
  EXPECT(top_k(matrix(c, wide, {1, 1000}), 3).indices.to_vector<int32_t>() == std::vector<int32_t>{500, 997, 0});
}

TEST_CASE("max: the gradient goes to the first maximum; NaN wins") {
  Context c(test::device());
  const Var x = Var::parameter(from_vector<double>(c, {1, 5, 5, 2, 2, 2}, {2, 3}));
  backward(sum(max(x, 1)));
  EXPECT(x.grad().to_vector<double>() == Values{0, 1, 0, 1, 0, 0});
  EXPECT(std::isnan(max(matrix(c, {1, NAN, 3}, {3}), 0).value().item()));
}

TEST_CASE("softmax: large and infinite logits") {
  Context c(test::device());
  const double inf = INFINITY;
  EXPECT(softmax(matrix(c, {1000, 1000, -1000}, {3})).value().to_vector<double>() == Values{0.5, 0.5, 0});
  EXPECT(softmax(matrix(c, {0, -inf}, {2})).value().to_vector<double>() == Values{1, 0});
  EXPECT(logsumexp(matrix(c, {-inf, -inf}, {2})).value().item() == -inf);
  EXPECT(logsumexp(matrix(c, {88, 88}, {2})).value().item() == doctest::Approx(88 + std::log(2)));
  EXPECT(cross_entropy(matrix(c, {0, 0, 0, 100}, {2, 2}), ints(c, {0, 0})).value().item() ==
         doctest::Approx((std::log(2) + 100) / 2));
}

TEST_CASE("cross_entropy: rows without a label are passed over, in the mean and in the gradient") {
  Context c(test::device());
  const Var three = Var::parameter(matrix(c, {1, 2, 7, 7, 4, 3}, {3, 2}).value()),
            two = Var::parameter(matrix(c, {1, 2, 4, 3}, {2, 2}).value());
  const Var loss = cross_entropy(three, ints(c, {0, -1, 0})), wanted = cross_entropy(two, ints(c, {0, 0}));
  EXPECT(loss.value().item() == wanted.value().item());
  backward(loss), backward(wanted);
  Values d = two.grad().to_vector<double>();
  d.insert(d.begin() + 2, 2, 0);
  EXPECT(three.grad().to_vector<double>() == d);

  const Var none = Var::parameter(matrix(c, {1, 2, 3, 4}, {2, 2}).value()),
            nothing = cross_entropy(none, ints(c, {-1, -1}));
  EXPECT(nothing.value().item() == 0);
  backward(nothing);
  EXPECT(none.grad().to_vector<double>() == Values{0, 0, 0, 0});
}

TEST_CASE("cross_entropy: a label outside the classes makes the loss NaN; bfloat16 logits give a float32 loss") {
  Context c(test::device());
  const Var logits = cast(matrix(c, {1, 2, 3, 4}, {2, 2}), DType::kBFloat16);
  EXPECT(std::isnan(cross_entropy(logits, ints(c, {0, 2})).value().item()));
  EXPECT(std::isnan(cross_entropy(logits, ints(c, {0, -2})).value().item()));
  const Var loss = cross_entropy(logits, ints(c, {0, 1}));
  EXPECT(loss.dtype() == DType::kFloat32);
  EXPECT(loss.value().item() == doctest::Approx((std::log(1 + M_E) + std::log(1 + 1 / M_E)) / 2).epsilon(1e-6));
}

TEST_CASE("sequences: means count what they should") {
  Context c(test::device());
  const Sequences s = make_sequences(c, {1, 3}, 6);
  EXPECT(s.sequence_of.to_vector<int32_t>() == std::vector<int32_t>{0, 1, 1, 1, -1, -1});
  EXPECT(s.first_rows.to_vector<int32_t>() == std::vector<int32_t>{0, 1});
  EXPECT(s.max_length == 3);
  const Var x = matrix(c, {7, 1, 2, 6, 100, 100}, {6, 1});
  EXPECT(sequence_mean(x, s, false).value().to_vector<double>() == Values{7, 3});
  EXPECT(sequence_mean(x, s, true).value().to_vector<double>() == Values{0, 4});
  const Sequences padded = make_sequences(c, {3, 3}, 0, {2, 3});
  EXPECT(sequence_mean(x, padded, true).value().to_vector<double>() == Values{1, 100});
  EXPECT(sequence_broadcast(matrix(c, {5, 8}, {2, 1}), s).value().to_vector<double>() == Values{5, 8, 8, 8, 0, 0});
}

TEST_CASE("empty tensors pass through") {
  Context c(test::device());
  const Var x = Var::parameter(empty(c, {0, 8})), b = Var::parameter(zeros(c, {8}));
  const Var y = layer_norm(bias_gelu(softmax(exp(x)), b), b, b, 1e-5);
  EXPECT(y.shape() == Shape{0, 8});
  backward(sum(y));
  EXPECT(x.grad().numel() == 0);
  EXPECT(b.grad().to_vector<double>() == Values(8, 0.0));
  EXPECT(sum(x, 0).value().to_vector<double>() == Values(8, 0.0));
}

TEST_CASE(
    "views: a row that does not begin at a multiple of 16 bytes takes the narrow path and gives the same numbers") {
  Context c(test::device());
  const Tensor x = random_normal(c, {9, 7}, 1, 1, purpose::kTest);
  const Tensor view = x.rows(1, 9), copy = view.clone();
  EXPECT(gelu(view).value().to_vector<float>() == gelu(copy).value().to_vector<float>());
  EXPECT(mul(view, copy).value().to_vector<float>() == mul(copy, copy).value().to_vector<float>());
  EXPECT(softmax(view).value().to_vector<float>() == softmax(copy).value().to_vector<float>());
  // Rows of four bfloat16 are 8 bytes: reshaped to eight, a view of them begins between two multiples of 16.
  const Tensor narrow =
      random_normal(c, {5, 4}, 1, 1, purpose::kTest, 0, DType::kBFloat16).rows(1, 5).reshape({2, 8});
  const Tensor aligned = narrow.clone(), ones = full(c, {8}, 1), gains = full(c, {8}, 2);
  const auto same = [&](auto&& op) {
    EXPECT(op(narrow).value().template to_vector<float>() == op(aligned).value().template to_vector<float>());
  };
  same([](const Var& v) { return softmax(v); });
  same([&](const Var& v) { return bias_gelu(v, ones); });
  same([&](const Var& v) { return layer_norm(v, gains, ones, 1e-5); });
  same([&](const Var& v) { return gather_rows(v, ints(c, {1, 0, 1})); });
  same([&](const Var& v) { return scatter_rows(v, ints(c, {1, 1}), 2); });
  same([&](const Var& v) { return sequence_mean(v, make_sequences(c, {2}), false); });
  const RandomKey key{1, 2, nullptr};
  EXPECT(dropout(view, 0.5, key).value().to_vector<float>() == dropout(copy, 0.5, key).value().to_vector<float>());
}

TEST_CASE("errors name the op, what it wanted and what came") {
  Context c(test::device());
  const Var x = zeros(c, {2, 3}), y = zeros(c, {3, 2}), wide = zeros(c, {2, 3}, DType::kFloat64);
  const Tensor i = ints(c, {0, 1}), labels3 = ints(c, {0, 1, 2});
  const auto says = [](auto&& f, const char* op, const char* wanted, const char* got) {
    const std::string message = error_of(f);
    INFO(message);
    EXPECT(message.starts_with(op));
    EXPECT(contains(message, wanted));
    EXPECT(contains(message, got));
  };
  says([&] { add(x, y); }, "add:", "one shape", "float32 [3, 2]");
  says([&] { mul(x, wide); }, "mul:", "one shape, dtype", "float64 [2, 3]");
  says([&] { exp(Var(i)); }, "exp:", "wants float32, float64 or bfloat16", "int32");
  says([&] { bias_add(x, zeros(c, {2})); }, "bias_add:", "a bias [N]", "[2]");
  says([&] { bias_gelu(x, zeros(c, {3}, DType::kFloat64)); }, "bias_gelu:", "in float32", "float64");
  says([&] { dropout(x, 1.0, {}); }, "dropout:", "p < 1", "got 1");
  says([&] { sum(x, 2); }, "sum:", "axis 2", "[2, 3]");
  says([&] { max(zeros(c, {2, 0}), 1); }, "max:", "axis 1", "empty");
  says([&] { softmax(zeros(c, {})); }, "softmax:", "wants [.., N]", "[]");
  says([&] { cross_entropy(x, labels3); }, "cross_entropy:", "labels int32 [2]", "int32 [3]");
  says([&] { cross_entropy(x, zeros(c, {2})); }, "cross_entropy:", "int32", "float32 [2]");
  says([&] { layer_norm(x, zeros(c, {2}), zeros(c, {3}), 1e-5); }, "layer_norm:", "a gain [N]", "[2]");
  says([&] { dropout_residual_layer_norm(x, y, zeros(c, {3}), zeros(c, {3}), 1e-5, 0, {}); },
       "dropout_residual_layer_norm:", "one shape", "[3, 2]");
  says([&] { gather_rows(x, x.value()); }, "gather_rows:", "int32", "float32");
  says([&] { scatter_rows(x, labels3, 4); }, "scatter_rows:", "int32 [2]", "[3]");
  says([&] { embedding(zeros(c, {4}), i, DType::kFloat32); }, "embedding:", "[V, H]", "[4]");
  says([&] { embedding(wide, i, DType::kBFloat16); }, "embedding:", "float64", "bfloat16");
  says([&] { top_k(x, 4); }, "top_k:", "1 <= k <= 3", "got 4");
  says([&] { scatter_last(x, i, 5); }, "scatter_last:", "int32 [2, 3]", "int32 [2]");
  says([&] { sequence_mean(x, make_sequences(c, {1, 2}), false); }, "sequence_mean:", "T = 3", "[2, 3]");
  says([&] { make_sequences(c, {3, 4}, 5); }, "make_sequences:", "7 rows", "5");
  says([&] { reshape(x, {4, 2}); }, "reshape:", "[2, 3] has 6", "[4, 2] has 8");
  says([&] { rows(x, 1, 3); }, "rows:", "<= 2", "3");
  Context other(Device::cpu());
  says([&] { add(x, zeros(other, {2, 3})); }, "add:", "device", "cpu");
}

TEST_CASE("threads with contexts of their own run the same kernels at different sizes") {
  // A launch limit that one thread lowers for its size must not meet the launch of another (4 of 45 runs died of
  // it).
  const auto gradient = [](Context& c, int consumers) {
    const Var x = Var::parameter(random_normal(c, {64, 512}, 1, 5, purpose::kTest)),
              gain = Var::parameter(full(c, {512}, 1.0)), bias = Var::parameter(zeros(c, {512}));
    const Var y = layer_norm(x, gain, bias, 1e-5);
    Var loss = sum(square(y));
    for (int i = 1; i < consumers; ++i) loss = add(loss, sum(scale(square(y), 1.0 + i)));
    backward(loss);
    return x.grad().to_vector<float>();
  };
  std::array<std::string, 4> errors;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      errors[static_cast<size_t>(t)] = error_of([&] {
        Context c(test::device());
        const auto first = gradient(c, t + 1);
        for (int i = 0; i < 30; ++i) CHECK(gradient(c, t + 1) == first, "thread {}: other bits in round {}", t, i);
      });
    });
  for (std::thread& thread : threads) thread.join();
  for (const std::string& error : errors) EXPECT(error == "");
}
