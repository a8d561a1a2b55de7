// Oracles of whole models.
#include <algorithm>

#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/loss/statistics.h"
#include "experiments/studies/configurations.h"
#include "moe/model.h"
#include "moe/utilisation.h"
#include "nn/optimizer.h"
#include "tests/nn/helpers.h"

namespace glia::test {
namespace {

std::vector<std::string> model_kinds() {
  std::vector<std::string> all = {"none"};
  for (const RouterRow& row : router_registry()) all.push_back(row.name);
  for (const MixtureRow& row : mixture_registry()) all.push_back(std::string(row.name) + ":" + context_router());
  return all;
}

TEST_CASE(
    "model: last-layer experts (or FFN) on CLS rows only is exact: logits and losses bit for bit (CUDA: to "
    "rounding), gradients to rounding") {
  for (const std::string& kind : model_kinds())
    for (const bool second_residual : {false, true}) {
      INFO(kind);
      std::vector<double> logits[2], parts[2], gradients[2];
      for (const bool only : {false, true}) {
        Context context(test_device());
        ModelConfig config = tiny_config(kind);
        config.last_layer_cls_only = only;
        config.moe.second_residual = second_residual;
        Model model(context, config, 11);
        const Model::Output out = model.forward(tiny_batch(context, {6, 3, 9, 1}, config.bert, 2, 21), true);
        backward(out.loss);
        model.parameters().complete_gradients();
        logits[only] = values(out.logits.value());
        parts[only] = values(out.parts);
        gradients[only] = values(model.parameters().gradients());
      }
      if (test_device().is_cpu()) {
        EXPECT(logits[0] == logits[1]);
        EXPECT(parts[0] == parts[1]);
      } else {  // cuBLAS may take another kernel for fewer rows, which adds in another order
        EXPECT(largest_difference(logits[0], logits[1]) < 1e-14 * std::max(1.0, largest(logits[0])));
        EXPECT(largest_difference(parts[0], parts[1]) < 1e-14 * std::max(1.0, largest(parts[0])));
      }
      EXPECT(largest_difference(gradients[0], gradients[1]) < 1e-14 * std::max(1.0, largest(gradients[0])) * 10);
    }
}

TEST_CASE("model: a longer tail changes logits, losses and gradients by rounding at most") {
  for (const DType compute : {DType::kFloat32, DType::kFloat64})
    for (const std::string& kind : model_kinds()) {
      INFO(kind);
      std::vector<double> logits[2], gradients[2], parts[2];
      for (const int tail : {0, 1}) {
        Context context(test_device());
        const ModelConfig config = tiny_config(kind, compute);
        Model model(context, config, 11);
        const Model::Output out =
            model.forward(tiny_batch(context, {6, 3, 9}, config.bert, 2, tail ? 31 : 0), true);
        backward(out.loss);
        model.parameters().complete_gradients();
        logits[tail] = values(out.logits.value());
        parts[tail] = values(out.parts);
        gradients[tail] = values(model.parameters().gradients());
      }
      // Rows do not mix, but a product's inner sum over more (zero) rows may be split differently: rounding, not
      // more.
      const double ulp = compute == DType::kFloat64 ? 1e-13 : 1e-4;
      EXPECT(largest_difference(logits[0], logits[1]) <= ulp);
      EXPECT(largest_difference(parts[0], parts[1]) <= ulp);
      EXPECT(largest_difference(gradients[0], gradients[1]) <= ulp * std::max(1.0, largest(gradients[0])));
    }
}

TEST_CASE("model: in the padded layout padding is masked in attention but routed and counted (docs/science.md 6)") {
  Context context(test_device());
  const ModelConfig config = tiny_config(plain_router());
  Model model(context, config, 11);
  // Two sequences of 4 and 6 real tokens, padded to 8.
  const Batch padded = tiny_batch(context, {8, 8}, config.bert, 2, 0, {4, 6});
  const Batch packed = tiny_batch(context, {4, 6}, config.bert, 2);
  const Model::Output a = model.forward(padded, false), b = model.forward(packed, false);
  EXPECT(largest_difference(values(a.logits.value()), values(b.logits.value())) < 1e-12);
  EXPECT(a.routings[0].gates.size(0) == 16);
  EXPECT(largest_difference(values(a.parts), values(b.parts)) > 1e-6);
  for (const double g : values(a.routings[0].gates.value())) EXPECT(g > 0);  // no row is skipped
}

TEST_CASE("model: the published code's second residual and norm come between attention and the experts") {
  Context context(test_device());
  ModelConfig config = tiny_config(plain_router());
  config.moe.second_residual = true;
  Model model(context, config, 11);
  for (const Parameter& p : model.parameters().all())  // so that the norm is not the identity on what is normal
    if (contains(p.name, ".second_norm.")) model.parameters().redraw(p, Init::normal(0.5), 5);
  const Batch batch = tiny_batch(context, {6, 3}, config.bert);
  const Sequences first = make_sequences(context, {1, 1});
  const Pass pass{batch.sequences, first, false, DType::kFloat64, 0};
  const EncoderLayer& layer = model.bert().layers[0];
  const Var x = model.bert().embeddings(batch.ids, pass),
            h = layer.attention.finish(layer.attention.mix(x, pass), x, pass);
  REQUIRE(layer.second_norm);
  const FeedForward::Result r = layer.feed_forward->forward((*layer.second_norm)(add(h, x)), pass, false);
  const Var y = layer.norm(add(r.y, r.x));
  EXPECT(largest_difference(values(layer.forward(x, pass, false).y.value()), values(y.value())) < 1e-13);
}

TEST_CASE("model: training drops elements anew in each step, evaluation drops none") {
  Context context(test_device());
  ModelConfig config = tiny_config(context_router()), none = config;
  config.bert.dropout = 0.5;
  Model model(context, config, 11), sure(context, none, 11);
  const Batch batch = tiny_batch(context, {6, 3, 9}, config.bert);
  const auto logits = [&](const Model& m, bool training, uint32_t step) {
    context.set_step(step);
    return values(m.forward(batch, training).logits.value());
  };
  EXPECT(logits(model, true, 1) == logits(model, true, 1));
  EXPECT(logits(model, true, 1) != logits(model, true, 2));
  EXPECT(logits(model, false, 1) == logits(sure, true, 2));
}

TEST_CASE("model: every place that drops elements has a number of its own") {
  std::vector<uint32_t> sites = {dropout_site::kEmbedding, dropout_site::pooler(24)};
  for (int l = 0; l < 24; ++l)
    for (const uint32_t site :
         {dropout_site::attention(l), dropout_site::attention_output(l), dropout_site::feed_forward(l)})
      sites.push_back(site);
  std::ranges::sort(sites);
  EXPECT(std::ranges::adjacent_find(sites) == sites.end());
}

TEST_CASE("model: the loss is CE plus the weighted auxiliary losses averaged over layers, once") {
  Context context(test_device());
  const ModelConfig config = tiny_config(context_router());
  Model model(context, config, 11);
  const Model::Output out = model.forward(tiny_batch(context, {6, 3, 9}, config.bert), true);
  REQUIRE(out.part_names == std::vector<std::string>{"ce", "balance", "energy"});
  const std::vector<double> parts = values(out.parts), l0 = values(out.routings[0].losses[0].values.value()),
                            l1 = values(out.routings[1].losses[0].values.value());
  EXPECT(std::abs(parts[1] - (l0[0] + l1[0]) / 2) < 1e-15);
  EXPECT(std::abs(parts[2] - (l0[1] + l1[1]) / 2) < 1e-15);
  EXPECT(std::abs(out.loss.value().item() - (parts[0] + 0.1 * parts[1] + 0.2 * parts[2])) < 1e-15);
  // --loss-scale: all but the task's; what is told of the parts stays.
  ModelConfig scaled = config;
  scaled.loss_scale = 3;
  const Model::Output more = Model(context, scaled, 11).forward(tiny_batch(context, {6, 3, 9}, config.bert), true);
  EXPECT(values(more.parts) == parts);
  EXPECT(std::abs(more.loss.value().item() - (parts[0] + 0.3 * parts[1] + 0.6 * parts[2])) < 1e-15);
}

TEST_CASE("model: no memory is held after a step, and a second step asks the device for none") {
  Context context(test_device());
  const ModelConfig config = tiny_config(context_router(), DType::kFloat32);
  Model model(context, config, 11);
  AdamW optimiser(model.parameters(), {});
  const Batch batch = tiny_batch(context, {6, 3, 9}, config.bert);
  const auto step = [&] {
    model.parameters().clear_gradients();
    backward(model.forward(batch, true).loss);
    optimiser.step();
    model.parameters().clear_gradients();
  };
  step();
  const MemoryStats before = context.allocator().stats();
  step();
  EXPECT(context.allocator().stats().active == before.active);
  EXPECT(context.allocator().stats().system_allocations == before.system_allocations);
}

// A trained router without parameters of its own: it has the experts'.
bool reads_experts(const std::string& kind) {
  for (const RouterRow& row : router_registry())
    if (row.name == kind && !row.traits.untrained) {
      ParameterSet own;
      const auto router = make_router(kind, own, "r", {8, 4, 2});
      return own.all().empty();
    }
  return false;
}

TEST_CASE("model: bfloat16 gradients are the float32 ones rounded; the others stay what they are, bit for bit") {
  for (const std::string& kind : model_kinds()) {
    INFO(kind);
    Context context(test_device());
    ModelConfig config = tiny_config(kind, DType::kBFloat16);
    Model wide(context, config, 11);
    config.bfloat16_gradients = true;
    Model low(context, config, 11);
    const Batch batch = tiny_batch(context, {6, 3, 9}, config.bert, 2, 24);
    for (Model* model : {&wide, &low}) {
      backward(model->forward(batch, true).loss);
      model->parameters().complete_gradients();
    }
    int64_t in_bfloat16 = 0;
    for (const Parameter& p : wide.parameters().all()) {
      if (p.frozen) continue;  // has no gradient
      INFO(p.name);
      const Tensor a = wide.parameters().gradient(p), b = low.parameters().gradient(low.parameters().get(p.name));
      EXPECT(a.dtype() == DType::kFloat32);
      const std::vector<double> exact = values(a), got = values(b);
      if (b.dtype() == DType::kFloat32) {
        EXPECT(got == exact);
        continue;
      }
      EXPECT(p.shape.rank() >= 2);
      in_bfloat16 += p.shape.numel();
      // The two products may be summed in another order; what a router reads too is the sum of two roundings.
      const double small =
          (reads_experts(kind) && contains(p.name, ".experts.") ? 1.0 / 256 : 1e-5) * largest(exact);
      bool rounded = true;
      for (size_t i = 0; i < got.size(); ++i)
        rounded = rounded && std::abs(got[i] - exact[i]) <= std::abs(exact[i]) / 256 + small;
      EXPECT(rounded);
      EXPECT(largest(got) > 0);
    }
    // qkv, output and pooler; two layers of FFNs or of four experts. Not: embeddings, routers, the float32
    // classifier, experts that a mixture merges before it uses them.
    const int64_t outside = 2 * 4 * 64 + 64, inside = (kind == "none" ? 1 : 4) * 2 * 2 * 8 * 16;
    const bool mixture = kind.find(':') != std::string::npos;
    EXPECT((in_bfloat16 == outside + inside || (mixture && in_bfloat16 == outside)));
    EXPECT(low.parameters().low_size() >= in_bfloat16);
    for (Model* model : {&wide, &low}) AdamW(model->parameters(), {}).step();  // from step 0: |Δp| ≈ rate
    for (const Parameter& p : wide.parameters().all())
      EXPECT(largest_difference(values(p.var.value()), values(low.parameters().get(p.name).var.value())) < 1.1e-4);
  }
}

TEST_CASE("utilisation: agrees with a loop over tokens; rows sum to 1; CLS rows and padding are told apart") {
  Context context(test_device());
  ModelConfig config = tiny_config(context_router());
  Model model(context, config, 11);
  Utilisation u(context, 2, 3, 4);
  std::vector<double> sums(2 * 2 * 3 * 4), rows(2 * 3);
  const std::vector<std::vector<int32_t>> layouts = {{6, 3, 9, 2}, {1, 8}};
  for (size_t i = 0; i < layouts.size(); ++i) {
    const bool padded = i == 1;
    const std::vector<int32_t> keys = padded ? std::vector<int32_t>{1, 5} : std::vector<int32_t>{};
    const Batch batch = tiny_batch(context, layouts[i], config.bert, 3 + i, padded ? 0 : 25, keys);
    const Model::Output out = model.forward(batch, false);
    u.add(out.routings, batch.labels, batch.sequences);
    const auto labels = batch.labels.to_vector<int32_t>();
    for (int l = 0; l < 2; ++l) {
      const auto experts = out.routings[l].experts.to_vector<int32_t>();
      const auto gates = values(out.routings[l].gates.value());
      size_t t = 0;
      for (size_t b = 0; b < layouts[i].size(); ++b)
        for (int32_t p = 0; p < layouts[i][b]; ++p, ++t) {
          if (padded && p >= keys[b]) continue;
          for (int view = 0; view < (p == 0 ? 2 : 1); ++view) {
            if (l == 0) rows[view * 3 + labels[b]] += 1;
            for (int k = 0; k < 2; ++k)
              sums[((l * 2 + view) * 3 + labels[b]) * 4 + experts[t * 2 + k]] += gates[t * 2 + k];
          }
        }
    }
  }
  const std::vector<Utilisation::Layer> read = u.read();
  for (int l = 0; l < 2; ++l)
    for (int view = 0; view < 2; ++view) {
      const Utilisation::Table& table = view ? read[l].cls : read[l].all;
      for (int c = 0; c < 3; ++c) {
        EXPECT(table.rows[c] == rows[view * 3 + c]);
        double total = 0;
        for (int e = 0; e < 4; ++e) {
          const double expected =
              rows[view * 3 + c] > 0 ? sums[((l * 2 + view) * 3 + c) * 4 + e] / rows[view * 3 + c] : 0;
          EXPECT(std::abs(table.mean[c * 4 + e] - expected) < 1e-7);
          total += table.mean[c * 4 + e];
        }
        EXPECT((rows[view * 3 + c] == 0 || std::abs(total - 1) < 1e-6));
      }
    }
}

TEST_CASE("confusion counts and gathered indices") {
  Context context(test_device());
  const Tensor logits = from_vector<float>(context, {1, 2, 2, 5, 0, 0, 0, 0, 1, 9, 9, 9}, {4, 3});
  const Tensor labels = from_vector<int32_t>(context, {1, 0, 2, -1}, {4}),
               counts = zeros(context, {3, 3}, DType::kFloat64);
  accumulate_confusion(logits, labels, counts);
  accumulate_confusion(logits, labels, counts);
  EXPECT(values(counts) == std::vector<double>{2, 0, 0, 0, 2, 0, 0, 0, 2});
  const Tensor table = from_vector<int32_t>(context, {1, 2, 3, 4, 5, 6}, {3, 2});
  EXPECT(gather_index_rows(table, from_vector<int32_t>(context, {2, -1, 0}, {3})).to_vector<int32_t>() ==
         std::vector<int32_t>{5, 6, -1, -1, 1, 2});
}

TEST_CASE("configurations: each has a router that exists; dense-random-ffn differs from dense in the FFN alone") {
  for (const Configuration& c : configurations()) {
    const MoeConfig moe = c.moe(8, 2, false);
    if (moe.dense()) continue;
    ParameterSet set;
    make_router(moe.router, set, "r", {16, moe.n_experts, moe.top_k});
    EXPECT(set.count() > 0);
  }
  EXPECT(contains(error_of([] { configuration("desne"); }), "expected one of dense, dense-random-ffn"));
  Context context(test_device());
  Model dense(context, tiny_config("none"), 42), random(context, tiny_config("none"), 42);
  random.randomise_ffn(42);
  for (size_t i = 0; i < dense.parameters().all().size(); ++i) {
    const Parameter &a = dense.parameters().all()[i], &b = random.parameters().all()[i];
    const bool changes = contains(a.name, ".ffn.") && contains(a.name, "weight");
    EXPECT((values(a.var.value()) == values(b.var.value())) != changes);
  }
}

// Class c is the sequence in which token c + 1 occurs; CLS is token 0.
Batch toy_batch(Context& context, uint32_t step, const BertConfig& bert) {
  std::vector<int32_t> lengths;
  for (uint64_t b = 0; b < 24; ++b)
    lengths.push_back(3 + static_cast<int32_t>(random_below(6, 1, purpose::kTest, step, b)));
  Batch batch = tiny_batch(context, lengths, bert, 100 + step);
  auto ids = batch.ids.to_vector<int32_t>(), labels = batch.labels.to_vector<int32_t>();
  size_t t = 0;
  for (size_t b = 0; b < lengths.size(); ++b) {
    for (int32_t p = 0; p < lengths[b]; ++p) ids[t + p] = p == 0 ? 0 : 4 + ids[t + p] % 30;
    ids[t + 1 + random_below(static_cast<uint64_t>(lengths[b] - 1), 2, purpose::kTest, step, b)] = labels[b] + 1;
    t += static_cast<size_t>(lengths[b]);
  }
  batch.ids = from_vector(context, ids, {static_cast<int64_t>(ids.size())});
  return batch;
}

TEST_CASE("model: learns a toy task, dense and with every router, in float32 and bfloat16") {
  for (const std::string& kind : model_kinds())
    for (const int mode : {0, 1, 2}) {  // float32; bfloat16; with bfloat16 gradients too
      const DType compute = mode ? DType::kBFloat16 : DType::kFloat32;
      if (mode && kind != "none" && kind != context_router()) continue;
      INFO(kind);
      Context context(test_device(), 42);
      ModelConfig config = tiny_config(kind, compute);
      config.bert.hidden = 32, config.bert.ffn = 64, config.bert.heads = 4, config.bert.dropout = 0.1,
      config.bert.init_std = 0.05;
      config.bfloat16_gradients = mode == 2;
      config.moe.balance = config.moe.energy = 0.01;
      Model model(context, config, 42);
      AdamWOptions o;
      o.learning_rate = 3e-3, o.warmup_steps = 10, o.total_steps = 100;
      AdamW optimiser(model.parameters(), o);
      for (uint32_t i = 0; i < 100; ++i) {
        context.set_step(i);
        model.parameters().clear_gradients();
        backward(model.forward(toy_batch(context, i, config.bert), true).loss);
        optimiser.step();
      }
      EXPECT(optimiser.report().skipped == 0);
      NoGrad no_grad(context);
      const Tensor counts = zeros(context, {3, 3}, DType::kFloat64);
      double ce = 0;
      for (uint32_t i = 0; i < 4; ++i) {
        const Batch batch = toy_batch(context, 1000 + i, config.bert);
        const Model::Output out = model.forward(batch, false);
        accumulate_confusion(out.logits.value(), batch.labels, counts);
        ce += values(out.parts)[0] / 4;
      }
      const std::vector<double> n = values(counts);
      EXPECT((n[0] + n[4] + n[8]) / 96 > 0.9);
      EXPECT(ce < 0.4);
    }
}

}  // namespace
}  // namespace glia::test
