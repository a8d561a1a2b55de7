#include "nn/weights/checkpoint.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "engine/core/file.h"
#include "moe/warm_start.h"
#include "nn/weights/hugging_face.h"
#include "tests/nn/helpers.h"
#include "tests/temporary_folder.h"

namespace glia::test {
namespace {

ModelConfig with_dropout(const std::string& router, DType compute) {
  ModelConfig c = tiny_config(router, compute);
  c.bert.dropout = 0.2;
  return c;
}

struct Trainer {
  Context context{test_device(), 42};
  Model model;
  AdamW optimiser;
  Trainer(const ModelConfig& config, uint64_t seed)
      : model(context, config, seed), optimiser(model.parameters(), options()) {}
  static AdamWOptions options() {
    AdamWOptions o;
    o.learning_rate = 0.01, o.warmup_steps = 2, o.total_steps = 20;
    return o;
  }
  void run(uint32_t from, uint32_t to) {
    for (uint32_t i = from; i < to; ++i) {
      context.set_step(i);
      model.parameters().clear_gradients();
      const Model::Output out = model.forward(tiny_batch(context, {6, 3, 9}, model.config().bert, i), true);
      backward(out.loss);
      optimiser.step();
      StepRoutings step;
      step.add(out.routings);
      model.after_step(step);
    }
  }
};

TEST_CASE(
    "checkpoint: save, run, load, run again gives the same bits with every router; values, moments, state, step and "
    "configuration come back") {
  const TemporaryFolder folder("resume");
  std::vector<std::pair<std::string, DType>> all;
  for (const RouterRow& row : router_registry())
    for (const DType compute : {DType::kFloat32, DType::kBFloat16, DType::kFloat64})
      all.emplace_back(row.name, compute);
  for (const auto& [router, compute] : all) {
    INFO(router);
    const ModelConfig config = with_dropout(router, compute);
    const std::string path = folder / "model.safetensors";
    Trainer a(config, 42);
    a.run(0, 4);
    save_checkpoint(path, a.model.parameters(), &a.optimiser, a.model.router_state(),
                    {4, 42, R"({"x": "ä"})", "p"});
    a.run(4, 8);
    Trainer b(config, 43);  // other numbers, all of which must be replaced
    const CheckpointInfo info = load_checkpoint(path, b.model.parameters(), &b.optimiser, b.model.router_state());
    EXPECT(info.step == 4);
    EXPECT(info.seed == 42);
    EXPECT(info.config == R"({"x": "ä"})");
    EXPECT(info.progress == "p");
    b.run(4, 8);
    EXPECT(values(a.model.parameters().values()) == values(b.model.parameters().values()));
    EXPECT(values(a.optimiser.m()) == values(b.optimiser.m()));
    EXPECT(values(a.optimiser.v()) == values(b.optimiser.v()));
    for (size_t i = 0; i < a.model.router_state().size(); ++i) {
      EXPECT(values(a.model.router_state()[i].value) == values(b.model.router_state()[i].value));
      EXPECT(largest(values(a.model.router_state()[i].value)) > 0);
    }
    if (compute == DType::kBFloat16)
      EXPECT(values(a.model.parameters().copy()) == values(b.model.parameters().copy()));
    // The same run twice writes the same bytes.
    save_checkpoint(folder / "a", a.model.parameters(), &a.optimiser, {}, {8, 42, "", ""});
    save_checkpoint(folder / "b", b.model.parameters(), &b.optimiser, {}, {8, 42, "", ""});
    EXPECT(read_file(folder / "a") == read_file(folder / "b"));
  }
}

TEST_CASE(
    "checkpoint: cut anywhere, altered anywhere, or not one of ours: refused with the path, and nothing is "
    "loaded") {
  const TemporaryFolder folder("damage");
  Trainer t(tiny_config(plain_router(), DType::kFloat32), 42);
  const std::string path = folder / "good", bad = folder / "bad";
  save_checkpoint(path, t.model.parameters(), nullptr, {}, {1, 42, "{}", ""});
  const std::string good = read_file(path);
  const auto load = [&] { load_checkpoint(bad, t.model.parameters(), nullptr, {}); };
  write_file_atomic(bad, good);
  EXPECT(error_of(load).empty());
  const std::vector<double> before = values(t.model.parameters().values());
  for (size_t n = 0; n < good.size(); n += 1 + good.size() / 97) {
    write_file_atomic(bad, good.substr(0, n));
    EXPECT(contains(error_of(load), bad + ":"));
  }
  for (size_t at = 0; at < good.size(); at += 1 + (at > 8 ? good.size() / 211 : 0)) {
    std::string altered = good;
    altered[at] = static_cast<char>(altered[at] ^ 1);
    write_file_atomic(bad, altered);
    INFO(at);
    EXPECT(contains(error_of(load), bad + ":"));
  }
  write_file_atomic(bad, good + "x");
  EXPECT(contains(error_of(load), "follow the last tensor"));
  write_safetensors(bad, {{"w", full(t.context, {3}, 1)}}, {});
  EXPECT(contains(error_of(load), "expected a checkpoint"));
  std::filesystem::remove(bad);
  EXPECT(contains(error_of(load), "cannot open"));
  EXPECT(values(t.model.parameters().values()) == before);
}

TEST_CASE("checkpoint: another model's file is refused by name and shape; without moments there is no resuming") {
  const TemporaryFolder folder("other");
  Trainer dense(tiny_config("none", DType::kFloat32), 1), moe(tiny_config(plain_router(), DType::kFloat32), 1);
  const std::string path = folder / "dense";
  save_checkpoint(path, dense.model.parameters(), nullptr, {}, {});
  EXPECT(
      contains(error_of([&] { load_checkpoint(path, moe.model.parameters(), nullptr, {}); }), "expected a tensor"));
  EXPECT(contains(error_of([&] { load_checkpoint(path, dense.model.parameters(), &dense.optimiser, {}); }),
                  "'adamw.m."));
  ModelConfig wider = tiny_config("none", DType::kFloat32);
  wider.bert.classes = 5;
  Trainer other(wider, 1);
  EXPECT(contains(error_of([&] { load_checkpoint(path, other.model.parameters(), nullptr, {}); }),
                  "expected [5, 8], got [3, 8]"));
  Trainer more(tiny_config(context_router(), DType::kFloat32), 1);
  save_checkpoint(path, more.model.parameters(), nullptr, {}, {});
  EXPECT(
      contains(error_of([&] { load_checkpoint(path, moe.model.parameters(), nullptr, {}); }), "not in this model"));
}

// A hand-made file: header text, then data.
void write_raw(const std::string& path, const std::string& header, const std::string& data) {
  std::string content(8, '\0');
  const uint64_t n = header.size();
  std::memcpy(content.data(), &n, 8);
  write_file_atomic(path, content + header + data);
}

TEST_CASE(
    "safetensors: files of other programs: half, bfloat16 and float64 are converted; malformed headers are "
    "refused") {
  const TemporaryFolder folder("format");
  const std::string path = folder / "f";
  Context context(test_device());
  const uint16_t half[] = {0x3c00, 0xc000, 0x0001, 0x7bff}, brain[] = {0x3f80, 0xc000, 0x3e80, 0x4300};
  const double wide[] = {1, -2, 0.25, 128};
  std::string data(reinterpret_cast<const char*>(half), 8);
  data.append(reinterpret_cast<const char*>(brain), 8).append(reinterpret_cast<const char*>(wide), 32);
  write_raw(
      path,
      R"({"h":{"dtype":"F16","shape":[4],"data_offsets":[0,8]},"b":{"dtype":"BF16","shape":[2,2],"data_offsets":[8,16]},)"
      R"("d":{"dtype":"F64","shape":[4],"data_offsets":[16,48]}}   )",
      data);
  const SafetensorsFile file(path);
  const auto read = [&](const char* name, Shape shape) {
    Tensor t = empty(context, shape);
    file.read_into(name, t);
    return values(t);
  };
  EXPECT(read("h", {4}) == std::vector<double>{1, -2, 0x1p-24, 65504});
  EXPECT(read("b", {2, 2}) == std::vector<double>{1, -2, 0.25, 128});
  EXPECT(read("d", {4}) == std::vector<double>{1, -2, 0.25, 128});
  EXPECT(contains(error_of([&] { read("b", {4}); }), "'b': expected [4], got [2, 2]"));
  EXPECT(contains(error_of([&] { read("x", {4}); }), "'x'"));
  const std::pair<const char*, const char*> malformed[] = {
      {R"([1])", "no JSON object"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]})", "no JSON object"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,8]}})", "has 8 bytes"},
      {R"({"a":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}})", "unknown dtype"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,-2e4]}})",
       "expected a list of whole numbers as data_offsets"},
      {R"({"a":{"dtype":"F32","shape":1.5,"data_offsets":[0,4]}})", "expected a list of whole numbers as shape"},
      {R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", "impossible shape"},
      {R"({"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}})", "impossible shape"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})", "cut short"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", "nobody's"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
       "claimed twice"},
      {R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", "malformed header: expected shape of 'a', found none"},
      {R"({"a":[]})", "malformed header: expected dtype of 'a', found none"},
      {R"({"a":{"dtype":3,"shape":[1],"data_offsets":[0,4]}})", "malformed header: 'a': expected text, got number"},
      {R"({"__metadata__":4})", "expected an object as __metadata__, got number"},
      {R"({"__metadata__":{"k":4}})", "'k': expected text, got number"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
       "the key \"a\" stands twice"},
  };
  for (const auto& [header, message] : malformed) {
    write_raw(path, header, std::string(8, '\0'));
    INFO(header);
    EXPECT(contains(error_of([&] { SafetensorsFile f(path); }), message));
  }
}

