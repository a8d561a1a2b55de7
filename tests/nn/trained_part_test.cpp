// What is trained: patterns, and that a frozen parameter keeps its bits, has no gradient, no moments, and changes no other's.
#include "nn/trained_part.h"

#include "engine/ops/loss/softmax.h"
#include "nn/optimizer.h"
#include "nn/weights/checkpoint.h"
#include "tests/nn/helpers.h"

namespace glia::test {
namespace {

TEST_CASE("trained part: patterns with * and ?") {
  for (const auto& [pattern, name] : {std::pair{"*", "a.b"},
                                      {"a.*", "a.b.c"},
                                      {"a.?.c", "a.b.c"},
                                      {"*.c", "a.b.c"},
                                      {"a*b*c", "axxbyyc"},
                                      {"abc", "abc"},
                                      {"a**", "a"}})
    EXPECT(matches(pattern, name));
  for (const auto& [pattern, name] :
       {std::pair{"a", "ab"}, {"a.?", "a."}, {"*.d", "a.b.c"}, {"", "a"}, {"a*b", "axc"}, {"?", ""}})
    EXPECT(!matches(pattern, name));
}

// One step's losses, gradients and updates with these patterns.
struct Step {
  Context context{test_device(), 4};
  std::unique_ptr<Model> model;
  std::unique_ptr<AdamW> optimiser;
  std::map<std::string, std::vector<double>> before, gradient, after;
  double loss = 0;

