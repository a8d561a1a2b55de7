// Every mixture of the registry, in float64 without dropout, against plain loops.
#include "moe/mixture.h"

#include "moe/warm_start.h"
#include "nn/weights/hugging_face.h"
#include "tests/moe/bench.h"
#include "tests/temporary_folder.h"

namespace glia::test {
namespace {

// One layer of any mixture, with its pass.
struct Layer {
  static constexpr int64_t kExperts = 4;
  Context context{test_device()};
  ParameterSet set;
  std::unique_ptr<Mixture> mixture;
  std::vector<int32_t> lengths = {5, 1, 7};
  Sequences sequences = make_sequences(context, lengths, 15), first = make_sequences(context, {1, 1, 1});
  Tensor x = random_normal(context, {15, kHidden}, 1, 9, purpose::kTest, 0, DType::kFloat64);

  explicit Layer(const MoeConfig& moe) : mixture(make_mixture(set, "l", moe, tiny_config(plain_router()).bert, 0)) {
    set.materialise(context, 5, DType::kFloat64);
    for (const Parameter& p : set.all())
      if (!p.decay || p.init.std == 0) set.redraw(p, Init::normal(0.3), 5);
  }
  FeedForward::Result run(bool first_rows = false) {
    Pass pass{sequences, first, false, DType::kFloat64, 0};
    return mixture->forward(x, pass, first_rows);
  }
  std::vector<double> weight(const std::string& name) { return values(set.get("l.moe." + name).var.value()); }
};

MoeConfig config_of(const char* mixture, int64_t shared = 0, const std::string& router = plain_router()) {
  MoeConfig moe{router, Layer::kExperts, 2, 0.1, 0.2};
  moe.options.set("mixture", std::string(mixture));
  if (shared > 0) moe.options.set("shared-experts", shared);
  return moe;
}

struct Ffn {
  std::vector<double> up, up_bias, down, down_bias;

