// Weights as people have them: prefixes, shards, types, missing poolers, padded tables, other programs' config.json.
#include "nn/weights/weights.h"

#include <filesystem>
#include <functional>

#include "engine/core/file.h"
#include "moe/warm_start.h"
#include "nn/weights/hugging_face.h"
#include "nn/weights/pretrained.h"
#include "tests/nn/helpers.h"
#include "tests/nn/torch_files.h"

namespace glia::test {
namespace {

struct Place {
  std::filesystem::path path = temporary_path("weights");
  Place() { std::filesystem::create_directories(path); }
  ~Place() { std::filesystem::remove_all(path); }
  std::string operator/(const char* file) const { return (path / file).string(); }
};

// A model, and its tensors under Hugging Face's names.
struct Source {
  Context context{test_device()};
  ModelConfig config = tiny_config("none", DType::kFloat32);
  Model model{context, config, 1};
  std::vector<NamedTensor> tensors(const Place& place) {
    export_hugging_face(place / "source", model.parameters(), {});
    const SafetensorsFile file(place / "source");
    std::vector<NamedTensor> all;
    for (const auto& [name, entry] : file.entries()) {
      all.push_back({name, empty(context, entry.shape)});
      file.read_into(name, all.back().tensor);
    }
    return all;
  }
};

// Everything but what `fresh` names is the source's.
void expect_copied(Source& source, const Weights& weights, const WarmStartOptions& options = {}) {
  Model other(source.context, source.config, 2);
  const WarmStartReport report = warm_start(other, weights, options);
  for (const Parameter& p : source.model.parameters().all()) {
    INFO(p.name);
    const bool fresh = std::find(report.fresh.begin(), report.fresh.end(), p.name) != report.fresh.end();
    if (!fresh) EXPECT(values(p.var.value()) == values(other.parameters().get(p.name).var.value()));
  }
}

TEST_CASE("weights: any prefix is found and said; heads of other tasks are unused, a missing pooler is fresh") {
  const Place place;
  Source source;
  const auto write = [&](const std::string& prefix, bool pooler) {
    std::vector<NamedTensor> all;
    for (const NamedTensor& t : source.tensors(place))
      if (t.name.starts_with("bert.") && (pooler || t.name.find("pooler") == std::string::npos))
        all.push_back({prefix + t.name.substr(5), t.tensor});
    all.push_back({"cls.predictions.bias", full(source.context, {40}, 1)});
    write_safetensors(place / "file", all, {});
    return Weights(place / "file");
  };
  for (const char* prefix : {"", "bert.", "module.bert.", "model.", "0.auto_model.encoder."}) {
    INFO(prefix);
    const Weights weights = write(prefix, true);
    EXPECT(weights.prefix() == prefix);
    EXPECT(weights.layers() == 2);
    expect_copied(source, weights);
  }
  Model other(source.context, source.config, 2);
  const WarmStartReport report = warm_start(other, write("bert.", false), {});
  EXPECT(report.fresh ==
         std::vector<std::string>{"pooler.weight", "pooler.bias", "classifier.weight", "classifier.bias"});
  EXPECT(report.unused == std::vector<std::string>{"cls.predictions.bias"});
}

TEST_CASE("weights: experts start as the dense FFN that they name, times their factor") {
  const Place place;
  Source source;
  write_safetensors(place / "file", source.tensors(place), {});
  ModelConfig config = tiny_config(plain_router(), DType::kFloat32);
  for (const double factor : {1.0, 0.5}) {
    Model model(source.context, config, 2);
    for (const Parameter& p : model.parameters().all())
      if (!p.dense_name.empty()) const_cast<Parameter&>(p).dense_factor = factor;
    WarmStartOptions options;
    options.noise = 0;
    warm_start(model, Weights(place / "file"), options);
    int copies = 0;
    for (const Parameter& p : model.parameters().all()) {
      if (p.dense_name.empty()) continue;
      INFO(p.name);
      const std::vector<double> dense = values(source.model.parameters().get(p.dense_name).var.value()),
                                experts = values(p.var.value());
      for (size_t i = 0; i < experts.size(); ++i) EXPECT(experts[i] == factor * dense[i % dense.size()]);
      ++copies;
    }
    EXPECT(copies == 4 * 2);  // four tensors a layer
  }
}

TEST_CASE(
    "weights: each number of an expert that is a copy has normal noise of its own, by the seed; experts of a file have none") {
  const Place place;
  Source source;
  write_safetensors(place / "file", source.tensors(place), {});
  const ModelConfig config = tiny_config(plain_router(), DType::kFloat32);
  const auto started = [&](const std::string& path, uint64_t seed) {
    auto model = std::make_unique<Model>(source.context, config, 2);
    WarmStartOptions options;
    options.noise = 0.05, options.seed = seed;
    warm_start(*model, Weights(path), options);
    return model;
  };
  const auto model = started(place / "file", 1), again = started(place / "file", 1),
             other = started(place / "file", 2);
  std::vector<double> noise;
  for (const Parameter& p : model->parameters().all()) {
    if (p.dense_name.empty()) continue;
    INFO(p.name);
    const std::vector<double> dense = values(source.model.parameters().get(p.dense_name).var.value()),
                              experts = values(p.var.value());
    EXPECT(values(again->parameters().get(p.name).var.value()) == experts);
    EXPECT(values(other->parameters().get(p.name).var.value()) != experts);
    for (size_t i = 0; i < experts.size(); ++i) noise.push_back(experts[i] - dense[i % dense.size()]);
  }
  double mean = 0, square = 0;
  for (const double n : noise) mean += n / double(noise.size()), square += n * n / double(noise.size());
  EXPECT(std::abs(mean) < 5 * 0.05 / std::sqrt(double(noise.size())));
  EXPECT(std::abs(std::sqrt(square) - 0.05) < 5 * 0.05 / std::sqrt(2 * double(noise.size())));
  std::ranges::sort(noise);
  // Float32 rounds some differences to equal ones; the same noise in two experts or matrices would halve the numbers.
  EXPECT(std::ranges::unique(noise).size() < noise.size() / 4);

  std::vector<NamedTensor> all;
  for (const Parameter& p : model->parameters().all()) all.push_back({p.name, p.var.value()});
  write_safetensors(place / "experts", all, {});
  const auto from_experts = started(place / "experts", 3);
  for (const Parameter& p : model->parameters().all())
    if (!p.dense_name.empty())
      EXPECT(values(from_experts->parameters().get(p.name).var.value()) == values(p.var.value()));
}

namespace {

// A masked-LM model in Hugging Face's names, and another one of its shape.
struct MaskedLmFile {
  const Place place;
  Context context{test_device()};
  ModelConfig config = tiny_config("none", DType::kFloat32);
  Model a, b;
  MaskedLmFile() : a(context, with_head(), 1), b(context, config, 2) {
    a.parameters().redraw(a.parameters().get("mlm.bias"), Init::normal(1), 3);
    export_hugging_face(place / "file", a.parameters(), {});
  }
  const ModelConfig& with_head() {
    config.head = make_masked_lm_head;
    return config;
  }
};

}  // namespace

TEST_CASE("weights: a masked-LM head goes out under Hugging Face's names and comes back; its bias may be padded") {
  MaskedLmFile file;
  auto& [place, context, config, a, b] = file;
  const Weights weights(place / "file");
  for (const char* name : {"cls.predictions.transform.dense.weight", "cls.predictions.transform.LayerNorm.bias",
                           "cls.predictions.bias"})
    EXPECT(weights.find(name) != nullptr);
  const WarmStartReport report = warm_start(b, weights, {});
  EXPECT(report.fresh.empty());
  EXPECT(report.unused.empty());
  EXPECT(values(a.parameters().values()) == values(b.parameters().values()));
  ModelConfig fewer = config;
  fewer.bert.vocabulary = 33;
  Model c(context, fewer, 2);
  warm_start(c, weights, {});
  const std::vector<double> bias = values(a.parameters().get("mlm.bias").var.value());
  EXPECT(values(c.parameters().get("mlm.bias").var.value()) ==
         std::vector<double>(bias.begin(), bias.begin() + 33));
}

TEST_CASE(
    "weights: a masked-LM head with a table or bias of its own is refused; a shared one may have either name") {
  MaskedLmFile file;
  auto& [place, context, config, a, b] = file;
  const Weights exported(place / "file");
  const auto written =
      [&](const std::map<std::string, std::string>& tensors) {  // by name: the one whose numbers it has
        std::vector<NamedTensor> all;
        for (const auto& [name, from] : tensors) {
          const RawTensor& raw = *exported.find(from);
          const Tensor value = empty(context, raw.shape);
          copy_raw(raw, name, value);
          all.push_back({name, value});
        }
        write_safetensors(place / "other", all, {});
        return Weights(place / "other");
      };
  std::map<std::string, std::string> names;
  for (const auto& [name, tensor] : exported.tensors()) names[name] = name;
  written(names).require_shared_table();
  const std::string head = "cls.predictions.", words = "bert.embeddings.word_embeddings.weight";
  auto shared = names;
  shared[head + "decoder.weight"] = words, shared[head + "decoder.bias"] = head + "bias";
  written(shared).require_shared_table();
  shared.erase(head + "bias");
  warm_start(b, written(shared), {});
  EXPECT(values(a.parameters().values()) == values(b.parameters().values()));
  auto own = names;
  own[head + "decoder.weight"] = "bert.encoder.layer.0.output.dense.weight";
  EXPECT(contains(error_of([&] { written(own).require_shared_table(); }),
                  "'cls.predictions.decoder.weight' has other numbers than '" + words + "'"));
}

TEST_CASE("weights: half and bfloat16 files, torch's archive, and shards under an index give the same model") {
  const Place place;
  Source source;
  for (const Parameter& p : source.model.parameters().all()) {  // numbers that every type holds
    Tensor value = p.var.value();
    value.copy_from(cast(cast(value, DType::kBFloat16), DType::kFloat32));
  }
  const std::vector<NamedTensor> all = source.tensors(place);
  std::vector<NamedTensor> low, half[2];
  std::vector<TorchTensor> pickles;
  std::map<std::string, std::string> records{{"archive/byteorder", "little"}};
  std::string index = R"({"weight_map": {)";
  for (size_t i = 0; i < all.size(); ++i) {
    const NamedTensor& t = all[i];
    low.push_back({t.name, cast(t.tensor, i % 2 ? DType::kBFloat16 : DType::kFloat64)});
    half[i % 2].push_back(t);
    index += fmt::format(R"({}"{}": "part{}.safetensors")", i ? ", " : "", t.name, i % 2);
    TorchTensor p{t.name, "FloatStorage", std::to_string(i), t.tensor.numel(), 0, {}, {}};
    int64_t stride = t.tensor.numel();
    for (int d = 0; d < t.tensor.rank(); ++d) {
      p.size.push_back(t.tensor.size(d));
      p.stride.push_back(stride /= t.tensor.size(d));
    }
    records["archive/data/" + p.key] = bytes_of(t.tensor.to_vector<float>());
    pickles.push_back(p);
  }
  records["archive/data.pkl"] = state_dict(pickles);
  write_zip(place / "pytorch_model.bin", records);
  write_safetensors(place / "low", low, {});
  write_safetensors(place / "part0.safetensors", half[0], {});
  write_safetensors(place / "part1.safetensors", half[1], {});
  write_file_atomic(place / "model.safetensors.index.json", index + "}}");
  for (const char* file : {"low", "pytorch_model.bin", "model.safetensors.index.json"}) {
    INFO(file);
    expect_copied(source, Weights(place / file));
  }
  EXPECT(find_pretrained(place.path.string()).weights == place / "model.safetensors.index.json");
  const auto error = [&](const char* text) {
    write_file_atomic(place / "model.safetensors.index.json", text);
    return error_of([&] { Weights(place / "model.safetensors.index.json"); });
  };
  EXPECT(contains(error(R"({"weight_map": {"a": "part0.safetensors"}})"), "'a' should be in part0.safetensors"));
  EXPECT(contains(error(R"({"weight_map": {"a": "", "b": "part0.safetensors"}})"), "the name of a file beside it"));
  // A tensor that is there, but in the other shard: the index is another model's.
  const std::string first = half[0].front().name, second = half[1].front().name;
  const std::string swapped =
      fmt::format(R"({{"weight_map": {{"{}": "part1.safetensors", "{}": "part0.safetensors"}}}})", first, second);
  EXPECT(contains(error(swapped.c_str()), "which does not have it"));
  EXPECT(
      contains(error(R"({"weight_map": {"a": "../part0.safetensors"}})"), "expected the name of a file beside it"));
  EXPECT(contains(error(R"({"weight_map": {"a": "none.safetensors"}})"), "none.safetensors: cannot open"));
  EXPECT(contains(error("{}"), "expected an index with a weight_map"));
}

TEST_CASE(
    "weights: padded words give their first rows, too few are refused; layers are dropped only when asked to") {
  const Place place;
  Source source;
  const auto with_words = [&](int64_t rows) {
    std::vector<NamedTensor> all = source.tensors(place);
    for (NamedTensor& t : all)
      if (t.name.ends_with("word_embeddings.weight")) {
        Tensor words = full(source.context, {rows, 8}, 9);
        words.rows(0, std::min<int64_t>(rows, 40)).copy_from(t.tensor.rows(0, std::min<int64_t>(rows, 40)));
        t.tensor = words;
      }
    write_safetensors(place / "file", all, {});
    return Weights(place / "file");
  };
  expect_copied(source, with_words(64));
  EXPECT(with_words(64).extents().words == 64);
  Model other(source.context, source.config, 2);
  EXPECT(contains(error_of([&] { warm_start(other, with_words(39), {}); }), "expected [40, 8], got [39, 8]"));
  expect_copied(source, with_words(1024));
  EXPECT(contains(error_of([&] { warm_start(other, with_words(1025), {}); }),
                  "has 1025 rows and the vocabulary 40 pieces: expected --vocab to be the one of the weights"));

  ModelConfig low = source.config;
  low.bert.layers = 1;
  Model lower(source.context, low, 2);
  const Weights weights = with_words(40);
  EXPECT(contains(error_of([&] { warm_start(lower, weights, {}); }),
                  "has 2 encoder layers, and the model 1; --init-layers 1"));
  WarmStartOptions drop;
  drop.drop_layers = true;
  EXPECT(warm_start(lower, weights, drop).unused.size() == 16 + 2);  // a layer's tensors and the classifier
  low.bert.layers = 3;
  Model higher(source.context, low, 2);
  EXPECT(contains(error_of([&] { warm_start(higher, weights, drop); }), "has 2 encoder layers, and the model 3"));
}

TEST_CASE(
    "weights: NaN and infinity name the tensor; pointers of Git LFS, other files and two encoders are named") {
  const Place place;
  Source source;
  // The last is finite in a file of float64, and infinite in the model.
  for (const auto& [bad, dtype] : {std::pair{static_cast<double>(NAN), DType::kFloat32},
                                   {static_cast<double>(INFINITY), DType::kFloat32},
                                   {1e39, DType::kFloat64}}) {
    std::vector<NamedTensor> all = source.tensors(place);
    all[3].tensor = full(source.context, all[3].tensor.shape(), bad, dtype);
    write_safetensors(place / "file", all, {});
    EXPECT(contains(error_of([&] { Weights(place / "file").check_finite(); }),
                    "'" + all[3].name + "' holds a number that is not finite in float32, at element 0"));
  }
  const auto error = [&](const std::string& content) {
    write_file_atomic(place / "file", content);
    return error_of([&] { Weights(place / "file"); });
  };
  EXPECT(contains(error("version https://git-lfs.github.com/spec/v1\noid sha256:01\nsize 5\n"),
                  "a Git LFS pointer: fetch the file itself"));
  EXPECT(contains(error("hello"), "not a usable safetensors file: it has 5 bytes"));
  EXPECT(contains(error(""), "not a usable safetensors file: it is empty"));
  EXPECT(contains(error("<!DOCTYPE html><html>"), "it is a web page; download the file itself"));
  EXPECT(contains(error("\x1F\x8B and so on"), "it is a gzip file; unpack it"));
  std::string deep = little_endian(100000, 8) + std::string(100000, '[');
  EXPECT(contains(error(deep), "its header is no JSON object"));
  std::vector<NamedTensor> twice = source.tensors(place);
  for (const NamedTensor& t : source.tensors(place)) twice.push_back({"second." + t.name, t.tensor});
  write_safetensors(place / "file", twice, {});
  EXPECT(contains(error_of([&] { Weights(place / "file"); }),
                  "more than one encoder, under the prefixes 'bert., second.bert.'"));
  write_safetensors(place / "file", {{"x", full(source.context, {1}, 1)}}, {});
  EXPECT(contains(error_of([&] { Weights(place / "file"); }),
                  "expected a tensor 'embeddings.word_embeddings.weight'"));
}

TEST_CASE("weights: config.json gives the shape; what this encoder does not do is refused by its key") {
  const Place place;
  write_file_atomic(place / "model.safetensors", "");
  BertConfig shape;
  shape.layers = 3, shape.hidden = 24, shape.heads = 6, shape.ffn = 48, shape.vocabulary = 99, shape.positions = 64;
  shape.types = 1, shape.layer_norm_eps = 1e-5;
  const auto read = [&](const std::function<void(nlohmann::ordered_json&)>& change) {
    nlohmann::ordered_json json = hugging_face_config(shape, "BertForSequenceClassification", {"a", "b"});
    change(json);
    write_file_atomic(place / "config.json", json.dump());
    return find_pretrained(place.path.string());
  };
  const Pretrained p = read([](auto&) {});
  EXPECT(p.config == place / "config.json");
  EXPECT(p.shape.layers == 3);
  EXPECT(p.shape.hidden == 24);
  EXPECT(p.shape.heads == 6);
  EXPECT(p.shape.ffn == 48);
  EXPECT(p.shape.vocabulary == 99);
  EXPECT(p.shape.positions == 64);
  EXPECT(p.shape.types == 1);
  EXPECT(p.shape.layer_norm_eps == 1e-5);
  EXPECT(!p.ours);
  const auto refused = [&](const char* key, nlohmann::ordered_json value) {
    return error_of([&] { read([&](auto& json) { json[key] = value; }); });
  };
  for (const auto& [key, value] :
       std::vector<std::pair<const char*, nlohmann::ordered_json>>{{"hidden_act", "gelu_new"},
                                                                   {"hidden_act", "relu"},
                                                                   {"model_type", "roberta"},
                                                                   {"position_embedding_type", "relative_key"},
                                                                   {"is_decoder", true},
                                                                   {"quantization_config", {{"bits", 4}}},
                                                                   {"pruned_heads", {{"0", {1}}}},
                                                                   {"embedding_size", 8}}) {
    INFO(key);
    const std::string error = refused(key, value);
    EXPECT(contains(error, place / "config.json"));
    EXPECT(contains(error, key));
    EXPECT(contains(error, value.is_string() ? value.dump() : key));
  }
  EXPECT(contains(refused("num_hidden_layers", "4"),
                  "expected a whole number above 0 as num_hidden_layers, got \"4\""));
  EXPECT(contains(refused("num_attention_heads", 5), "no multiple of num_attention_heads 5"));
  EXPECT(contains(refused("layer_norm_eps", 0), "layer_norm_eps"));
  EXPECT(read([](auto& json) { json["hidden_act"] = "gelu_python"; }).shape.layers == 3);
  // Models of ours that no BERT is say so, and need what is kept of them under glia.
  EXPECT(contains(refused("model_type", "glia-lm"), "expected an object as glia, got nothing"));
  const auto ours = [&](const char* type, const char* norm) {
    return read([&](auto& json) {
      json["model_type"] = type;
      json["glia"] = {
          {"model",
           {{"layers", 3}, {"hidden", 24}, {"heads", 6}, {"ffn", 48}, {"vocabulary", 99}, {"norm", norm}}}};
    });
  };
  EXPECT(ours("glia-pre-norm", "pre").shape.pre_norm);
  EXPECT(!ours("bert", "post").shape.pre_norm);
  EXPECT(!ours("glia-moe", "post").language_model);
  EXPECT(ours("glia-lm", "pre").language_model);
  // Changed in transformers, which keeps our part as it was: its own keys count.
  const Pretrained changed = read([](auto& json) {
    json["glia"] = {{"model", {{"layers", 3}, {"hidden", 24}, {"heads", 6}, {"ffn", 48}, {"vocabulary", 90}}},
                    {"data", {{"class_names", {"a", "b"}}}}};
    json["id2label"] = {{"0", "b"}, {"1", "a"}, {"2", "c"}};
  });
  EXPECT(changed.shape.vocabulary == 99);
  EXPECT(changed.class_names == std::vector<std::string>{"b", "a", "c"});
  // A file in that folder is read as the folder is; a file among others comes alone.
  EXPECT(find_pretrained(place / "model.safetensors").shape.heads == 6);
  std::filesystem::remove(place / "config.json");
  EXPECT(find_pretrained(place / "model.safetensors").config.empty());
  std::filesystem::remove(place / "model.safetensors");
  EXPECT(contains(error_of([&] { find_pretrained(place.path.string()); }), "found none of them"));
}

}  // namespace
}  // namespace glia::test