  explicit Step(const TrainedPart& part, const std::string& router = plain_router(),
                DType compute = DType::kFloat64, bool wait = false, double rate = 0.01,
                double weight_decay = 0.01) {
    ModelConfig config = tiny_config(router, compute);
    config.trained = part;
    config.bfloat16_gradients = compute == DType::kBFloat16;
    model = std::make_unique<Model>(context, config, 3);
    AdamWOptions options;
    options.learning_rate = rate, options.weight_decay = weight_decay;
    options.warmup_steps = 0, options.total_steps = 10, options.clip = 0;
    optimiser = std::make_unique<AdamW>(model->parameters(), options, wait);
    ParameterSet& set = model->parameters();
    for (const Parameter& p : set.all()) before[p.name] = values(p.var.value());
    context.set_step(0);
    const Model::Output out = model->forward(tiny_batch(context, {6, 3, 9}, config.bert), true);
    loss = out.loss.value().item();
    backward(out.loss);
    for (const Parameter& p : set.all())
      if (!p.frozen && p.var.grad().defined()) gradient[p.name] = values(p.var.grad());
    optimiser->step();
    set.values();  // no row waits
    for (const Parameter& p : set.all()) after[p.name] = values(p.var.value());
  }
};

TEST_CASE(
    "trained part: each parameter may be frozen; it keeps its bits and every other one its gradient and update") {
  for (const std::string& router : {std::string("none"), context_router()}) {
    const Step all({}, router);
    for (const Parameter& p : all.model->parameters().all()) {
      INFO(router, " ", p.name);
      const Step one({p.name, ""}, router);
      EXPECT(one.loss == all.loss);
      EXPECT(one.after.at(p.name) == all.before.at(p.name));
      EXPECT(!one.gradient.contains(p.name));
      EXPECT(one.model->parameters().trained_size() < one.model->parameters().flat_size());
      for (const auto& [name, g] : one.gradient) {
        EXPECT(largest_difference(g, all.gradient.at(name)) == 0);
        EXPECT(largest_difference(one.after.at(name), all.after.at(name)) == 0);
      }
    }
  }
}

TEST_CASE("trained part: in mixed precision too, and with rows that wait") {
  for (const char* pattern :
       {"embeddings.*", "encoder.layer.0.*", "*.experts.*,*.ffn.*", "*.attention.*", "*.router.*"})
    for (const std::string& router : {std::string("none"), context_router()}) {
      if (std::string(pattern).find("router") != std::string::npos && router == "none") continue;
      INFO(pattern, " ", router);
      const TrainedPart part{router == "none" && std::string(pattern).find("experts") != std::string::npos
                                 ? "*.ffn.*"
                             : std::string(pattern).find("experts") != std::string::npos ? "*.experts.*"
                                                                                         : pattern,
                             ""};
      const Step all({}, router, DType::kBFloat16, true), some(part, router, DType::kBFloat16, true);
      EXPECT(some.loss == all.loss);
      int64_t frozen = 0;
      for (const Parameter& p : some.model->parameters().all()) {
        if (!p.frozen) {
          EXPECT(some.gradient.at(p.name) == all.gradient.at(p.name));
          continue;
        }
        ++frozen;
        EXPECT(some.after.at(p.name) == all.before.at(p.name));
      }
      EXPECT(frozen > 0);
    }
}

TEST_CASE("trained part: only these, all but those with exceptions; memory shrinks with what is frozen") {
  const Step last({"", "encoder.layer.1.*,classifier.*"});
  for (const Parameter& p : last.model->parameters().all())
    EXPECT(p.frozen == !(p.name.starts_with("encoder.layer.1.") || p.name.starts_with("classifier.")));
  EXPECT(last.optimiser->m().numel() == last.model->parameters().trained_size());
  EXPECT(last.gradient.contains("encoder.layer.1.attention.qkv.weight"));
  const Step but({"encoder.*", "*.norm.*"});
  for (const Parameter& p : but.model->parameters().all())
    EXPECT(p.frozen == (p.name.starts_with("encoder.") && !contains(p.name, ".norm.")));
  EXPECT(contains(describe_trained(last.model->parameters()), "trained: "));
}

TEST_CASE("trained part: a rate and a decay of some are what they would be of all, and the others' bits stay") {
  for (const DType compute : {DType::kFloat64, DType::kFloat32}) {
    const std::string pattern = "encoder.layer.1.*";
    const Step all({}, plain_router(), compute, true), fast({}, plain_router(), compute, true, 0.05, 0.3),
        some({"", "",
              "*=0.7," + pattern + "=0.05,embeddings.*=0.01,classifier.*=0.01,pooler.*=0.01,encoder.layer.0.*=0.01",
              pattern + "=0.3"},
             plain_router(), compute, true);
    for (const Parameter& p : some.model->parameters().all()) {
      INFO(p.name);
      const bool own = p.name.starts_with("encoder.layer.1.");
      const double worst = largest_difference(some.after.at(p.name), (own ? fast : all).after.at(p.name));
      EXPECT(worst < (compute == DType::kFloat64 ? 1e-15 : 1e-7));
      EXPECT(some.after.at(p.name) != (own ? all : fast).after.at(p.name));
    }
    EXPECT(some.model->parameters().groups().size() == 3);  // of layer 1 those that decay and those that do not
  }
  // A group with the optimiser's own numbers is no group that one could tell.
  const Step plain({}), grouped({"", "", "encoder.*=0.01", "*.weight=0.01"});
  for (const auto& [name, after] : plain.after) EXPECT(grouped.after.at(name) == after);
  EXPECT(contains(describe_trained(grouped.model->parameters()), "; a rate of 0.01 and a decay of 0.01 for "));
}

TEST_CASE("trained part: of bfloat16 gradients a group's are float32, and its checkpoint goes on") {
  const TrainedPart part{"", "", "encoder.*=0.02", ""};
  Step a(part, plain_router(), DType::kBFloat16), b(part, plain_router(), DType::kBFloat16, false, 0.01, 0);
  EXPECT(a.model->parameters().low_size() > 0);
  for (const Parameter& p : a.model->parameters().all())
    if (p.grouped()) EXPECT(p.var.grad().dtype() == DType::kFloat32);
  const std::string path = temporary_path("groups");
  save_checkpoint(path, a.model->parameters(), a.optimiser.get(), {}, {1, 4, "", ""});
  load_checkpoint(path, b.model->parameters(), b.optimiser.get(), {});
  EXPECT(values(a.model->parameters().values()) == values(b.model->parameters().values()));
  EXPECT(values(a.optimiser->m()) == values(b.optimiser->m()));
  std::filesystem::remove(path);
}

TEST_CASE("trained part: a checkpoint with frozen parameters goes on with the same bits") {
  Step a({"embeddings.*", ""}), b({"embeddings.*", ""});
  const std::string path = temporary_path("frozen");
  save_checkpoint(path, a.model->parameters(), a.optimiser.get(), {}, {1, 4, "", ""});
  for (const Parameter& p : b.model->parameters().all()) Tensor(p.var.value()).zero();
  load_checkpoint(path, b.model->parameters(), b.optimiser.get(), {});
  EXPECT(values(a.model->parameters().values()) == values(b.model->parameters().values()));
  EXPECT(values(a.optimiser->v()) == values(b.optimiser->v()));
  std::filesystem::remove(path);
}

TEST_CASE("trained part: a pattern that names nothing, and nothing left to train, are errors") {
  EXPECT(contains(error_of([] {
                    Step({"encoder.layer.7.*", ""});
                  }),
                  "--freeze encoder.layer.7.*: expected a pattern"));
  EXPECT(contains(error_of([] { Step({"", "pooler"}); }), "--train pooler"));
  EXPECT(contains(error_of([] { Step({"*", ""}); }), "nothing is left to train"));
  for (const char* bad : {"encoder.*", "encoder.*=fast", "encoder.*=-1", "encoder.*=inf"})
    EXPECT(contains(error_of([bad] { Step({"", "", bad, ""}); }), "expected PATTERN=VALUE"));
  EXPECT(contains(error_of([] {
                    Step({"", "", "", "encoder.layer.7.*=1"});
                  }),
                  "--weight-decay-of encoder.layer.7.*"));
}

}  // namespace
}  // namespace glia::test