TEST_CASE(
    "hugging face: exported names, and an export loads back to the same bits, with and without 'bert.' and with "
    "gamma/beta") {
  const TemporaryFolder folder("hf");
  const std::string path = folder / "hf", stripped = folder / "stripped";
  Trainer a(tiny_config("none", DType::kFloat32), 1), b(tiny_config("none", DType::kFloat32), 2);
  a.run(0, 2);  // so that norms and biases are not all 1 and 0
  export_hugging_face(path, a.model.parameters(), {});
  const SafetensorsFile file(path);
  for (const char* name :
       {"bert.embeddings.word_embeddings.weight", "bert.embeddings.position_embeddings.weight",
        "bert.embeddings.LayerNorm.bias", "bert.embeddings.token_type_embeddings.weight",
        "bert.encoder.layer.1.attention.self.query.weight", "bert.encoder.layer.0.attention.self.value.bias",
        "bert.encoder.layer.0.attention.output.dense.weight",
        "bert.encoder.layer.1.attention.output.LayerNorm.weight", "bert.encoder.layer.0.intermediate.dense.bias",
        "bert.encoder.layer.1.output.dense.weight", "bert.encoder.layer.1.output.LayerNorm.bias",
        "bert.pooler.dense.weight", "classifier.weight"})
    EXPECT(file.contains(name));
  EXPECT(file.entries().size() == a.model.parameters().all().size() + 2 * 2 * 2);
  const std::vector<double> qkv =
      values(a.model.parameters().get("encoder.layer.0.attention.qkv.weight").var.value());
  Tensor key = empty(a.context, {8, 8});
  file.read_into("bert.encoder.layer.0.attention.self.key.weight", key);
  EXPECT(values(key) == std::vector<double>(qkv.begin() + 64, qkv.begin() + 128));

  std::vector<NamedTensor> old;
  for (const auto& [name, entry] : file.entries()) {
    Tensor t = empty(a.context, entry.shape);
    file.read_into(name, t);
    std::string n = name.starts_with("bert.") ? name.substr(5) : name;
    if (const size_t at = n.find("LayerNorm.weight"); at != std::string::npos) n.replace(at, 16, "LayerNorm.gamma");
    if (const size_t at = n.find("LayerNorm.bias"); at != std::string::npos) n.replace(at, 14, "LayerNorm.beta");
    old.push_back({n, t});
  }
  write_safetensors(stripped, old, {});
  for (const std::string& source : {path, stripped}) {
    const WarmStartReport report = warm_start(b.model, Weights(source), {});
    EXPECT(report.fresh == std::vector<std::string>{"classifier.weight", "classifier.bias"});
    for (size_t i = 0; i < a.model.parameters().all().size(); ++i) {
      const Parameter &p = a.model.parameters().all()[i], &q = b.model.parameters().all()[i];
      if (!contains(p.name, "classifier")) EXPECT(values(p.var.value()) == values(q.var.value()));
    }
  }
}