  static Ffn of(Layer& layer, const std::string& experts) {
    return {layer.weight(experts + ".up.weight"), layer.weight(experts + ".up.bias"),
            layer.weight(experts + ".down.weight"), layer.weight(experts + ".down.bias")};
  }
  // Σ_e p_e of the weights.
  Ffn mean(const std::vector<double>& p) const {
    const auto one = [&](const std::vector<double>& w) {
      const size_t n = w.size() / p.size();
      std::vector<double> sum(n);
      for (size_t i = 0; i < w.size(); ++i) sum[i % n] += p[i / n] * w[i];
      return sum;
    };
    return {one(up), one(up_bias), one(down), one(down_bias)};
  }
  Ffn expert(size_t e, size_t count) const {
    std::vector<double> p(count);
    p[e] = 1;
    return mean(p);
  }
  std::vector<double> operator()(const double* x) const {
    std::vector<double> y = down_bias;
    for (size_t f = 0; f < up_bias.size(); ++f) {
      double sum = up_bias[f];
      for (size_t h = 0; h < y.size(); ++h) sum += up[f * y.size() + h] * x[h];
      const double g = 0.5 * sum * (1 + std::erf(sum / std::sqrt(2.0)));
      for (size_t h = 0; h < y.size(); ++h) y[h] += down[h * up_bias.size() + f] * g;
    }
    return y;
  }
};

// What a mixture makes of the rows [begin, end) of one sequence: its output and each token's shares of the experts.
struct Expected {
  std::vector<double> y, shares;
};

Expected merged(Layer& layer, const std::vector<double>& l, const std::vector<double>& x, size_t begin,
                size_t end) {
  std::vector<double> mean(Layer::kExperts);
  for (size_t t = begin; t < end; ++t)
    for (size_t e = 0; e < mean.size(); ++e) mean[e] += l[t * mean.size() + e] / static_cast<double>(end - begin);
  const std::vector<double> p = oracle_softmax(mean.data(), Layer::kExperts);
  const Ffn ffn = Ffn::of(layer, "experts").mean(p);
  Expected r;
  for (size_t t = begin; t < end; ++t) {
    const std::vector<double> y = ffn(&x[t * kHidden]);
    r.y.insert(r.y.end(), y.begin(), y.end());
    r.shares.insert(r.shares.end(), p.begin(), p.end());
  }
  return r;
}

Expected soft(Layer& layer, const std::vector<double>& l, const std::vector<double>& x, size_t begin, size_t end,
              size_t of_each) {
  const size_t E = Layer::kExperts, S = E * of_each;
  std::vector<std::vector<double>> slots;
  for (size_t s = 0; s < S; ++s) {
    std::vector<double> column;
    for (size_t t = begin; t < end; ++t) column.push_back(l[t * S + s]);
    const std::vector<double> d = oracle_softmax(column.data(), static_cast<int64_t>(column.size()));
    std::vector<double> blend(kHidden);
    for (size_t t = begin; t < end; ++t)
      for (size_t h = 0; h < blend.size(); ++h) blend[h] += d[t - begin] * x[t * kHidden + h];
    slots.push_back(Ffn::of(layer, "experts").expert(s / of_each, E)(blend.data()));
  }
  Expected r;
  for (size_t t = begin; t < end; ++t) {
    const std::vector<double> c = oracle_softmax(&l[t * S], static_cast<int64_t>(S));
    r.y.resize(r.y.size() + kHidden);
    r.shares.resize(r.shares.size() + E);
    for (size_t s = 0; s < S; ++s) {
      for (size_t h = 0; h < kHidden; ++h) r.y[r.y.size() - kHidden + h] += c[s] * slots[s][h];
      r.shares[r.shares.size() - E + s / of_each] += c[s];
    }
  }
  return r;
}

void compare(Layer& layer,
             const std::function<Expected(const std::vector<double>& x, size_t, size_t)>& of_sequence) {
  const FeedForward::Result r = layer.run();
  const std::vector<double> x = values(layer.x), gates = values(r.routing.gates.value());
  const auto experts = r.routing.experts.to_vector<int32_t>();
  Expected all;
  size_t begin = 0;
  for (const int32_t length : layer.lengths) {
    const Expected one = of_sequence(x, begin, begin + static_cast<size_t>(length));
    all.y.insert(all.y.end(), one.y.begin(), one.y.end());
    all.shares.insert(all.shares.end(), one.shares.begin(), one.shares.end());
    begin += static_cast<size_t>(length);
  }
  all.y.resize(x.size());
  EXPECT(largest_difference(values(r.y.value()), all.y) < 1e-12);
  REQUIRE(experts.size() == 15 * 4);
  for (size_t i = 0; i < experts.size(); ++i) {
    const size_t t = i / 4;
    if (t >= 13) EXPECT((experts[i] == -1 && gates[i] == 0));
    else EXPECT(std::abs(gates[i] - all.shares[t * 4 + size_t(experts[i])]) < 1e-13);
    EXPECT((i % 4 == 0 || gates[i] <= gates[i - 1]));
  }
  const std::vector<double> losses = values(r.routing.losses[0].values.value());
  EXPECT(std::abs(losses[1] - (0.25 + 3.0 / 16 * losses[0])) < 1e-7);  // their gates sum to 1
}

TEST_CASE("merged: a sequence's FFN has the experts' mean weights by the softmax of its mean scores") {
  Layer layer(config_of("merged"));
  const std::vector<double> l =
      oracle_linear(values(layer.x), layer.weight("router.token.weight"), layer.weight("router.token.bias"));
  compare(layer,
          [&](const std::vector<double>& x, size_t begin, size_t end) { return merged(layer, l, x, begin, end); });
}

TEST_CASE(
    "soft: experts read blends of a sequence's tokens and tokens blends of slots, with one slot and several") {
  for (const int64_t slots : {1, 3}) {
    MoeConfig moe = config_of("soft");
    moe.options.set("slots", slots);
    Layer layer(moe);
    const std::vector<double> l =
        oracle_linear(values(layer.x), layer.weight("router.token.weight"), layer.weight("router.token.bias"));
    compare(layer, [&](const std::vector<double>& x, size_t begin, size_t end) {
      return soft(layer, l, x, begin, end, static_cast<size_t>(slots));
    });
    // The reported scores have the shares for their softmax.
    const Routing r = layer.run().routing;
    const std::vector<double> scores = values(r.scores.value()), gates = values(r.gates.value());
    REQUIRE(scores.size() == 15 * 4);
    for (size_t t = 0; t < 13; ++t) {
      std::vector<double> p = oracle_softmax(&scores[t * 4], 4);
      std::sort(p.rbegin(), p.rend());
      for (size_t e = 0; e < 4; ++e) EXPECT(std::abs(p[e] - gates[t * 4 + e]) < 1e-13);
    }
  }
}

TEST_CASE("mixtures: experts that are shared add their outputs to any mixture's, whose routing stays what it is") {
  for (const MixtureRow& row : mixture_registry()) {
    INFO(std::string(row.name));
    Layer plain(config_of(row.name)), with(config_of(row.name, 2));
    for (const bool first : {false, true}) {
      const FeedForward::Result a = plain.run(first), b = with.run(first);
      EXPECT(values(a.routing.gates.value()) == values(b.routing.gates.value()));
      EXPECT(a.routing.n_experts == b.routing.n_experts);
      std::vector<double> y = values(a.y.value());
      const std::vector<double> x = values(b.x.value());
      const size_t rows = first ? 3 : 13;  // not the tail
      for (size_t e = 0; e < 2; ++e) {
        const Ffn ffn = Ffn::of(with, "shared").expert(e, 2);
        for (size_t t = 0; t < rows; ++t) {
          const std::vector<double> one = ffn(&x[t * kHidden]);
          for (size_t h = 0; h < kHidden; ++h) y[t * kHidden + h] += one[h];
        }
      }
      EXPECT(largest_difference(values(b.y.value()), y) < 1e-12);
    }
  }
}

TEST_CASE("mixtures: from a dense model's weights, shared and chosen copies of its FFN add up to one") {
  const TemporaryFolder folder("mixtures");
  Context context(test_device());
  const ModelConfig dense_config = tiny_config("none");
  Model dense(context, dense_config, 11);
  export_hugging_face(folder / "hf", dense.parameters(), {});
  const Batch batch = tiny_batch(context, {6, 3, 9}, dense_config.bert);
  const auto hidden = [&](const Model& m) {
    const Sequences first = make_sequences(context, {1, 1, 1});
    const Pass pass{batch.sequences, first, false, DType::kFloat64, 0};
    return values(m.bert().forward(batch.ids, pass, false).hidden.value());
  };
  const std::vector<double> expected = hidden(dense);
  for (const int64_t shared : {0, 1, 3})
    for (const MixtureRow& row : mixture_registry()) {
      if (row.blends_tokens) continue;  // its experts do not read the tokens that the FFN read
      INFO(std::string(row.name));
      ModelConfig config = dense_config;
      config.moe = config_of(row.name, shared);
      Model model(context, config, 12);
      WarmStartOptions options;
      options.noise = 0;
      warm_start(model, Weights(folder / "hf"), options);
      EXPECT(largest_difference(hidden(model), expected) < 1e-6);  // the file holds float32
    }
}

TEST_CASE(
    "mixtures: options of another one, routers whose choice is all they have, and updates by choices are refused") {
  const auto error = [&](const MoeConfig& moe) {
    ParameterSet set;
    return error_of([&] { make_mixture(set, "l", moe, {}, 0); });
  };
  for (const MixtureRow& row : mixture_registry()) {
    for (const MixtureRow& other : mixture_registry())
      for (const OptionRow& option : other.options) {
        MoeConfig moe = config_of(row.name);
        moe.options.set(option.name, option.standard);
        EXPECT(error(moe) == (&row == &other ? ""
                                             : fmt::format("--{}: expected --mixture {}, got {}", option.name,
                                                           other.name, row.name)));
      }
    if (std::string_view(row.name) == "routed") continue;
    for (const RouterRow& router : router_registry())
      EXPECT(contains(error(config_of(row.name, 0, router.name)), "learns from its scores, keeps no state") ==
             (router.traits.stateful || router.traits.untrained || router.traits.reads_experts));
    MoeConfig moe = config_of(row.name);
    moe.options.set("update-rule", std::string("orthogonal"));
    EXPECT(contains(error(moe), "--update-rule: expected --mixture routed"));
  }
  MoeConfig moe = config_of("soft");
  moe.options.set("slots", int64_t{2});
  moe.options.set("simbal-loss", 0.1);
  EXPECT(contains(error(moe), "--slots 2: expected 1 with a loss on the router's matrix"));
}

}  // namespace
}  // namespace glia::test
