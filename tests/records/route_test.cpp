#include "experiments/records/routing/routing_trace.h"

#include <cmath>

#include "tests/test.h"

using namespace glia;
using namespace glia::results;
using namespace glia::test;

namespace {

// Three tokens, three experts, k = 2, an added bias that favours expert 2.
RoutingTrace fake_trace(ContextKind kind = ContextKind::added) {
  RoutingTrace t;
  t.config = "astrocyte-hierarchical";
  t.text = "stocks rise";
  t.tokens = {"[CLS]", "stöcks", "[SEP]"};
  t.topics = {"World", "Business"};
  t.probabilities = {0.2, 0.8};
  LayerTrace layer;
  layer.n_experts = 3;
  layer.token_logits = Matrix(3, 3);
  layer.token_logits.values = {2, 1,  0,    // [CLS]: alone 0 1
                               3, -1, 2.5,  // stöcks: alone 0 2
                               1, 1,  1};   // [SEP]: a tie, alone 0 1
  layer.kind = kind;
  if (kind == ContextKind::added) layer.context = {0, 0, 1.5};
  layer.logits = layer.token_logits;
  for (int s = 0; s < 3 && kind == ContextKind::added; ++s) layer.logits(s, 2) += 1.5;
  layer.experts = kind == ContextKind::added ? std::vector<std::vector<int>>{{0, 2}, {2, 0}, {2, 0}}
                                             : std::vector<std::vector<int>>{{0, 1}, {0, 2}, {0, 1}};
  layer.gates = {{0.6, 0.4}, {0.7, 0.3}, {0.8, 0.2}};
  t.layers = {layer};
  return t;
}

}  // namespace

TEST_CASE("route: how often the context changed the choice, and who decided") {
  const RoutingTrace t = fake_trace();
  const LayerTrace& layer = t.layers[0];
  EXPECT(choice_without_context(layer, 0) == std::vector<int>{0, 1});
  EXPECT(choice_without_context(layer, 2) == std::vector<int>{0, 1});  // ties: the lower index
  const ContextEffect effect = context_effect(layer);
  EXPECT(effect.tokens == 3);
  EXPECT(effect.changed_set == 2);  // [CLS] and [SEP]; stöcks only changed the order
  EXPECT(effect.changed_top == 2);  // stöcks and [SEP]
  EXPECT(effect.cls_changed);
  LayerTrace order = layer;  // the context turns one pair round, and changes nothing else
  order.experts = {{0, 1}, {2, 0}, {0, 1}};
  EXPECT(context_effect(order).changed_set == 0);
  EXPECT(context_effect(order).changed_top == 1);
  EXPECT(!context_effect(order).cls_changed);
  EXPECT(decided_by(layer, 0, 0) == Decider::token);    // 2 − 1 against 0 − 0.5
  EXPECT(decided_by(layer, 0, 2) == Decider::context);  // 0 − 1 against 1.5 − 0.5
}

TEST_CASE("route: text and JSON") {
  const std::string text = as_text(fake_trace(), false);
  EXPECT(contains(text, "Business   80.00 %"));
  EXPECT(text.find("Business") < text.find("World"));
  EXPECT(contains(text, "  stöcks  e2  0.70 (+2.50 + 1.50)  e0  0.30 (+3.00 + 0.00)  without context: e0 e2\n"));
  EXPECT(contains(text,
                  "the context changed the experts of 2 of 3 tokens, the first expert of 2, among them [CLS]'s"));
  EXPECT(contains(text, "only [CLS] can change the prediction"));
  EXPECT(!contains(text, "\x1b"));
  EXPECT(contains(as_text(fake_trace(), true), "\x1b[1;38;5;"));
  const std::string plain = as_text(fake_trace(ContextKind::none), false);
  EXPECT(contains(plain, "layer 1: in brackets the token's logit\n"));
  EXPECT(contains(plain, "  [CLS]   e0  0.60 (+2.00)  e1  0.40 (+1.00)\n"));
  EXPECT(!contains(plain, "context"));
  const Json json = as_json(fake_trace());
  EXPECT(json["topic"] == "Business");
  EXPECT(json["layers"][0]["changed_by_context"]["experts"] == 2);
  EXPECT(json["layers"][0]["tokens"][0]["decided_by"][1] == "context");
  EXPECT(json["layers"][0]["tokens"][1]["without_context"] == Json({0, 2}));
}

TEST_CASE("route: a choice among a part of the experts, by other numbers than logits, can be followed") {
  RoutingTrace t = fake_trace(ContextKind::none);
  LayerTrace& layer = t.layers[0];
  layer.experts = {{1, 2}, {2, 1}, {2, 1}};  // e0, whose logit is the largest, is not in the pool
  layer.allowed = {1, 2}, layer.allowed_name = "pool";
  layer.of_sequence = {{"mean probability", "e", 0, Matrix(1, 3)}};
  layer.of_sequence[0].values.values = {0.2, 0.5, 0.3};
  layer.of_tokens = {{"experts wanted", "", 1, Matrix(3, 3)}};
  layer.of_tokens[0].values.values = {0.1, 0.8, 0.1, 0.6, 0.2, 0.2, 0.3, 0.3, 0.4};
  layer.compared = layer.compared_alone = layer.logits;
  layer.compared(0, 2) = 0.5, layer.comparison = "logits + bias";
  const std::string text = as_text(t, false);
  EXPECT(contains(text, "in brackets the token's logit; compared is logits + bias, behind the colon\n"));
  EXPECT(contains(text,
                  "  mean probability  e0 0.200 e1 0.500 e2 0.300\n  pool, of which its tokens choose  e1 e2\n"));
  EXPECT(contains(text, "  e1  0.60 (+1.00: 1.00)  e2  0.40 (+0.00: 0.50)  experts wanted 2 (0.80)\n"));
  const Json json = as_json(t)["layers"][0];
  EXPECT(json["sequence"]["mean_probability"] == Json({0.2, 0.5, 0.3}));
  EXPECT(json["sequence"]["pool"] == Json({1, 2}));
  EXPECT(json["compared_is"] == "logits + bias");
  EXPECT(json["tokens"][0]["compared"] == Json({2.0, 1.0, 0.5}));
  EXPECT(json["tokens"][1]["experts_wanted"] == Json({0.6, 0.2, 0.2}));
  EXPECT(choice_without_context(layer, 0) == std::vector<int>{1, 2});  // of the pool
  layer.of_tokens[0].values = Matrix(2, 3);
  EXPECT(contains(error_of([&] { as_text(t, false); }), "layer 1: wants 3 rows of experts wanted, got [2, 3]"));
}

TEST_CASE("route: a dense model has no routing; a trace that does not fit is named") {
  RoutingTrace t = fake_trace();
  t.layers.clear();
  EXPECT(contains(as_text(t, false), "no experts, no routing"));
  t = fake_trace();
  t.layers[0].context.pop_back();
  EXPECT(contains(error_of([&] { as_text(t, false); }), "layer 1: wants 3 context values, got 2"));
  t = fake_trace();
  t.layers[0].experts[1] = {0, 7};
  EXPECT(contains(error_of([&] { as_json(t); }), "token 1: expert 7 of 3"));
}
