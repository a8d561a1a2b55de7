// Rows of the table for mixtures, every router of the registry with every option of its own, losses on routing, and whole
// models: each parameter that a module declares is an input whose gradient is checked.
#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/loss/loss_sum.h"
#include "engine/ops/rows/reduce.h"
#include "moe/losses/losses.h"
#include "moe/mixture.h"
#include "nn/encoder.h"
#include "nn/head.h"
#include "tests/cases/layer_case.h"

namespace glia {
namespace {

MoeConfig small_moe(const std::string& router) {
  MoeConfig c;
  c.router = router, c.n_experts = 4, c.top_k = 2, c.balance = 0.3, c.energy = 0.7;
  for (const LossRow& loss : loss_registry())
    for (const OptionRow& weight : loss.weights)
      if (!loss.always && loss.reads != LossReads::kOutputs &&
          (!loss.of_matrix() || router_row(router).traits.linear))
        c.options.set(weight.name, 0.2);
  return c;
}

EncoderLayer::MakeFeedForward maker(const std::string& router) {
  return [router](ParameterSet& set, const std::string& name, int layer) -> std::unique_ptr<FeedForward> {
    if (router == "none") return make_dense(set, name, small_bert());
    return make_mixture(set, name, small_moe(router), small_bert(), layer);
  };
}

// A part of `first` and the routing's losses, each with a weight of its own.
Var with_losses(std::vector<LossTerm> terms, const std::vector<Routing>& routings) {
  std::vector<double> weights = {1};
  for (const Routing& routing : routings)
    for (const AuxiliaryLosses& losses : routing.losses) {
      LossTerm term{losses.values, {}, 0.5};
      for (size_t i = 0; i < losses.names.size(); ++i) {
        term.part.push_back(static_cast<int>(weights.size()));
        weights.push_back(0.7 / static_cast<double>(weights.size()));
      }
      terms.push_back(term);
    }
  return sum_losses(terms, weights).total;
}

// The layer's output, and that with the losses.
void add_mixture(std::vector<OpCase>& cases, const std::string& name, const MoeConfig& moe) {
  const CaseInput x{{kTokens, 8}};
  const auto layer = [moe](ParameterSet& set) {
    return std::shared_ptr<FeedForward>(make_mixture(set, "l", moe, small_bert(), 0));
  };
  for (const bool first_rows : {false, true}) {
    const std::string rows = first_rows ? "/first_rows" : "";
    cases.push_back(layer_case(name + rows, {x}, [=](ParameterSet& set) -> Forward {
      return
          [l = layer(set), first_rows](const Pass& p, const Vars& v) { return l->forward(v[0], p, first_rows).y; };
    }));
    cases.push_back(layer_case(name + rows + "/with_losses", {x}, [=](ParameterSet& set) -> Forward {
      return [l = layer(set), first_rows](const Pass& p, const Vars& v) {
        const FeedForward::Result r = l->forward(v[0], p, first_rows);
        return with_losses({{mean(square(r.y)), {0}, 1}}, {r.routing});
      };
    }));
  }
}

// The first router of the table whose tokens have K experts, or a number that varies.
std::string router_with_k(bool fixed) {
  for (const RouterRow& row : router_registry())
    if (row.traits.fixed_k == fixed) return row.name;
  fail_input("the table has no such router");
}

// Every mixture there is, its options other than their defaults, and experts beside it that every token has.
void add_mixtures(std::vector<OpCase>& cases) {
  for (const MixtureRow& row : mixture_registry()) {
    MoeConfig moe = small_moe(router_with_k(true));
    moe.options.set("mixture", std::string(row.name));
    add_mixture(cases, fmt::format("mixture/{}", row.name), moe);
    moe.options.set("shared-experts", int64_t{2});
    for (const char* of_matrix : {"simbal-loss", "coupling-loss"})  // want a row of the router an expert
      moe.options.set(of_matrix, 0.0);
    for (const OptionRow& option : row.options)
      moe.options.set(option.name, std::get<int64_t>(option.standard) + 2);
    add_mixture(cases, fmt::format("mixture/{}/shared", row.name), moe);
  }
}

// Losses on what the chosen experts say, of routers with K experts and with as many as it takes.
void add_output_losses(std::vector<OpCase>& cases) {
  for (const LossRow& loss : loss_registry())
    for (const bool fixed : {true, false}) {
      if (loss.reads != LossReads::kOutputs) continue;
      const std::string router = router_with_k(fixed);
      MoeConfig moe = small_moe(router);
      for (const OptionRow& weight : loss.weights) moe.options.set(weight.name, 0.2);
      add_mixture(cases, fmt::format("loss/{}/{}", loss.names[0], router), moe);
    }
}

// Gates, and what they are in training and with losses, of a router alone.
void add_router_alone(std::vector<OpCase>& cases, const std::string& router) {
  const CaseInput x{{kTokens, 8}};
  const auto make = [router](ParameterSet& set) {
    return std::shared_ptr<Router>(make_router(router, set, "r", router_options(small_moe(router), 8, 0.02)));
  };
  ParameterSet declared;
  make(declared);
  const bool learns = !declared.all().empty();
  const size_t first = cases.size();
  cases.push_back(layer_case("router/" + router + "/gates", {x}, [=](ParameterSet& set) -> Forward {
    return [r = make(set)](const Pass& p, const Vars& v) { return r->route({v[0], p}).gates; };
  }));
  // What it does in training alone: noise, and what losses make of it.
  cases.push_back(layer_case("router/" + router + "/training", {x}, [=](ParameterSet& set) -> Forward {
    return [r = make(set), router](const Pass& p, const Vars& v) {
      Pass training = p;
      training.training = true;
      Routing routing = r->route({v[0], training});
      attach_losses(routing, loss_weights(router_row(router), small_moe(router).options), {v[0], training});
      return with_losses({{mean(square(routing.gates)), {0}, 1}}, {routing});
    };
  }));
  cases.push_back(layer_case("router/" + router + "/losses", {x}, [=](ParameterSet& set) -> Forward {
    return [r = make(set), router](const Pass& p, const Vars& v) {
      Routing routing = r->route({v[0], p});
      attach_losses(routing, loss_weights(router_row(router), small_moe(router).options), {v[0], p});
      return with_losses({}, {routing});
    };
  }));
  for (size_t i = first; i < cases.size(); ++i) cases[i].gradient = learns;
}

bool in_router(const Parameter& p) { return p.name.find(".router.") != std::string::npos; }

// A layer in training: its output, its losses, and what its router learns of its draws; with labels where it reads them.
void add_training(std::vector<OpCase>& cases, const std::string& name, const MoeConfig& moe) {
  const RouterTraits& traits = router_row(moe.router).traits;
  // What experts make of labels teaches the router alone: rows and experts matter there and get no gradient.
  const bool alone = traits.needs_labels && traits.reads_experts;
  const Make make = [=](ParameterSet& set) -> Forward {
    const std::shared_ptr<FeedForward> layer = make_mixture(set, "l", moe, small_bert(), 0);
    return [=](const Pass& p, const Vars& v) {
      Context& context = p.sequences.offsets.context();
      Pass training = p;
      training.training = true;
      if (traits.needs_labels) training.labels = from_vector<int32_t>(context, {1, 0}, {2});
      const Var x = alone ? Var(constants(context, {kTokens, 8}, p.compute)) : v[0];
      const FeedForward::Result r = layer->forward(x, training, false);
      std::vector<LossTerm> terms = {{mean(square(r.y)), {0}, 1}};
      if (r.routing.policy.defined()) terms.push_back({mean(r.routing.policy), {0}, 1});
      return with_losses(std::move(terms), {r.routing});
    };
  };
  if (alone) cases.push_back(layer_case(name, {}, make, in_router));
  else cases.push_back(layer_case(name, {{{kTokens, 8}}}, make));
}

// "NAME=VALUE,…" of the options that are not as usual.
std::string told(const RouterRow& row, const OptionValues& own) {
  std::string text;
  for (const OptionRow& o : row.options)
    if (own.contains(o.name) && own.all().at(o.name) != o.standard)
      text += fmt::format("{}{}={}", text.empty() ? "" : ",", o.name, option_text(own.all().at(o.name)));
  return text;
}

MoeConfig with_options(const RouterRow& row, const OptionValues& own) {
  MoeConfig moe = small_moe(row.name);
  for (const auto& [name, value] : own.all()) moe.options.set(name, value);
  return moe;
}

bool takes(const RouterRow& row, const OptionValues& own) {
  ParameterSet set;
  try {
    make_mixture(set, "l", with_options(row, own), small_bert(), 0);
  } catch (const std::exception&) {
    return false;
  }
  return true;
}

// Every combination of an option's texts and switches.
std::vector<OptionValues> combinations(const RouterRow& row) {
  std::vector<OptionValues> all = {{}};
  for (const OptionRow& o : row.options) {
    std::vector<OptionValue> values;
    for (const char* choice : o.choices) values.emplace_back(std::string(choice));
    if (std::holds_alternative<bool>(o.standard)) values = {false, true};
    if (values.empty()) continue;
    std::vector<OptionValues> longer;
    for (const OptionValues& own : all)
      for (const OptionValue& value : values) longer.push_back(own), longer.back().set(o.name, value);
    all = std::move(longer);
  }
  return all;
}

// Other numbers that an option may be.
std::vector<OptionValue> other_numbers(const OptionRow& o) {
  std::vector<OptionValue> all;
  for (const double number : {0.0, 0.5, 1.0, 2.0, 3.0, 4.0}) {
    const double value = std::min(number, o.most);
    if (value < o.least) continue;
    if (std::holds_alternative<double>(o.standard)) all.emplace_back(value);
    if (std::holds_alternative<int64_t>(o.standard) && number != 0.5) all.emplace_back(static_cast<int64_t>(value));
  }
  std::erase(all, o.standard);
  all.erase(std::unique(all.begin(), all.end()), all.end());
  return all;
}

// Each number at another value, the least and the largest of those that the router takes; where it takes none alone, every
// one beside another number.
std::vector<OptionValues> with_numbers(const RouterRow& row) {
  std::vector<OptionValues> all;
  for (const OptionRow& o : row.options) {
    std::vector<OptionValues> taken;
    const auto add = [&](OptionValues own, const OptionValue& value) {
      own.set(o.name, value);
      if (takes(row, own)) taken.push_back(std::move(own));
    };
    for (const OptionValue& value : other_numbers(o)) add({}, value);
    if (taken.size() > 2) taken = {taken.front(), taken.back()};
    if (taken.empty())
      for (const OptionRow& other : row.options)
        for (const OptionValue& beside : other_numbers(other)) {
          OptionValues own;
          own.set(other.name, beside);
          if (other.name != o.name)
            for (const OptionValue& value : other_numbers(o)) add(own, value);
        }
    all.insert(all.end(), taken.begin(), taken.end());
  }
  return all;
}

// What losses' other options change, on a router that has what they read.
void add_loss_options(std::vector<OpCase>& cases) {
  for (const LossRow& loss : loss_registry())
    for (const OptionRow& o : loss.options)
      for (const OptionValue& value : other_numbers(o)) {
        MoeConfig moe = small_moe(router_with_k(true));
        moe.options.set(o.name, value);
        add_training(cases, fmt::format("loss/{}/{}={}", loss.names[0], o.name, option_text(value)), moe);
      }
}

// What a router's options change, from its table of them: a new one is walked as it is there.
void add_options(std::vector<OpCase>& cases, const RouterRow& row) {
  std::vector<OptionValues> all = combinations(row);
  for (OptionValues& own : with_numbers(row)) all.push_back(std::move(own));
  for (const OptionValues& own : all)
    if (const std::string text = told(row, own); !text.empty() && takes(row, own))
      add_training(cases, fmt::format("moe/{}/{}", row.name, text), with_options(row, own));
}

// That and the layer's output, for every router there is.
void add_router(std::vector<OpCase>& cases, const RouterRow& row) {
  const std::string name = row.name;
  if (!row.traits.reads_experts) add_router_alone(cases, name);
  add_mixture(cases, "moe/" + name, small_moe(name));
  add_training(cases, "moe/" + name + "/training", small_moe(name));
  add_options(cases, row);
}

void add_model(std::vector<OpCase>& cases, const std::string& router) {
  cases.push_back(layer_case("model/" + router, {}, [router](ParameterSet& set) -> Forward {
    const auto bert = std::make_shared<Bert>(set, small_bert(), maker(router));
    const auto head = std::make_shared<ClassificationHead>(set, small_bert());
    return [bert, head](const Pass& p, const Vars&) {
      Context& c = bert->embeddings.word->var.context();
      const Bert::Result r = bert->forward(ids(c), p, true);
      const Var loss = head->forward(r.hidden, from_vector<int32_t>(c, {2, 0}, {2}), p).loss;
      return with_losses({{loss, {0}, 1}}, r.routings);
    };
  }));
}

}  // namespace

void add_router_cases(std::vector<OpCase>& cases) {
  for (const RouterRow& row : router_registry()) add_router(cases, row);
  add_mixtures(cases);
  add_output_losses(cases);
  add_loss_options(cases);
  add_model(cases, "none");
  for (const RouterRow& row : router_registry()) add_model(cases, row.name);
}

}  // namespace glia
