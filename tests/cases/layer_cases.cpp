// Rows of the table for ops on routing and for layers without experts: each parameter that a module declares is an input
// whose gradient is checked.
#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/loss/loss_sum.h"
#include "engine/ops/loss/row_losses.h"
#include "engine/ops/loss/softmax.h"
#include "engine/ops/moe/choose.h"
#include "engine/ops/moe/slots.h"
#include "engine/ops/norm/normalise_rows.h"
#include "engine/ops/norm/row_lengths.h"
#include "engine/ops/routing/columns.h"
#include "engine/ops/routing/noise/jitter.h"
#include "engine/ops/routing/noisy_load.h"
#include "engine/ops/routing/select_codes.h"
#include "engine/ops/rows/reduce.h"
#include "engine/ops/sequences/running_mean.h"
#include "engine/ops/sequences/sequence_max.h"
#include "nn/bag.h"
#include "nn/encoder.h"
#include "nn/head.h"
#include "nn/heads/joint_head.h"
#include "tests/cases/layer_case.h"

namespace glia {

BertConfig small_bert() {
  BertConfig c;
  c.layers = 2, c.hidden = 8, c.heads = 2, c.ffn = 12, c.vocabulary = 11, c.positions = 6, c.classes = 3;
  c.dropout = 0;
  return c;
}

Tensor ids(Context& c) { return from_vector<int32_t>(c, {1, 7, 7, 3, 1, 10, 0, 7, 2, 0, 0}, {kTokens}); }

// Numbers that are no inputs, the same in every dtype and on every device.
Tensor constants(Context& context, const Shape& shape, DType dtype) {
  std::vector<double> all(static_cast<size_t>(shape.numel()));
  for (size_t i = 0; i < all.size(); ++i)
    all[i] = static_cast<double>(bfloat16(random_normal(5, purpose::kTest, static_cast<uint32_t>(all.size()), i)));
  return from_vector(context, all, shape, dtype);
}

OpCase layer_case(const std::string& name, std::vector<CaseInput> inputs, const Make& make,
                  bool (*moves)(const Parameter&)) {
  const size_t own = inputs.size();
  ParameterSet declared;
  make(declared);
  for (const Parameter& p : declared.all()) {
    const bool one = p.init.kind == Init::Kind::kOne;
    if (moves(p)) inputs.push_back({p.shape, one ? 0.5 : -0.6, one ? 1.5 : 0.6});
  }
  return {name, inputs,
          [make, own, moves](Context& context, const Vars& x) {
            ParameterSet set;
            const Forward forward = make(set);
            Vars parameters;
            size_t next = own;
            for (const Parameter& p : set.all())
              parameters.push_back(moves(p) ? x[next++] : Var(constants(context, p.shape, x[0].dtype())));
            set.bind(parameters);
            const Sequences sequences = make_sequences(context, {4, 5}, kTokens),
                            first = make_sequences(context, {1, 1});
            Pass pass{sequences, first, false, x[0].dtype(), 0};
            pass.ids = ids(context);
            pass.borders = from_vector<int32_t>(context, {3, 2}, {2});
            return forward(pass, Vars(x.begin(), x.begin() + static_cast<int64_t>(own)));
          },
          false};
}

namespace {

EncoderLayer::MakeFeedForward dense_maker() {
  return [](ParameterSet& set, const std::string& name, int) -> std::unique_ptr<FeedForward> {
    return make_dense(set, name, small_bert());
  };
}

void add_dense(std::vector<OpCase>& cases) {
  const CaseInput x{{kTokens, 8}};
  cases.push_back(layer_case("layer/embeddings", {}, [](ParameterSet& set) -> Forward {
    const Embeddings layer(set, "e", small_bert());
    return [layer](const Pass& p, const Vars&) {
      Context& c = layer.word->var.context();
      return layer(ids(c), p);
    };
  }));
  cases.push_back(layer_case("layer/bag", {}, [](ParameterSet& set) -> Forward {
    // Five rows for the pairs and triples: some share one.
    const Bag layer(set, small_bert(), {3, 5});
    const Parameter* words = &set.all()[0];
    return [layer, words](const Pass& p, const Vars&) { return layer.forward(ids(words->var.context()), p); };
  }));
  cases.push_back(layer_case("layer/attention", {x}, [](ParameterSet& set) -> Forward {
    const SelfAttention layer(set, "a", small_bert(), 0);
    return [layer](const Pass& p, const Vars& v) { return layer.finish(layer.mix(v[0], p), v[0], p); };
  }));
  for (const bool first_rows : {false, true})
    cases.push_back(layer_case(
        first_rows ? "layer/encoder/first_rows" : "layer/encoder", {x}, [=](ParameterSet& set) -> Forward {
          const auto layer = std::make_shared<EncoderLayer>(set, "l", small_bert(), 0, dense_maker());
          return [=](const Pass& p, const Vars& v) { return layer->forward(v[0], p, first_rows).y; };
        }));
  BertConfig decoder = small_bert();
  decoder.causal = true;
  for (const std::string name : {"layer/decoder", "layer/decoder/pre_norm", "layer/decoder/rotary"}) {
    decoder.pre_norm = name.ends_with("pre_norm"), decoder.rotary = name.ends_with("rotary");
    cases.push_back(layer_case(name, {x}, [=](ParameterSet& set) -> Forward {
      const auto layer = std::make_shared<EncoderLayer>(set, "l", decoder, 0, dense_maker());
      return [=](const Pass& p, const Vars& v) { return layer->forward(v[0], p, false).y; };
    }));
  }
}

// Words and topics: the first rows of two sequences, one without a topic, then words, one of them not asked for.
void add_joint_head(std::vector<OpCase>& cases) {
  cases.push_back(layer_case("layer/joint_head", {{{6, 8}}}, [](ParameterSet& set) -> Forward {
    const auto table = std::make_shared<Embeddings>(set, "e", small_bert());
    const auto head = std::make_shared<JointHead>(set, small_bert(), *table, 3);
    return [=](const Pass& p, const Vars& v) {
      const Tensor targets = from_vector<int32_t>(v[0].context(), {-1, 2, 7, 0, -1, 10}, {6});
      return head->forward(v[0], targets, p).loss;
    };
  }));
}

// More elements than a launch takes: 126 pieces of four.
Var many_terms(Context&, const Vars& v) {
  std::vector<LossTerm> terms = {{v[0], {2, 0, 1}, 0.25}, {v[1], std::vector<int>(499), 0.5}};
  for (size_t i = 0; i < 499; ++i) terms[1].part[i] = static_cast<int>(i % 3);
  return sum_losses(terms, {1, 0.1, -3}).total;
}

Sequences rows_of(Context& c) { return make_sequences(c, {4, 5}, kTokens); }

// Expert Choice's form: each expert took its tokens, 8 pairs in all though there are 3 slots for each of 11 tokens;
// some tokens have no expert.
Tensor by_expert(Context& c) {
  return from_vector<int32_t>(c, {0,  1,  2,  -1, -1, -1, 2,  -1, -1, -1, -1, -1, 1,  -1, 3,  -1, -1,
                                  -1, -1, -1, -1, 3,  -1, -1, -1, 0,  -1, -1, -1, -1, -1, -1, -1},
                              {kTokens, 3});
}

void add_routing_ops(std::vector<OpCase>& cases) {
  const CaseInput logits{{kTokens, 5}, -3, 3};
  cases.push_back({"z_loss", {logits}, [](Context& c, const Vars& v) { return z_loss(v[0], rows_of(c)); }, false});
  cases.push_back(
      {"entropy_loss", {logits}, [](Context& c, const Vars& v) { return entropy_loss(v[0], rows_of(c)); }, false});
  cases.push_back({"switch_loss",
                   {logits},
                   [](Context& c, const Vars& v) {
                     const Tensor counts = from_vector<double>(c, {3, 0, 7, 1, 7}, {5});
                     return switch_loss(v[0], cast(counts, v[0].dtype()), 2, rows_of(c));
                   },
                   false});
  cases.push_back({"choose",
                   {logits},
                   [](Context& c, const Vars& v) {
                     const Tensor bias = from_vector<double>(c, {1, -2, 0, 0.5, 4}, {5});
                     return choose(v[0], cast(bias, v[0].dtype()), 3, rows_of(c)).gates;
                   },
                   false});
  cases.push_back({"choose/unbiased",
                   {logits},
                   [](Context& c, const Vars& v) { return choose(v[0], {}, 2, rows_of(c)).gates; },
                   false});
  cases.push_back({"choose_among",
                   {logits},
                   [](Context& c, const Vars& v) {
                     const Tensor choice = log(relu(v[0])).value();  // positive ones only
                     return choose_among(v[0], choice, 3, rows_of(c)).gates;
                   },
                   false});
  const CaseInput std{{kTokens, 5}, 0.5, 2};
  CaseInput apart = logits;  // a threshold is a maximum: no ties
  apart.spacing = 0.1;
  for (const int64_t k : {1, 2, 4})
    cases.push_back({fmt::format("noisy_load/{}", k),
                     {logits, std, apart},
                     [k](Context&, const Vars& v) { return noisy_load(v[0], v[1], v[2], k); },
                     false});
  CaseInput codes{{7, 6}, -0.6, 0.6};  // some beyond ± γ / 2
  cases.push_back(
      {"select_codes", {codes}, [](Context&, const Vars& v) { return select_codes(v[0], 2, 8, 1); }, false});
  cases.push_back(
      {"select_codes/six", {codes}, [](Context&, const Vars& v) { return select_codes(v[0], 2, 6, 0.8); }, false});
  CaseInput distinct{{kTokens, 5}};
  distinct.spacing = 0.1;
  cases.push_back(
      {"sequence_max", {distinct}, [](Context& c, const Vars& v) { return sequence_max(v[0], rows_of(c)); }});
  // The first sequence has a border within, the second none.
  const auto borders_of = [](Context& c) { return from_vector<int32_t>(c, {3, 0}, {2}); };
  cases.push_back(
      {"running_mean", {logits}, [](Context& c, const Vars& v) { return running_mean(v[0], rows_of(c)); }});
  cases.push_back({"running_mean/borders", {logits}, [borders_of](Context& c, const Vars& v) {
                     return running_mean(v[0], rows_of(c), borders_of(c));
                   }});
  cases.push_back({"behind_border", {logits}, [borders_of](Context& c, const Vars& v) {
                     return mul(v[0], behind_border(rows_of(c), borders_of(c), v[0].size(1), v[0].dtype()));
                   }});
  cases.push_back({"held_at_border", {logits}, [borders_of](Context& c, const Vars& v) {
                     return held_at_border(v[0], rows_of(c), borders_of(c));
                   }});
  cases.push_back(
      {"share_rows", {{{7, 5}, 0.1, 2}}, [](Context&, const Vars& v) { return share_rows(v[0]); }, false});
  cases.push_back({"unit_rows", {{{7, 5}, -2, 2}}, [](Context&, const Vars& v) { return unit_rows(v[0]); }, false});
  cases.push_back({"row_lengths", {{{7, 5}, -2, 2}}, [](Context&, const Vars& v) { return row_lengths(v[0]); }});
  cases.push_back({"row_lengths/wide", {{{5, 300}}}, [](Context&, const Vars& v) { return row_lengths(v[0]); }});
  cases.push_back({"sequence_softmax",
                   {logits},
                   [](Context& c, const Vars& v) { return sequence_softmax(v[0], rows_of(c)); },
                   false});
  const CaseInput tokens{{kTokens, 8}}, weights{{kTokens, 3}}, slots{{6, 8}};
  cases.push_back({"blend_rows",
                   {tokens, weights},
                   [](Context& c, const Vars& v) { return blend_rows(v[0], v[1], rows_of(c)); },
                   false});
  cases.push_back({"spread_slots",
                   {slots, weights},
                   [](Context& c, const Vars& v) { return spread_slots(v[0], v[1], rows_of(c)); },
                   false});
  for (const int64_t width : {8, 6})  // packs, and rows that end within a block of random numbers
    cases.push_back({fmt::format("jitter/{}", width), {{{kTokens, width}}}, [](Context&, const Vars& v) {
                       return jitter(v[0], 0.25, {7, purpose::kTest});
                     }});
  cases.push_back({"columns", {logits}, [](Context&, const Vars& v) { return columns(v[0], 1, 4); }, false});
  cases.push_back(
      {"join_columns", {logits, weights}, [](Context&, const Vars& v) { return join_columns(v[0], v[1]); }, false});
  cases.push_back({"scale_rows", {tokens, {{kTokens, 1}}}, [](Context&, const Vars& v) {
                     return scale_rows(v[0], cast(v[1], accumulation_dtype(v[0].dtype())));
                   }});
  for (const int64_t most : {2, 5})
    cases.push_back(
        {fmt::format("choose_top_p/{}", most),
         {logits},
         [most](Context& c, const Vars& v) { return choose_top_p(softmax(v[0]), 0.7, most, rows_of(c)).gates; },
         false});
  cases.push_back({"expert_layer/by_expert",
                   {{{kTokens, 8}}, {{kTokens, 3}}, {{4, 12, 8}}, {{4, 12}}, {{4, 8, 12}}, {{4, 8}}},
                   [](Context& c, const Vars& v) {
                     const Dispatch d = make_dispatch(by_expert(c), 4, 1, 8);
                     return expert_layer(v[0], v[1], d, v[2], v[3], v[4], v[5]);
                   },
                   false});
}

}  // namespace

void add_layer_cases(std::vector<OpCase>& cases) {
  cases.push_back(
      {"sum_losses",
       {{{}}, {{2}}, {{3}}},
       [](Context&, const Vars& v) {
         return sum_losses({{v[0], {0}, 1}, {v[1], {1, 2}, 0.25}, {v[2], {2, 1, 2}, 0.5}}, {1, 0.1, -3}).total;
       },
       false});
  cases.push_back({"sum_losses/many", {{{3}}, {{499}}}, many_terms, false});
  add_routing_ops(cases);
  add_dense(cases);
  add_joint_head(cases);
}

}  // namespace glia