TEST_CASE(
    "warm start: every expert is the dense FFN plus N(0, 1e-4), routers stay fresh, the second norm copies the "
    "first") {
  const TemporaryFolder folder("warm");
  const std::string path = folder / "hf";
  Trainer dense(tiny_config("none", DType::kFloat32), 1);
  dense.run(0, 2);
  export_hugging_face(path, dense.model.parameters(), {});
  ModelConfig config = tiny_config(context_router(), DType::kBFloat16);
  config.moe.second_residual = true;
  Trainer moe(config, 2), untouched(config, 2);
  warm_start(moe.model, Weights(path), {});
  const auto of = [](Trainer& t, const std::string& name) {
    return values(t.model.parameters().get(name).var.value());
  };
  for (const std::string part : {"up.weight", "up.bias", "down.weight", "down.bias"}) {
    const std::vector<double> one = of(dense, "encoder.layer.1.ffn." + part),
                              all = of(moe, "encoder.layer.1.moe.experts." + part);
    REQUIRE(all.size() == 4 * one.size());
    double squares = 0;
    for (size_t i = 0; i < all.size(); ++i) squares += std::pow(all[i] - one[i % one.size()], 2);
    const double std = std::sqrt(squares / static_cast<double>(all.size()));
    EXPECT(std > 0.7e-4);
    EXPECT(std < 1.3e-4);
  }
  EXPECT(of(moe, "encoder.layer.0.second_norm.weight") == of(dense, "encoder.layer.0.attention.norm.weight"));
  EXPECT(of(moe, "encoder.layer.0.moe.router.token.weight") ==
         of(untouched, "encoder.layer.0.moe.router.token.weight"));
  EXPECT(of(moe, "embeddings.word.weight") == of(dense, "embeddings.word.weight"));
  EXPECT(values(moe.model.parameters().copy()) == values(cast(moe.model.parameters().values(), DType::kBFloat16)));

  WarmStartOptions random;
  random.copy_ffn = false;
  Trainer fresh(tiny_config("none", DType::kFloat32), 3), before(tiny_config("none", DType::kFloat32), 3);
  warm_start(fresh.model, Weights(path), random);
  EXPECT(of(fresh, "encoder.layer.0.ffn.up.weight") == of(before, "encoder.layer.0.ffn.up.weight"));
  EXPECT(of(fresh, "pooler.weight") == of(dense, "pooler.weight"));

  write_safetensors(path, {{"bert.pooler.dense.weight", full(dense.context, {8, 8}, 1)}}, {});
  EXPECT(
      contains(error_of([&] { warm_start(fresh.model, Weights(path), {}); }), "embeddings.word_embeddings.weight"));
}

}  // namespace
}  // namespace glia::test
