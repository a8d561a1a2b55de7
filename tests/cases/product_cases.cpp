// Rows of the table for products, attention and the MoE path.
#include <tuple>

#include "engine/ops/attention/attention.h"
#include "engine/ops/attention/rotary.h"
#include "engine/ops/attention/self_attention.h"
#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/moe/load_losses.h"
#include "engine/ops/moe/moe.h"
#include "engine/ops/moe/top_k_route.h"
#include "engine/ops/products/feed_forward.h"
#include "engine/ops/products/matmul.h"
#include "engine/ops/products/merge_experts.h"
#include "engine/ops/ranks/experts_over_ranks.h"
#include "engine/ops/rows/reduce.h"
#include "tests/cases/op_cases.h"

namespace glia {
namespace {

using Vars = std::vector<Var>;

Tensor ints(Context& context, std::vector<int32_t> values) {
  const auto n = static_cast<int64_t>(values.size());
  return from_vector(context, values, {n});
}

void add_matmul(std::vector<OpCase>& cases) {
  const auto product = [&](const char* name, Shape a, Shape b, bool ta, bool tb) {
    cases.push_back({name, {{a}, {b}}, [=](Context&, const Vars& x) { return matmul(x[0], x[1], ta, tb); }});
  };
  product("matmul", {5, 7}, {7, 3}, false, false);
  product("matmul/transpose_a", {7, 5}, {7, 3}, true, false);
  product("matmul/transpose_b", {5, 7}, {3, 7}, false, true);
  product("matmul/transpose_both", {7, 5}, {3, 7}, true, true);
  product("matmul/batched", {3, 4, 6}, {3, 6, 5}, false, false);
  product("matmul/batched_transpose", {3, 6, 4}, {3, 5, 6}, true, true);
  product("matmul/one_row", {1, 9}, {9, 17}, false, false);
  product("matmul/64", {64, 64}, {64, 64}, false, true);
  cases.push_back(
      {"linear", {{{6, 10}}, {{7, 10}}, {{7}}}, [](Context&, const Vars& x) { return linear(x[0], x[1], x[2]); }});
  cases.push_back(
      {"linear/no_bias", {{{2, 3, 8}}, {{5, 8}}}, [](Context&, const Vars& x) { return linear(x[0], x[1]); }});
  cases.push_back({"linear_gelu", {{{9, 16}}, {{24, 16}}, {{24}}}, [](Context&, const Vars& x) {
                     return linear_gelu(x[0], x[1], x[2]);
                   }});
  cases.push_back({"feed_forward",
                   {{{33, 16}}, {{40, 16}}, {{40}}, {{24, 40}}, {{24}}},
                   [](Context&, const Vars& x) { return feed_forward(x[0], x[1], x[2], x[3], x[4]); }});
  cases.push_back({"feed_forward/no_output_bias",
                   {{{33, 16}}, {{40, 16}}, {{40}}, {{24, 40}}},
                   [](Context&, const Vars& x) { return feed_forward(x[0], x[1], x[2], x[3], {}); }});
  // Groups of 3, 0, 1 and 4 rows; two rows lie behind the last group.
  cases.push_back({"grouped_linear", {{{10, 6}}, {{4, 5, 6}}, {{4, 5}}}, [](Context& c, const Vars& x) {
                     return grouped_linear(x[0], x[1], x[2], ints(c, {0, 3, 3, 4, 8}));
                   }});
  cases.push_back({"grouped_linear/one_group", {{{7, 6}}, {{3, 4, 6}}}, [](Context& c, const Vars& x) {
                     return grouped_linear(x[0], x[1], {}, ints(c, {0, 0, 7, 7}));
                   }});
}

// One expert; sequences and columns that fill nothing; more experts than a GPU's block takes; a vector an expert; more
// sequences than one group. p and w are cast to the accumulation type, so that the rows run in bfloat16 too.
void add_merges(std::vector<OpCase>& cases) {
  for (const auto& [name, p, w] : {std::tuple{"merge_experts/one", Shape{1, 1}, Shape{1, 2, 5}},
                                   {"merge_experts", Shape{5, 3}, Shape{3, 4, 6}},
                                   {"merge_experts/odd", Shape{5, 8}, Shape{8, 3, 7}},
                                   {"merge_experts/many_experts", Shape{5, 17}, Shape{17, 3, 5}},
                                   {"merge_experts/biases", Shape{1, 8}, Shape{8, 13}},
                                   {"merge_experts/many_sequences", Shape{37, 4}, Shape{4, 8}}})
    cases.push_back({name, {{p, 0, 1}, {w}}, [](Context&, const Vars& x) {
                       const DType type = x[0].dtype(), sums = accumulation_dtype(type);
                       return merge_experts(cast(x[0], sums), cast(x[1], sums), type);
                     }});
}

void add_attention(std::vector<OpCase>& cases) {
  struct Variant {
    std::string name;
    std::vector<int32_t> lengths;
    int64_t tail, heads, size;
    bool causal;
    double dropout;
    std::vector<int32_t> keys;
  };
  std::vector<Variant> variants = {
      {"attention", {3, 1, 5}, 0, 2, 4, false, 0, {}},
      {"attention/tail", {2, 4}, 3, 2, 4, false, 0, {}},
      {"attention/causal", {5, 2}, 0, 1, 8, true, 0, {}},
      {"attention/dropout", {6, 3}, 1, 2, 4, false, 0.25, {}},
      {"attention/keys", {4, 4}, 0, 2, 4, false, 0, {3, 1}},
      {"attention/head_64", {17, 2, 33}, 2, 2, 64, false, 0.1, {}},
  };
  // The head sizes of a GPU's tensor-core paths (bfloat16), in one tile of rows and in several, seen and unseen ones;
  // an odd number of heads, rows that fill no tile.
  for (const int64_t d : {32, 64, 96, 128}) {
    variants.push_back({fmt::format("attention/head_{}/short", d), {65, 1, 20}, 3, 3, d, true, 0.1, {}});
    variants.push_back({fmt::format("attention/head_{}/long", d), {141, 2, 67}, 5, 1, d, false, 0.1, {}});
    variants.push_back({fmt::format("attention/head_{}/long_causal", d), {135, 80}, 1, 1, d, true, 0.2, {}});
    variants.push_back({fmt::format("attention/head_{}/long_keys", d), {150, 150}, 0, 1, d, false, 0, {131, 7}});
  }
  for (const Variant& v : variants) {
    int64_t tokens = v.tail;
    for (int32_t n : v.lengths) tokens += n;
    cases.push_back({v.name, {{{tokens, 3 * v.heads * v.size}}}, [v, tokens](Context& c, const Vars& x) {
                       AttentionOptions options{v.heads, v.causal, v.dropout, c.random_key(purpose::kTest)};
                       return attention(x[0], make_sequences(c, v.lengths, tokens, v.keys), options);
                     }});
  }
}

// Heads of 8 and of 64 columns, with a tail; and behind earlier rows.
void add_rotary(std::vector<OpCase>& cases) {
  for (const int64_t width : {8, 64})
    for (const int64_t before : {0, 5})
      cases.push_back(
          {fmt::format("rotate/{}/{}", width, before), {{{11, 6 * width}}}, [before](Context& c, const Vars& x) {
             return rotate(x[0], make_sequences(c, {6, 1, 3}, 11), 2, before);
           }});
}

// 128 columns, 2 heads of 64: bfloat16 takes the tensor-core path on a GPU.
void add_self_attention(std::vector<OpCase>& cases) {
  const auto row = [&](const char* name, auto&& op, double dropout, std::vector<int32_t> keys) {
    cases.push_back({name, {{{25, 128}}, {{384, 128}, -0.2, 0.2}, {{384}}}, [=](Context& c, const Vars& x) {
                       const AttentionOptions options{2, false, dropout, c.random_key(purpose::kTest)};
                       return op(x[0], x[1], x[2], make_sequences(c, {17, 1, 5}, 25, keys), options);
                     }});
  };
  row("self_attention", self_attention, 0, {});
  row("self_attention/dropout", self_attention, 0.2, {});
  row("self_attention/first", self_attention_first, 0, {});
  row("self_attention/first_dropout", self_attention_first, 0.2, {});
  row("self_attention/first_keys", self_attention_first, 0.1, {9, 1, 5});
  // One row a head size, with a sequence of several tiles; causal, the first row sees itself alone.
  for (const int64_t d : {32, 64, 96, 128}) {
    for (const bool first : {false, true}) {
      const int64_t h = 128 / d * d;
      cases.push_back({fmt::format("self_attention/head_{}{}", d, first ? "/first" : ""),
                       {{{145, h}}, {{3 * h, h}, -0.2, 0.2}, {{3 * h}}},
                       [=](Context& c, const Vars& x) {
                         const AttentionOptions options{h / d, false, 0.1, c.random_key(purpose::kTest)};
                         return (first ? self_attention_first : self_attention)(
                             x[0], x[1], x[2], make_sequences(c, {131, 9}, 145), options);
                       }});
    }
  }
  for (const bool first : {false, true})
    cases.push_back({first ? "self_attention/causal_first" : "self_attention/causal",
                     {{{25, 64}}, {{192, 64}, -0.2, 0.2}, {{192}}},
                     [=](Context& c, const Vars& x) {
                       const AttentionOptions options{2, true, 0.1, c.random_key(purpose::kTest)};
                       return (first ? self_attention_first : self_attention)(
                           x[0], x[1], x[2], make_sequences(c, {17, 1, 5}, 25), options);
                     }});
}

// Two sequences, 3 and 5 rows, and a tail of 2.
Sequences two_sequences(Context& c) { return make_sequences(c, {3, 5}, 10); }

void add_moe(std::vector<OpCase>& cases) {
  const std::pair<const char*, ContextMode> modes[] = {{"router_logits", ContextMode::kNone},
                                                       {"router_logits/add", ContextMode::kAdd},
                                                       {"router_logits/gate", ContextMode::kGate}};
  for (const auto& [name, mode] : modes) {
    OpCase c{name, {{{10, 12}}, {{5, 12}}, {{5}}}, {}, false};
    if (mode != ContextMode::kNone) c.inputs.push_back({{2, 5}});
    c.run = [mode = mode](Context& context, const Vars& x) {
      return router_logits(x[0], x[1], x[2], x.size() > 3 ? x[3] : Var(), mode, two_sequences(context));
    };
    cases.push_back(c);
  }
  // Several chunks, tiles and blocks of columns on a GPU; odd: no packs; 11 experts: two passes; groups of 64 columns: on
  // tensor cores. w, b and the context are cast to the accumulation type, so that the rows run in bfloat16 too.
  for (const auto& [name, hidden, experts] : {std::tuple{"router_logits/long", 520, 8},
                                              {"router_logits/odd", 77, 3},
                                              {"router_logits/many_experts", 36, 11},
                                              {"router_logits/groups", 192, 37}}) {
    const int64_t tokens = std::string(name) == "router_logits/long" ? 701 : 75;
    cases.push_back({name,
                     {{{tokens, hidden}}, {{experts, hidden}}, {{experts}}, {{3, experts}}},
                     [tokens](Context& c, const Vars& x) {
                       const DType a = x[0].dtype() == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
                       const int32_t last = static_cast<int32_t>(tokens) - 45;
                       return router_logits(x[0], cast(x[1], a), cast(x[2], a), cast(x[3], a), ContextMode::kGate,
                                            make_sequences(c, {1, 37, last}, tokens));
                     }});
  }
  for (const int64_t k : {1, 2, 4}) {
    CaseInput logits{{10, 4}};
    logits.spacing = 0.05;
    cases.push_back({"top_k_gates/" + std::to_string(k),
                     {logits},
                     [k](Context& c, const Vars& x) { return top_k_gates(x[0], k, two_sequences(c)).gates; },
                     false});
  }
  // More experts than a thread looks through on a GPU.
  CaseInput many{{10, 20}};
  many.spacing = 0.05;
  cases.push_back({"top_k_gates/many_experts",
                   {many},
                   [](Context& c, const Vars& x) { return top_k_gates(x[0], 3, two_sequences(c)).gates; },
                   false});
  cases.push_back({"load_losses",
                   {{{10, 2}, 0.1, 1}},
                   [](Context& c, const Vars& x) {
                     const Tensor experts = from_vector<int32_t>(
                         c, {0, 1, 1, 2, 0, 3, 2, 1, 3, 0, 1, 0, 0, 2, 1, 3, -1, -1, -1, -1}, {10, 2});
                     return load_losses(x[0], experts, 5, two_sequences(c));
                   },
                   false});
  // The importance beside the losses, and alone; and layers together, of one rank: of some nobody uses the losses.
  const auto some_experts = [](Context& c, int64_t rows) {
    std::vector<int32_t> all;
    for (int64_t i = 0; i < 2 * rows; ++i) all.push_back(i < 14 ? static_cast<int32_t>(i * i % 5) : -1);
    return from_vector(c, all, {rows, 2});
  };
  for (const bool both : {true, false})
    cases.push_back({both ? "load_losses/importance" : "load_losses/importance_alone",
                     {{{10, 2}, 0.1, 1}},
                     [=](Context& c, const Vars& x) {
                       const Loads l = loads_of(x[0], some_experts(c, 10), 5, two_sequences(c));
                       const Var importance = sum(square(l.importance));
                       return both ? add(importance, sum(l.losses)) : importance;
                     },
                     false});
  for (const int64_t layers : {3, 40})
    cases.push_back({fmt::format("load_losses_over_ranks/{}", layers),
                     {{{10, 2}, 0.1, 1}, {{7, 2}, 0.1, 1}},
                     [=](Context& c, const Vars& x) {
                       const Sequences q = two_sequences(c), other = make_sequences(c, {4, 3});
                       std::vector<LayerPairs> pairs;
                       std::vector<LayerImportance> all;
                       for (int64_t l = 0; l < layers; ++l) {
                         const Var gates = scale(x[l % 2], 1 + 0.1 * static_cast<double>(l));
                         pairs.push_back({gates, some_experts(c, gates.size(0))});
                       }
                       const std::vector<Var> importance = importance_of_layers(pairs, 5);
                       for (int64_t l = 0; l < layers; ++l) all.push_back({importance[l], l % 2 ? &other : &q});
                       const std::vector<Var> each = load_losses_over_ranks(all);
                       Var total = sum(each[0]);
                       for (size_t l = 2; l < each.size(); ++l)
                         total = add(total, scale(sum(each[l]), 1.0 / static_cast<double>(l)));
                       return total;
                     },
                     false});
  // All outputs of the joint op enter one number; then each alone. 64 columns: bfloat16 takes the fused kernels on
  // a GPU.
  for (const auto& [name, mode, given] : {std::tuple{"route", ContextMode::kNone, false},
                                          {"route/add", ContextMode::kAdd, false},
                                          {"route/gate", ContextMode::kGate, false},
                                          {"route/given_context", ContextMode::kGate, true},
                                          {"route/gates", ContextMode::kAdd, false},
                                          {"route/losses", ContextMode::kAdd, false},
                                          {"route/importance", ContextMode::kAdd, false},
                                          {"route/logits", ContextMode::kGate, false}}) {
    OpCase row{name, {{{10, 64}}, {{5, 64}}, {{5}}}, {}};
    if (given) row.inputs.push_back({{2, 5}});
    else if (mode != ContextMode::kNone) row.inputs.insert(row.inputs.end(), {{{5, 64}}, {{5}}});
    row.run = [name = std::string(name), mode = mode, given = given](Context& c, const Vars& x) {
      const DType a = x[0].dtype() == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
      RouteContext context{mode, {}, {}, {}};
      if (given) context.logits = cast(x[3], a);
      else if (mode != ContextMode::kNone) context.weight = cast(x[3], a), context.bias = cast(x[4], a);
      const Routed r =
          route(x[0], cast(x[1], a), cast(x[2], a), context, 2, two_sequences(c), make_sequences(c, {1, 1}));
      if (name == "route/gates") return r.gates;
      if (name == "route/losses") return r.losses;
      if (name == "route/importance") return r.importance;
      if (name == "route/logits") return r.logits;
      return add(add(sum(square(r.gates)), sum(r.losses)),
                 scale(add(sum(square(r.logits)), sum(square(r.importance))), 0.01));
    };
    cases.push_back(row);
  }
  const auto some_choices = [](Context& c) {
    return from_vector<int32_t>(c, {0, 2, 2, 0, 3, 0, 2, 3, -1, -1}, {5, 2});
  };
  const auto dispatch = [=](Context& c, int64_t alignment) { return make_dispatch(some_choices(c), 4, alignment); };
  cases.push_back({"dispatch_rows", {{{5, 6}}}, [=](Context& c, const Vars& x) {
                     return dispatch_rows(x[0], dispatch(c, 1));
                   }});
  cases.push_back({"dispatch_rows/aligned", {{{5, 8}}}, [=](Context& c, const Vars& x) {
                     return dispatch_rows(x[0], dispatch(c, 4));
                   }});
  // combine_rows wants gates in the accumulation type: cast them, so that the case runs in bfloat16 too.
  cases.push_back({"combine_rows", {{{10, 6}}, {{5, 2}}}, [=](Context& c, const Vars& x) {
                     return combine_rows(
                         x[0], cast(x[1], x[0].dtype() == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32),
                         dispatch(c, 1));
                   }});
  cases.push_back(
      {"expert_layer",
       {{{5, 8}}, {{5, 2}}, {{4, 16, 8}}, {{4, 16}}, {{4, 8, 16}}, {{4, 8}}},
       [=](Context& c, const Vars& x) {
         const Var gates = cast(x[1], x[0].dtype() == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32);
         return expert_layer(x[0], gates, dispatch(c, expert_alignment(c, x[0].dtype())), x[2], x[3], x[4], x[5]);
       },
       false});
  // Of one rank: what is sent is copied.
  cases.push_back(
      {"expert_layer_over_ranks",
       {{{5, 8}}, {{5, 2}}, {{4, 16, 8}}, {{4, 16}}, {{4, 8, 16}}, {{4, 8}}},
       [=](Context& c, const Vars& x) {
         const Var gates = cast(x[1], x[0].dtype() == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32);
         return expert_layer_over_ranks(x[0], gates, some_choices(c), 0, {{x[2], x[3], x[4], x[5]}, {}, 1});
       },
       false});
  cases.push_back({"expert_ffn",
                   {{{10, 8}}, {{4, 16, 8}}, {{4, 16}}, {{4, 8, 16}}, {{4, 8}}},
                   [](Context& c, const Vars& x) {
                     return expert_ffn(x[0], x[1], x[2], x[3], x[4], ints(c, {0, 3, 3, 4, 10}));
                   },
                   false});
}

}  // namespace

void add_product_cases(std::vector<OpCase>& cases) {
  add_matmul(cases);
  add_merges(cases);
  add_attention(cases);
  add_rotary(cases);
  add_self_attention(cases);
  add_moe(cases);
}

}  // namespace glia
