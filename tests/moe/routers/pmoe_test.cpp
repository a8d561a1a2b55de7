// PMoE's own losses, which are there in training with labels alone, against loops; and what they train.
#include <algorithm>

#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/rows/reduce.h"
#include "tests/moe/bench.h"

namespace glia::test {
namespace {

constexpr int64_t kLabels = 3, kExperts = 4;

struct Trained {
  Bench bench;
  std::vector<int32_t> labels = {0, 1, 2};  // the bench's

  Trained() : bench("pmoe", kExperts, 2, {5, 1, 7}, 15, own()) {}
  static OptionValues own() {
    OptionValues own;
    own.set("label-count", kLabels);
    return own;
  }
  Routing route(const Var& x) {
    Pass pass{bench.sequences, bench.first, true, DType::kFloat64, 0};
    pass.labels = bench.labels();
    return bench.layer->router().route({x, pass, 0, &bench.layer->experts()});
  }
  double loss(const Routing& routing, const std::string& name) {
    for (const AuxiliaryLosses& l : routing.losses)
      if (l.names[0] == name) return values(l.values.value())[0];
    FAIL("no loss " << name);
    return 0;
  }
};

// y [O] = W x + b of row `row` of x
std::vector<double> product(const double* w, const double* b, const double* x, size_t out, size_t in) {
  std::vector<double> y(b, b + out);
  for (size_t o = 0; o < out; ++o)
    for (size_t i = 0; i < in; ++i) y[o] += w[o * in + i] * x[i];
  return y;
}

// {frequency, skill}
std::pair<double, double> losses_by_loops(Trained& t, const std::vector<double>& x) {
  constexpr size_t H = kHidden, F = kFfn, E = kExperts, C = kLabels;
  Bench& b = t.bench;
  const auto up = b.weights("l.moe.experts.up.weight"), up_bias = b.weights("l.moe.experts.up.bias"),
             down = b.weights("l.moe.experts.down.weight"), down_bias = b.weights("l.moe.experts.down.bias"),
             skill = b.weights("l.moe.router.skill.weight"), skill_bias = b.weights("l.moe.router.skill.bias"),
             token = b.weights("l.moe.router.token.weight"), token_bias = b.weights("l.moe.router.token.bias");
  const std::vector<int32_t> of = b.sequences.sequence_of.to_vector<int32_t>();
  double frequency = 0, told = 0, rows = 0;
  for (size_t s = 0; s < of.size(); ++s) {
    if (of[s] < 0) continue;
    const std::vector<double> l = product(token.data(), token_bias.data(), &x[s * H], E, H),
                              w = oracle_softmax(l.data(), E);
    std::vector<double> loss;
    for (size_t e = 0; e < E; ++e) {
      std::vector<double> inner = product(&up[e * F * H], &up_bias[e * F], &x[s * H], F, H);
      for (double& v : inner) v *= 0.5 * (1 + std::erf(v / std::sqrt(2.0)));
      const std::vector<double> z = product(&down[e * H * F], &down_bias[e * H], inner.data(), H, F),
                                c = product(skill.data(), skill_bias.data(), z.data(), C, H);
      loss.push_back(-std::log(oracle_softmax(c.data(), C)[size_t(t.labels[size_t(of[s])])]));
    }
    const auto best = size_t(std::ranges::min_element(loss) - loss.begin());
    for (size_t e = 0; e < E; ++e) frequency += std::pow(w[e] - (e == best), 2) / double(E);
    told += loss[best], rows += 1;
  }
  return {frequency / rows, told / rows};
}

TEST_CASE("pmoe: the frequency's and the best expert's losses are those of loops, in training with labels alone") {
  Trained t;
  const Tensor x = t.bench.input();
  const Routing routing = t.route(Var(x));
  const auto [frequency, skill] = losses_by_loops(t, values(x));
  EXPECT(t.loss(routing, "frequency") == doctest::Approx(frequency).epsilon(1e-12));
  EXPECT(t.loss(routing, "skill") == doctest::Approx(skill).epsilon(1e-12));
  for (const AuxiliaryLosses& l : t.bench.run(Var(x)).routing.losses)  // in evaluation
    EXPECT((l.names[0] != "frequency" && l.names[0] != "skill"));
}

TEST_CASE("pmoe: the frequency trains the router, the other loss the layer's classifier; neither the experts") {
  for (const std::string name : {"frequency", "skill"}) {
    INFO(name);
    Trained t;
    const Var x = Var::parameter(t.bench.input());
    const Routing routing = t.route(x);
    for (const AuxiliaryLosses& l : routing.losses)
      if (l.names[0] == name) backward(reshape(l.values, {}));
    for (const Parameter& p : t.bench.set.all()) {
      INFO(p.name);
      const bool trains = name == "frequency" ? contains(p.name, "router.token") : contains(p.name, "router.skill");
      const std::vector<double> gradient = p.var.grad().defined() ? values(p.var.grad()) : std::vector<double>{0};
      EXPECT((largest(gradient) > 1e-9) == trains);
      if (!trains) continue;
      // Central differences of a few of its numbers; the steps change no choice of the best.
      const std::vector<double> before = values(p.var.value());
      for (size_t i = 0; i < before.size(); i += before.size() / 5 + 1) {
        const auto at = [&](double shift) {
          std::vector<double> moved = before;
          moved[i] += shift;
          Tensor(p.var.value()).copy_from(from_vector<double>(t.bench.context, moved, p.shape, DType::kFloat64));
          return t.loss(t.route(Var(x.value())), name);
        };
        const double measured = (at(1e-6) - at(-1e-6)) / 2e-6;
        at(0);
        EXPECT(measured == doctest::Approx(gradient[i]).epsilon(1e-5).scale(1e-2));
      }
    }
    // The frequency reads x through the router's logits; what an expert makes of x stays apart from it.
    if (name == "skill") EXPECT(!x.grad().defined());
  }
}

}  // namespace
}  // namespace glia::test
